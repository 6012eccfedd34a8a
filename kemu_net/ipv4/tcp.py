"""TCP's socket calls (2.6.23 net/ipv4/tcp.c, af_inet.c), as the kernel's own users make them: RPC, and the server's nfsd.

Interface (methods of Tcp; errors are negative errnos)
    sock_create() -> TcpSock | None
    bind(sk, addr, port), connect(sk, daddr, dport), connect_nonblock(sk, daddr, dport) -> 0 or -errno; -EINPROGRESS
    listen(sk, backlog), accept(sk, nonblock=False) -> TcpSock | None
    sendmsg(sk, data, more, nonblock), sendpage(sk, page, offset, size, more, nonblock) -> bytes taken, or -errno
    recvmsg(sk, n, nonblock) -> bytes (b"" at the end of the stream), or -errno
    read_sock(sk, actor) -> bytes consumed        softirq-safe; actor(data) gives how much of ``data`` it took
    shutdown(sk), close(sk), abort(sk), disconnect(sk)

Rules
    * ``nonblock`` writes take what fits; with nothing taken they give -EAGAIN, be it room or memory that is missing.
      sk_socket_flags then has SOCK_ASYNC_NOSPACE, and SOCK_NOSPACE if sk_write_space() will report room. When memory is missing
      nothing will: the caller must come back by itself, as in the kernel.
    * ``more`` is MSG_MORE: a short last segment waits for the next call.
    * Pages of sendpage() are not copied: they are read when the device sends, again at each retransmission, and held until
      acknowledged.
    * Process context, except read_sock().
    * Left out: urgent data; socket options as calls (callers set the fields: sk_allocation, nonagle, sk_reuse, syn_retries);
      splice, DMA, poll; linear data beyond one page's worth per segment (with a jumbo MTU, sendmsg() makes segments of 3592 bytes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu.kernel.errno import (
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAGAIN,
    ECONNABORTED,
    EINPROGRESS,
    EINVAL,
    EISCONN,
    ENETUNREACH,
    ENOBUFS,
    ENOTCONN,
    EPIPE,
)
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.page import get_page
from kemu_net.core.skbuff import MAX_SKB_FRAGS, skb_bytes
from kemu_net.core.sock import (
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_DEAD,
    SOCK_DONE,
    SOCK_NOSPACE,
    sock_put,
)
from kemu_net.core.stream import sk_stream_memory_free
from kemu_net.ipv4.tcp_ipv4 import TcpIpv4
from kemu_net.ipv4.tcp_sock import (
    ACK,
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    ICSK_ACK_SCHED,
    MASK,
    PSH,
    SIGN,
    TCP_CA_OPEN,
    TCP_INFINITE_SSTHRESH,
    TCP_NAGLE_PUSH,
    TCP_TIMEOUT_INIT,
    W_FIN,
    W_SYN,
    TcpSock,
    ends,
)
from kemu_net.ipv4.tcp_states import (
    SENDS_FIN,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.page import Page
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.sock import Socks
    from kemu_net.core.stats import NetStats
    from kemu_net.ipv4.inet import Inet

IPPROTO_TCP = 6
_LINEAR_MAX = 4096 - 312 - 192  # SKB_MAX_HEAD(MAX_TCP_HEADER)
_CONNECTING = frozenset((TCP_SYN_SENT, TCP_SYN_RECV))
_SENDING = frozenset((TCP_ESTABLISHED, TCP_CLOSE_WAIT))
_NEED_RESET = frozenset((TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_SYN_RECV))  # tcp_need_reset()
_CLOSING = frozenset((TCP_CLOSING, TCP_LAST_ACK))


class Tcp(TcpIpv4):
    """TCP of one machine."""

    def __init__(self, kernel: Kernel, socks: Socks, skbs: SkbAlloc, inet: Inet, stats: NetStats) -> None:
        super().__init__(kernel, socks, skbs, inet, stats)
        inet.inet_add_protocol(IPPROTO_TCP, self.tcp_v4_rcv)
        for name in ("mem", "rmem", "wmem"):
            vector: list[int] = getattr(self.prot, f"sysctl_{name}")
            kernel.sysctl.register(f"net.ipv4.tcp_{name}", vector.copy, vector.__setitem__, count=3)

    # birth

    def sock_create(self) -> TcpSock | None:
        """Make a socket with its ``struct socket`` and inode (``sock_create_kern()``); may sleep for memory."""
        sk = self.socks.sk_alloc(self.prot, GFP_KERNEL, TcpSock)
        if sk is None:
            return None
        if self.socks.sock_alloc_inode(sk):
            sock_put(sk)
            return None
        self.tcp_v4_init_sock(sk)
        return sk

    def bind(self, sk: TcpSock, addr: int, port: int) -> int:
        """Choose the own address and port (``inet_bind()``): 0, -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL."""
        if not self.inet.is_local(addr):
            return -EADDRNOTAVAIL
        socks = self.socks
        socks.lock_sock(sk)
        err = -EINVAL
        if sk.sk_state == TCP_CLOSE and sk.bind_bucket is None:
            err = self.inet_csk_get_port(sk, port)
            if not err:
                sk.saddr = addr
                sk.bind_port = sk.sport
        socks.release_sock(sk)
        return err

    # connecting

    def connect_nonblock(self, sk: TcpSock, daddr: int, dport: int) -> int:
        """Begin to connect (``inet_stream_connect()`` with O_NONBLOCK): -EINPROGRESS, or why it cannot begin."""
        self.socks.lock_sock(sk)
        err = self._tcp_v4_connect(sk, daddr, dport) or -EINPROGRESS
        self.socks.release_sock(sk)
        return err

    def connect(self, sk: TcpSock, daddr: int, dport: int) -> int:
        """Connect and wait for the answer (``inet_stream_connect()``): 0, or why not; then the socket can try again."""
        socks = self.socks
        socks.lock_sock(sk)
        err = self._tcp_v4_connect(sk, daddr, dport)
        if not err:
            while sk.sk_state in _CONNECTING:
                socks.release_sock(sk)
                self.sched.wait_event(sk.sk_sleep, lambda: sk.sk_state not in _CONNECTING, ("socket", sk))
                socks.lock_sock(sk)
            if sk.sk_state == TCP_CLOSE:
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
        sk.sk_dst = dst
        sk.saddr = sk.saddr or dst.saddr
        sk.daddr, sk.dport = daddr, dport
        if sk.bind_bucket is None:
            err = self.inet_csk_get_port(sk, sk.bind_port)
            if err:
                return err
        if ends(sk) in self.ehash:
            if not sk.bind_port:
                self.inet_put_port(sk)
            return -EADDRNOTAVAIL
        self._tcp_connect_init(sk)
        self.tcp_set_state(sk, "connect")
        self.inet_hash(sk)
        err = self.tcp_connect_send(sk)
        if err:
            self.tcp_set_state(sk, "done")
        return err

    def _tcp_connect_init(self, sk: TcpSock) -> None:
        """Set everything to the state before a SYN (``tcp_connect_init()``)."""
        self.tcp_set_ports(sk)
        isn = self.rng.getrandbits(32)
        sk.snd_una = sk.snd_nxt = sk.snd_sml = sk.write_seq = sk.pushed_seq = sk.rtt_seq = isn
        sk.rcv_nxt = sk.rcv_wup = sk.copied_seq = 0
        sk.snd_wnd = sk.max_window = sk.snd_wl1 = 0
        sk.advmss = self.tcp_advmss()
        self.tcp_select_initial_window(sk)
        sk.sk_err = sk.sk_err_soft = 0
        sk.sk_shutdown = 0
        sk.sk_flags &= ~SOCK_DONE
        sk.rto = TCP_TIMEOUT_INIT
        sk.retransmits = sk.backoff = 0

    def disconnect(self, sk: TcpSock) -> int:
        """Take the connection off the socket, so that it can connect again (``tcp_disconnect()``)."""
        self.socks.lock_sock(sk)
        self._tcp_disconnect(sk)
        self.socks.release_sock(sk)
        return 0

    def _tcp_disconnect(self, sk: TcpSock) -> None:
        """As :meth:`disconnect`, for who owns the socket."""
        old = sk.sk_state
        if old == TCP_LISTEN:
            self._inet_csk_listen_stop(sk)
        elif old in _NEED_RESET or (old in _CLOSING and sk.snd_nxt != sk.write_seq):
            self.tcp_send_active_reset(sk, GFP_KERNEL)
        self.tcp_set_state(sk, "done")
        self.tcp_clear_xmit_timers(sk)
        self.socks.skb_queue_purge(sk.sk_receive_queue)
        self.tcp_write_queue_purge(sk)
        for skb in sk.out_of_order_queue:
            self.skbs.kfree_skb(skb)
        sk.out_of_order_queue.clear()
        self.streams.sk_stream_mem_reclaim(sk)
        sk.dport = sk.daddr = 0
        sk.sk_dst = None
        sk.sk_shutdown = 0
        sk.sk_err = 0
        sk.sk_flags &= ~SOCK_DONE
        sk.srtt = sk.probes_out = sk.backoff = sk.retransmits = 0
        sk.snd_cwnd = 2
        sk.snd_cwnd_cnt = 0
        sk.snd_ssthresh = TCP_INFINITE_SSTHRESH
        sk.ca_state = TCP_CA_OPEN
        sk.ack_pending = sk.ack_quick = sk.ack_pingpong = sk.ack_ato = sk.ack_last_seg_size = 0
        sk.window_clamp = 65535
        sk.pred_flags = 0

    # listening

    def listen(self, sk: TcpSock, backlog: int) -> int:
        """Let others connect (``inet_listen()``): 0, -EINVAL, -EADDRINUSE."""
        self.socks.lock_sock(sk)
        err = -EINVAL
        if sk.sk_state in (TCP_CLOSE, TCP_LISTEN):
            err = 0
            if sk.bind_bucket is None:
                err = self.inet_csk_get_port(sk, 0)
            if not err and self.listening_hash.get(sk.sport) not in (None, sk):
                err = -EADDRINUSE
            if not err:
                sk.sk_max_ack_backlog = backlog
                self.tcp_set_state(sk, "listen")
                self.inet_hash(sk)
        self.socks.release_sock(sk)
        return err

    def accept(self, sk: TcpSock, nonblock: bool = False) -> TcpSock | None:
        """Take the next connection (``inet_csk_accept()``); None when the listener is closed, or there is none (``nonblock``)."""
        socks = self.socks
        socks.lock_sock(sk)
        child = None
        while sk.sk_state == TCP_LISTEN:
            child = self._take_ready_child(sk)
            if child is not None or nonblock:
                break
            socks.release_sock(sk)
            self.sched.wait_event(sk.sk_sleep, lambda: _child_ready(sk) or sk.sk_state != TCP_LISTEN, ("socket", sk))
            socks.lock_sock(sk)
        socks.release_sock(sk)
        if child is not None and socks.sock_alloc_inode(child):
            self.close(child)
            return None
        return child

    def _take_ready_child(self, sk: TcpSock) -> TcpSock | None:
        """Take the oldest connection whose handshake is complete."""
        for child in sk.accept_queue:
            if child.sk_state != TCP_SYN_RECV:
                sk.accept_queue.remove(child)
                sk.sk_ack_backlog -= 1
                child.parent = None
                return child
        return None

    def _inet_csk_listen_stop(self, sk: TcpSock) -> None:
        """Refuse who waits in the two queues of a listener (``inet_csk_listen_stop()``)."""
        for req in list(sk.syn_table.values()):
            self.reqsk_free(sk, req)
        self.sk_stop_timer(sk, sk.listen_timer)
        while sk.accept_queue:
            child = sk.accept_queue.popleft()
            sk.sk_ack_backlog -= 1
            child.parent = None
            self.abort(child)

    # sending

    def _wait_connect(self, sk: TcpSock, nonblock: bool) -> int:
        """Wait until data may be sent (``sk_stream_wait_connect()``): 0 or a negative errno."""
        while sk.sk_state not in _SENDING:
            if sk.sk_err:
                return self._take_error(sk)
            if sk.sk_state not in _CONNECTING:
                return -EPIPE
            if nonblock:
                return -EAGAIN
            self.socks.release_sock(sk)
            self.sched.wait_event(sk.sk_sleep, lambda: sk.sk_state not in _CONNECTING or sk.sk_err != 0, ("socket", sk))
            self.socks.lock_sock(sk)
        if sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
            return self._take_error(sk) or -EPIPE
        return 0

    def _take_error(self, sk: TcpSock) -> int:
        """Give the socket's error once (``sock_error()``)."""
        err = sk.sk_err
        sk.sk_err = 0
        return -err

    def _skb_entail(self, sk: TcpSock, size: int) -> SkBuff | None:
        """Make a segment and put it at the end of the write queue (``skb_entail()``)."""
        skb = self.streams.sk_stream_alloc_pskb(sk, size, 0, sk.sk_allocation)
        if skb is not None:
            skb.seq = skb.end_seq = sk.write_seq
            skb.flags = ACK
            sk.sk_write_queue.append(skb)
            sk.sk_wmem_queued += skb.truesize
            sk.sk_forward_alloc -= skb.truesize
        return skb

    def _push_full(self, sk: TcpSock, skb: SkBuff, mss: int) -> None:
        """Send what the peer should not wait for, when a segment is full while the write goes on."""
        if (sk.pushed_seq + (sk.max_window >> 1) - sk.write_seq) & SIGN:  # forced_push()
            skb.flags |= PSH
            sk.pushed_seq = sk.write_seq
            self.tcp_push_pending_frames(sk, mss, TCP_NAGLE_PUSH)
        elif sk.sk_write_queue[0] is skb:
            self.tcp_push_one(sk, mss)

    def _wait_for_memory(self, sk: TcpSock, copied: int, mss: int, nonblock: bool) -> int:
        """No room, or no memory: send what there is, and wait (``wait_for_sndbuf`` and ``wait_for_memory`` in tcp_sendmsg())."""
        if not sk_stream_memory_free(sk):
            sk.sk_socket_flags |= SOCK_NOSPACE
        if copied:
            self.tcp_push(sk, False, mss, TCP_NAGLE_PUSH)
        return self.streams.sk_stream_wait_memory(sk, nonblock)

    def sendmsg(self, sk: TcpSock, data: bytes, more: bool = False, nonblock: bool = False) -> int:
        """Queue a copy of ``data`` and send what may go (``tcp_sendmsg()``); give the bytes taken, or a negative errno."""
        self.socks.lock_sock(sk)
        copied = 0
        err = 0
        if sk.sk_state not in _SENDING or sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
            err = self._wait_connect(sk, nonblock)
        total = len(data)
        mss = sk.mss_cache
        limit = mss
        if limit > _LINEAR_MAX:
            limit = _LINEAR_MAX
        unsent = sk.sk_write_queue
        segments = 0
        while copied < total and not err:
            skb = unsent[-1] if unsent else None
            if skb is None or skb.len >= limit or skb.data_len or skb.end - 192 < skb.len + 1:
                skb = self._skb_entail(sk, limit) if sk_stream_memory_free(sk) else None
                if skb is None:
                    err = self._wait_for_memory(sk, copied, mss, nonblock)
                    continue
                segments += 1
            room = skb.end - 192
            if room > limit:
                room = limit
            length = skb.len
            piece = data[copied : copied + room - length]
            skb.buf = skb.buf + piece if length else piece
            size = len(piece)
            skb.len = length + size
            if not copied:
                skb.flags &= ~PSH
            copied += size
            sk.write_seq = skb.end_seq = sk.write_seq + size & MASK
            if copied < total and skb.len >= limit:
                self._push_full(sk, skb, mss)
        return self._sent(sk, copied, err, more, mss, segments)

    def _sent(self, sk: TcpSock, copied: int, err: int, more: bool, mss: int, segments: int) -> int:
        """Push, let the time of the work pass, and leave the socket (``out`` in tcp_sendmsg())."""
        if copied:
            self.tcp_push(sk, more, mss, sk.nonagle)
            if segments:
                self.charge_work(segments)
        elif err == -EPIPE and sk.sk_err:
            err = self._take_error(sk)
        self.socks.release_sock(sk)
        return copied or err

    def sendpage(self, sk: TcpSock, page: Page, offset: int, size: int, more: bool = False, nonblock: bool = False) -> int:
        """Queue a part of a page, without a copy, and send what may go (``do_tcp_sendpages()``); as :meth:`sendmsg`."""
        self.socks.lock_sock(sk)
        copied = 0
        err = 0
        if sk.sk_state not in _SENDING or sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
            err = self._wait_connect(sk, nonblock)
        mss = sk.mss_cache
        unsent = sk.sk_write_queue
        segments = 0
        while copied < size and not err:
            skb = unsent[-1] if unsent else None
            if skb is None or skb.len >= mss or (skb.frags is not None and len(skb.frags) >= MAX_SKB_FRAGS):
                skb = self._skb_entail(sk, 0) if sk_stream_memory_free(sk) else None
                if skb is None:
                    err = self._wait_for_memory(sk, copied, mss, nonblock)
                    continue
                segments += 1
            piece = mss - skb.len
            if piece > size - copied:
                piece = size - copied
            if piece > sk.sk_forward_alloc and not self.streams.sk_stream_mem_schedule(sk, piece, 0, None):
                if not skb.len:
                    unsent.pop()
                    self.streams.sk_stream_free_skb(sk, skb)
                err = self._wait_for_memory(sk, copied, mss, nonblock)
                continue
            _add_frag(skb, page, offset + copied, piece)
            sk.sk_wmem_queued += piece
            sk.sk_forward_alloc -= piece
            if not copied:
                skb.flags &= ~PSH
            copied += piece
            sk.write_seq = skb.end_seq = sk.write_seq + piece & MASK
            if copied < size and skb.len >= mss:
                self._push_full(sk, skb, mss)
        return self._sent(sk, copied, err, more, mss, segments)

    # receiving

    def read_sock(self, sk: TcpSock, actor: Callable[[bytes], int]) -> int:
        """Feed queued data to ``actor`` until it takes less than it is given (``tcp_read_sock()``).

        For callbacks in softirq and for who owns the socket; never sleeps.
        """
        if sk.sk_state == TCP_LISTEN:
            return -ENOTCONN
        queue = sk.sk_receive_queue
        copied = 0
        while queue:
            skb = queue[0]
            offset = sk.copied_seq - skb.seq & MASK
            if skb.flags & W_SYN:
                offset -= 1
            if offset < skb.len:
                start = skb.data
                # without fragments in one slice
                data = skb_bytes(skb, offset) if skb.data_len else skb.buf[start + offset : start + skb.len]
                used = actor(data)
                if used <= 0:
                    break
                sk.copied_seq = sk.copied_seq + used & MASK
                copied += used
                if used < len(data):
                    break
            if not queue or queue[0] is not skb:
                break  # the actor emptied the socket
            if skb.flags & W_FIN:
                if sk.copied_seq == (skb.end_seq - 1 & MASK):
                    sk.copied_seq = skb.end_seq
                queue.popleft()
                self.skbs.kfree_skb(skb)
                break
            queue.popleft()
            self.skbs.kfree_skb(skb)
        if copied:
            self.tcp_cleanup_rbuf(sk, copied)
        return copied

    def recvmsg(self, sk: TcpSock, n: int, nonblock: bool = False) -> bytes | int:
        """Read up to ``n`` bytes, waiting for the first (``tcp_recvmsg()``): b"" at the end of the stream, or a negative errno."""
        socks = self.socks
        socks.lock_sock(sk)
        pieces: list[bytes] = []
        wanted = n

        def take(data: bytes) -> int:
            nonlocal wanted
            piece = data[:wanted]
            if piece:
                pieces.append(piece)
                wanted -= len(piece)
            return len(piece)

        result: bytes | int | None = None
        while result is None:
            self.read_sock(sk, take)
            if pieces or not n:
                result = b"".join(pieces)
            elif sk.sk_err:
                result = self._take_error(sk)
            elif sk.sk_flags & SOCK_DONE or sk.sk_shutdown & RCV_SHUTDOWN:
                result = b""
            elif sk.sk_state in (TCP_CLOSE, TCP_LISTEN):
                result = -ENOTCONN
            elif nonblock:
                result = -EAGAIN
            else:
                socks.release_sock(sk)
                self.sched.wait_event(sk.sk_sleep, lambda: _readable(sk), ("socket", sk))
                socks.lock_sock(sk)
        if pieces:
            self.sched.spend(costs.TCP_RX)
        socks.release_sock(sk)
        return result

    def tcp_cleanup_rbuf(self, sk: TcpSock, copied: int) -> None:
        """Acknowledge, or tell of the room that a reader made, if it is worth a segment (``tcp_cleanup_rbuf()``)."""
        time_to_ack = False
        pending = sk.ack_pending
        if pending & ICSK_ACK_SCHED:
            time_to_ack = bool(
                sk.ack_blocked
                or (sk.rcv_nxt - sk.rcv_wup & MASK) > sk.ack_rcv_mss
                or (
                    copied > 0
                    and not sk.sk_rmem_alloc
                    and (pending & ICSK_ACK_PUSHED2 or (pending & ICSK_ACK_PUSHED and not sk.ack_pingpong))
                )
            )
        if copied > 0 and not time_to_ack and not sk.sk_shutdown & RCV_SHUTDOWN and sk.sk_state != TCP_CLOSE:
            window = sk.rcv_wup + sk.rcv_wnd - sk.rcv_nxt & MASK
            if window & SIGN:
                window = 0
            if 2 * window <= sk.window_clamp:
                new = self._tcp_select_window(sk)
                time_to_ack = bool(new) and new >= 2 * window
        if time_to_ack and sk.sk_state != TCP_CLOSE:
            self.tcp_send_ack(sk)

    # the end

    def _tcp_close_state(self, sk: TcpSock) -> bool:
        """Leave for the state after our FIN; tell whether one must be sent (``tcp_close_state()``)."""
        sends = sk.sk_state in SENDS_FIN
        self.tcp_set_state(sk, "close")
        return sends

    def shutdown(self, sk: TcpSock) -> int:
        """Send nothing more (``tcp_shutdown()`` with SEND_SHUTDOWN): 0 or -ENOTCONN."""
        self.socks.lock_sock(sk)
        err = 0
        if sk.sk_state in (TCP_CLOSE, TCP_LISTEN):
            err = -ENOTCONN
        else:
            sk.sk_shutdown |= SEND_SHUTDOWN
            if sk.sk_state == TCP_SYN_SENT:
                err = -ENOTCONN
            elif self._tcp_close_state(sk):
                self.tcp_send_fin(sk)
            sk.sk_state_change(sk)
        self.socks.release_sock(sk)
        return err

    def close(self, sk: TcpSock) -> None:
        """End the connection and give the socket away (``tcp_close()``, ``sock_release()``). Unread data makes it a reset."""
        socks = self.socks
        socks.lock_sock(sk)
        sk.sk_shutdown = SHUTDOWN_MASK
        if sk.sk_state == TCP_LISTEN:
            self.tcp_set_state(sk, "close")
            self._inet_csk_listen_stop(sk)
            self.sched.wake_up_all(sk.sk_sleep)
        else:
            unread = self._drain(sk)
            if unread and sk.sk_state != TCP_CLOSE:
                self.tcp_send_active_reset(sk, GFP_KERNEL)
                self.tcp_set_state(sk, "done")
            elif self._tcp_close_state(sk):
                self.tcp_send_fin(sk)
        self._adjudge_to_death(sk)

    def abort(self, sk: TcpSock) -> None:
        """End the connection with a reset and give the socket away (``tcp_close()`` with a linger time of 0)."""
        self.socks.lock_sock(sk)
        self._tcp_disconnect(sk)
        sk.sk_shutdown = SHUTDOWN_MASK
        self._adjudge_to_death(sk)

    def _drain(self, sk: TcpSock) -> bool:
        """Free unread data; tell whether there was any."""
        unread = False
        queue = sk.sk_receive_queue
        while queue:
            skb = queue.popleft()
            length = skb.end_seq - skb.seq - (1 if skb.flags & W_FIN else 0) & MASK
            if length and not (skb.seq + length - sk.copied_seq - 1) & SIGN:
                unread = True
            self.skbs.kfree_skb(skb)
        self.streams.sk_stream_mem_reclaim(sk)
        return unread

    def _adjudge_to_death(self, sk: TcpSock) -> None:
        """Make an orphan of a socket and free it now, or when its connection ends (``adjudge_to_death`` in tcp_close())."""
        socks = self.socks
        sk.sk_refcnt += 1
        socks.release_sock(sk)
        self.softirq.local_bh_disable()
        sk.sk_flags |= SOCK_DEAD  # sock_orphan()
        self.orphan_count += 1
        socks.sock_release_inode(sk)
        if sk.sk_state == TCP_FIN_WAIT2:
            self.tcp_time_wait(sk, TCP_FIN_WAIT2)
        elif sk.sk_state == TCP_CLOSE:
            self.inet_csk_destroy_sock(sk)
        self.softirq.local_bh_enable()
        sock_put(sk)


def _child_ready(sk: TcpSock) -> bool:
    """Tell whether accept() has something to give."""
    return any(child.sk_state != TCP_SYN_RECV for child in sk.accept_queue)


def _readable(sk: TcpSock) -> bool:
    """Tell whether recvmsg() has something to give, be it an error."""
    return bool(
        sk.sk_receive_queue or sk.sk_err or sk.sk_flags & SOCK_DONE or sk.sk_shutdown & RCV_SHUTDOWN or sk.sk_state == TCP_CLOSE
    )


def _add_frag(skb: SkBuff, page: Page, offset: int, size: int) -> None:
    """Add a part of a page to an unsent segment, or let its last fragment grow (``do_tcp_sendpages()``)."""
    frags = skb.frags
    if frags is None:
        frags = skb.frags = []
    if frags and frags[-1][0] is page and frags[-1][1] + frags[-1][2] == offset:
        frags[-1] = (page, frags[-1][1], frags[-1][2] + size)
    else:
        get_page(page)
        frags.append((page, offset, size))
    skb.len += size
    skb.data_len += size
    skb.truesize += size
