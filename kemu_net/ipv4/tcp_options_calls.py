"""Socket options of the level TCP (2.6.23 net/ipv4/tcp.c: tcp_setsockopt(), tcp_getsockopt()).

Interface
    TcpOptionsCalls.tcp_setsockopt(sk, optname, value) -> 0 or -errno
    tcp_getsockopt(sk, optname) -> (0, value) or (-errno, None)

Rules
    * A value is an int; TCP_CONGESTION's is a name, TCP_INFO's a TcpInfo.
    * Times are seconds to a program and jiffies in the socket.
    * Left out: MD5 keys.
"""

from __future__ import annotations

from typing import Any, Final

from kemu.kernel.errno import EINVAL, ENOENT, ENOPROTOOPT
from kemu.kernel.timer import HZ
from kemu_net.core.sock import SOCK_KEEPOPEN, SOCK_MIN_RCVBUF
from kemu_net.core.uapi import (
    TCP_CONGESTION,
    TCP_CORK,
    TCP_DEFER_ACCEPT,
    TCP_INFO,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_LINGER2,
    TCP_MAXSEG,
    TCP_NODELAY,
    TCP_QUICKACK,
    TCP_SYNCNT,
    TCP_WINDOW_CLAMP,
)
from kemu_net.ipv4.tcp_connect import TcpConnect
from kemu_net.ipv4.tcp_info import tcp_info
from kemu_net.ipv4.tcp_sock import (
    ICSK_ACK_PUSHED,
    ICSK_ACK_SCHED,
    MAX_TCP_WINDOW,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_TIMEOUT_INIT,
    TcpSock,
)
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_LISTEN

CONGESTION_CONTROL: Final = "reno"  # the only one
_MAX_KEEPIDLE: Final = 32767
_MAX_COUNT: Final = 127


class TcpOptionsCalls(TcpConnect):
    """setsockopt() and getsockopt()."""

    def tcp_setsockopt(self, sk: TcpSock, optname: int, value: Any) -> int:
        """Set an option (``tcp_setsockopt()``): 0, -EINVAL, -ENOENT, -ENOPROTOOPT."""
        if optname == TCP_CONGESTION:
            name = value.decode("latin-1") if isinstance(value, bytes) else value
            if not isinstance(name, str) or not name:
                return -EINVAL
            return 0 if name.split("\0")[0] == CONGESTION_CONTROL else -ENOENT
        if not isinstance(value, int):
            return -EINVAL
        self.socks.lock_sock(sk)
        if optname in (TCP_NODELAY, TCP_CORK, TCP_QUICKACK):
            self._set_pace(sk, optname, value)
            err = 0
        elif optname in (TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT):
            err = self._set_patience(sk, optname, value)
        else:
            err = self._set_limit(sk, optname, value)
        self.socks.release_sock(sk)
        return err

    def _set_pace(self, sk: TcpSock, optname: int, value: int) -> None:
        """When short segments and acknowledgements go."""
        if optname == TCP_QUICKACK:
            sk.ack_pingpong = 0 if value else 1
            if value and sk.sk_state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT) and sk.ack_pending & ICSK_ACK_SCHED:
                sk.ack_pending |= ICSK_ACK_PUSHED
                self.tcp_cleanup_rbuf(sk, 1)
                if not value & 1:
                    sk.ack_pingpong = 1
            return
        if optname == TCP_NODELAY:
            if not value:
                sk.nonagle &= ~TCP_NAGLE_OFF
                return
            sk.nonagle |= TCP_NAGLE_OFF | TCP_NAGLE_PUSH
        else:
            if value:
                sk.nonagle |= TCP_NAGLE_CORK
                return
            sk.nonagle &= ~TCP_NAGLE_CORK
            if sk.nonagle & TCP_NAGLE_OFF:
                sk.nonagle |= TCP_NAGLE_PUSH
        self.tcp_push_pending_frames(sk, self.tcp_current_mss(sk), sk.nonagle)

    def _set_patience(self, sk: TcpSock, optname: int, value: int) -> int:
        """How long silence is suffered."""
        most = _MAX_KEEPIDLE if optname in (TCP_KEEPIDLE, TCP_KEEPINTVL) else _MAX_COUNT
        if not 1 <= value <= most:
            return -EINVAL
        if optname == TCP_KEEPINTVL:
            sk.keepalive_intvl = value * HZ
        elif optname == TCP_KEEPCNT:
            sk.keepalive_probes = value
        elif optname == TCP_SYNCNT:
            sk.syn_retries = value
        else:
            sk.keepalive_time = value * HZ
            if sk.sk_flags & SOCK_KEEPOPEN and sk.sk_state not in (TCP_CLOSE, TCP_LISTEN):
                silent = self.sched.jiffies - sk.rcv_tstamp
                self.inet_csk_reset_keepalive_timer(sk, max(sk.keepalive_time - silent, 0))
        return 0

    def _set_limit(self, sk: TcpSock, optname: int, value: int) -> int:
        """Sizes, and the two ends of a connection."""
        if optname == TCP_MAXSEG:
            if not 8 <= value <= MAX_TCP_WINDOW:
                return -EINVAL
            sk.rx_opt.user_mss = value
        elif optname == TCP_WINDOW_CLAMP:
            if not value and sk.sk_state != TCP_CLOSE:
                return -EINVAL
            sk.window_clamp = max(value, SOCK_MIN_RCVBUF // 2) if value else 0
        elif optname == TCP_LINGER2:
            sk.linger2 = -1 if value < 0 else 0 if value > self.sysctl_tcp_fin_timeout // HZ else value * HZ
        elif optname == TCP_DEFER_ACCEPT:
            retries = 0
            if value > 0:  # seconds become retransmissions of the SYN|ACK
                while retries < 32 and value > TCP_TIMEOUT_INIT // HZ << retries:
                    retries += 1
                retries += 1
            sk.rskq_defer_accept = retries
        else:
            return -ENOPROTOOPT
        return 0

    def tcp_getsockopt(self, sk: TcpSock, optname: int) -> tuple[int, Any]:
        """Give the value of an option (``tcp_getsockopt()``)."""
        if optname == TCP_INFO:
            return 0, tcp_info(sk)
        if optname == TCP_CONGESTION:
            return 0, CONGESTION_CONTROL
        defer = sk.rskq_defer_accept
        values = {
            TCP_MAXSEG: sk.mss_cache,
            TCP_NODELAY: int(bool(sk.nonagle & TCP_NAGLE_OFF)),
            TCP_CORK: int(bool(sk.nonagle & TCP_NAGLE_CORK)),
            TCP_KEEPIDLE: self.keepalive_time_when(sk) // HZ,
            TCP_KEEPINTVL: (sk.keepalive_intvl or self.sysctl_tcp_keepalive_intvl) // HZ,
            TCP_KEEPCNT: sk.keepalive_probes or self.sysctl_tcp_keepalive_probes,
            TCP_SYNCNT: sk.syn_retries or self.sysctl_tcp_syn_retries,
            TCP_LINGER2: -1 if sk.linger2 < 0 else (sk.linger2 or self.sysctl_tcp_fin_timeout) // HZ,
            TCP_DEFER_ACCEPT: TCP_TIMEOUT_INIT // HZ << (defer - 1) if defer else 0,
            TCP_WINDOW_CLAMP: sk.window_clamp,
            TCP_QUICKACK: int(not sk.ack_pingpong),
        }
        return (0, values[optname]) if optname in values else (-ENOPROTOOPT, None)
