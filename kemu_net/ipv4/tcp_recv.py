"""What readers of a connection call (2.6.23 net/ipv4/tcp.c: the receiving half).

Interface
    TcpRecv.recvmsg(sk, n, nonblock) -> bytes (b"" at the end of the stream), or -errno
    read_sock(sk, actor) -> bytes consumed        softirq-safe; actor(data) gives how much of ``data`` it took
    tcp_cleanup_rbuf(sk, copied)                  acknowledge after a read, if it is due

Rules
    * recvmsg() sleeps; read_sock() never does.
    * Left out: urgent data, splice, DMA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu.kernel.errno import EAGAIN, ENOTCONN
from kemu_net.core.skbuff import skb_bytes
from kemu_net.core.sock import RCV_SHUTDOWN, SOCK_DONE
from kemu_net.ipv4.tcp_ipv4 import TcpIpv4
from kemu_net.ipv4.tcp_sock import ICSK_ACK_PUSHED, ICSK_ACK_PUSHED2, ICSK_ACK_SCHED, MASK, SIGN, W_FIN, W_SYN, TcpSock
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_LISTEN

if TYPE_CHECKING:
    from collections.abc import Callable


class TcpRecv(TcpIpv4):
    """Reading a connection."""

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

    def _take_error(self, sk: TcpSock) -> int:
        """Give the socket's error once (``sock_error()``)."""
        err = sk.sk_err
        sk.sk_err = 0
        return -err


def _readable(sk: TcpSock) -> bool:
    """Tell whether recvmsg() has something to give, be it an error."""
    return bool(
        sk.sk_receive_queue or sk.sk_err or sk.sk_flags & SOCK_DONE or sk.sk_shutdown & RCV_SHUTDOWN or sk.sk_state == TCP_CLOSE
    )
