"""Opening a connection (2.6.23 af_inet.c: inet_stream_connect(); tcp_ipv4.c: tcp_v4_connect(); tcp_output.c: tcp_connect()).

Interface
    TcpConnect.connect(sk, daddr, dport), connect_nonblock(sk, daddr, dport) -> 0 or -errno; -EINPROGRESS

Rules
    * The SYN is sent again after 3, 6, 12 ... s, sk.syn_retries times or tcp_syn_retries = 5 of the machine; then -ETIMEDOUT.
    * When both sides' SYNs cross, both answer with a SYN|ACK and one connection comes about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import EADDRNOTAVAIL, ECONNABORTED, EINPROGRESS, EISCONN, ENETUNREACH, ENOBUFS
from kemu_net.core.dst import sk_dst_set
from kemu_net.core.sock import SOCK_DONE
from kemu_net.ipv4.tcp_listen import TcpListen
from kemu_net.ipv4.tcp_sock import TCP_MSS_DEFAULT, TCP_TIMEOUT_INIT, TcpSock, ends
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_SYN_RECV, TCP_SYN_SENT

if TYPE_CHECKING:
    from kemu_net.ipv4.tcp_timewait import TimeWaitSock

_CONNECTING = frozenset((TCP_SYN_SENT, TCP_SYN_RECV))


class TcpConnect(TcpListen):
    """The connecting side of socket calls."""

    def connect_nonblock(self, sk: TcpSock, daddr: int, dport: int) -> int:
        """Begin to connect (``inet_stream_connect()`` with O_NONBLOCK): -EINPROGRESS, or why it cannot begin."""
        self.socks.lock_sock(sk)
        err = self._tcp_v4_connect(sk, daddr, dport) or -EINPROGRESS
        self.socks.release_sock(sk)
        return err

    def connect(self, sk: TcpSock, daddr: int, dport: int) -> int:
        """Connect and wait for the answer (``inet_stream_connect()``): 0, or why not; then the socket can try again.

        After SO_SNDTIMEO without an answer it gives -EINPROGRESS, and goes on.
        """
        socks = self.socks
        socks.lock_sock(sk)
        err = self._tcp_v4_connect(sk, daddr, dport)
        if not err:
            left = sk.sk_sndtimeo
            while sk.sk_state in _CONNECTING and left:
                socks.release_sock(sk)
                left = self.sched.wait_event_timeout(sk.sk_sleep, lambda: sk.sk_state not in _CONNECTING, left, ("socket", sk))
                socks.lock_sock(sk)
            if sk.sk_state in _CONNECTING:
                err = -EINPROGRESS
            elif sk.sk_state == TCP_CLOSE:
                err = -(sk.sk_err or ECONNABORTED)
                self._tcp_disconnect(sk)
        socks.release_sock(sk)
        return err

    def _tcp_v4_connect(self, sk: TcpSock, daddr: int, dport: int) -> int:
        """Find a route and a port, send the SYN (``tcp_v4_connect()``, ``tcp_connect()``): 0 or a negative errno."""
        if sk.sk_state != TCP_CLOSE:
            return -EISCONN
        dst = self.inet.ip_route_output(daddr, sk.saddr)
        if isinstance(dst, int):
            return dst if dst == -ENOBUFS else -ENETUNREACH
        sk_dst_set(sk, dst)
        sk.saddr = sk.saddr or dst.saddr
        sk.daddr, sk.dport = daddr, dport
        if sk.bind_bucket is None:
            err = self.inet_csk_get_port(sk, sk.bind_port)
            if err:
                return err
        before = self.ehash.get(ends(sk))
        if before is not None and not self.tcp_twsk_unique(sk, before):
            if not sk.bind_port:
                self.inet_put_port(sk)
            return -EADDRNOTAVAIL
        self._tcp_connect_init(sk, before)
        self.tcp_set_state(sk, "connect")
        self.inet_hash(sk)
        err = self.tcp_connect_send(sk)
        if err:
            self.tcp_set_state(sk, "done")
        return err

    def _tcp_connect_init(self, sk: TcpSock, before: TimeWaitSock | None) -> None:
        """Set everything to the state before a SYN (``tcp_connect_init()``).

        :param before: the connection in TIME_WAIT whose ends are used again.
        """
        self.tcp_set_ports(sk)
        isn = before.isn if before is not None else self.rng.getrandbits(32)
        sk.snd_una = sk.snd_nxt = sk.snd_sml = sk.write_seq = sk.pushed_seq = sk.rtt_seq = isn
        sk.rcv_nxt = sk.rcv_wup = sk.copied_seq = 0
        sk.snd_wnd = sk.max_window = sk.snd_wl1 = 0
        sk.advmss = self.tcp_advmss()
        sk.rx_opt.clear()
        if before is not None:
            sk.rx_opt.ts_recent = before.ts_recent
            sk.rx_opt.ts_recent_stamp = before.ts_recent_stamp
        self.tcp_initialize_mss(sk, sk.rx_opt.user_mss or TCP_MSS_DEFAULT)
        self.tcp_select_initial_window(sk)
        sk.sk_err = sk.sk_err_soft = 0
        sk.sk_shutdown = 0
        sk.sk_flags &= ~SOCK_DONE
        sk.rto = TCP_TIMEOUT_INIT
        sk.retransmits = sk.backoff = 0
