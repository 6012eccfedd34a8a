"""What readers of a connection call (2.6.23 net/ipv4/tcp.c: the receiving half).

Interface
    TcpRecv.recvmsg(sk, n, nonblock, flags, prequeue) -> bytes (b"" at the end of the stream), or -errno
    read_sock(sk, actor) -> bytes consumed        softirq-safe; actor(data) gives how much of ``data`` it took
    tcp_cleanup_rbuf(sk, copied)                  acknowledge after a read, if it is due
    tcp_inq(sk)                                   what could be read now (SIOCINQ)

Rules
    * recvmsg() sleeps; read_sock() never does. recvmsg() waits for the first byte, for SO_RCVLOWAT bytes, or with MSG_WAITALL for
      all; an end, an error, SO_RCVTIMEO or MSG_DONTWAIT cut that short, and then what came counts.
    * MSG_PEEK leaves everything where it is. MSG_TRUNC throws the bytes away and gives as many zeros, for only their count matters.
    * A reader that finds nothing installs itself (``ucopy_task``): segments then wait in the prequeue for it to process them, and
      give their data directly (tcp_prequeue.py). With tcp_low_latency, MSG_PEEK, MSG_TRUNC or ``prequeue=False`` not: RPC and nfsd
      never sleep in here in the kernel.
    * A read ends before an urgent byte and jumps over it, unless SO_OOBINLINE; MSG_OOB gives it, once.
    * Left out: signals, splice, DMA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kemu.kernel import costs
from kemu.kernel.errno import EAGAIN, EINVAL, ENOTCONN
from kemu.kernel.timer import MAX_SCHEDULE_TIMEOUT
from kemu_net.core.skbuff import skb_bytes
from kemu_net.core.sock import RCV_SHUTDOWN, SOCK_DONE, SOCK_URGINLINE
from kemu_net.core.uapi import MSG_DONTWAIT, MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL
from kemu_net.ipv4.tcp_ipv4 import TcpIpv4
from kemu_net.ipv4.tcp_queues import TCP_URG_READ, TCP_URG_VALID
from kemu_net.ipv4.tcp_sock import ICSK_ACK_PUSHED, ICSK_ACK_PUSHED2, ICSK_ACK_SCHED, MASK, SIGN, W_FIN, W_SYN, TcpSock
from kemu_net.ipv4.tcp_states import TCP_CLOSE, TCP_LISTEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu_net.core.skbuff import SkBuff


@attrs.define(eq=False)
class _Read:
    """One call of recvmsg().

    :ivar seq: where it reads; the socket's copied_seq follows unless it peeks.
    :ivar left: bytes still wanted; ``copied``: bytes that it has.
    """

    flags: int
    left: int
    target: int
    timeo: int
    seq: int
    copied: int = 0
    pieces: list[bytes] = attrs.field(factory=list)

    @property
    def peeks(self) -> bool:
        """Tell whether everything stays where it is."""
        return self.flags & MSG_PEEK != 0


class TcpRecv(TcpIpv4):
    """Reading a connection."""

    def read_sock(self, sk: TcpSock, actor: Callable[[bytes], int]) -> int:
        """Feed queued data to ``actor`` until it takes less than it is given (``tcp_read_sock()``).

        For callbacks in softirq and for who owns the socket; never sleeps. It stops at urgent data, and stays there.
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
                if sk.urg_data:
                    data = data[: sk.urg_seq - sk.copied_seq & MASK]
                    if not data:
                        break
                used = actor(data)
                if used <= 0:
                    break
                sk.copied_seq = sk.copied_seq + used & MASK
                copied += used
                if used < len(data) or offset + used < skb.len:
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
            self.tcp_rcv_space_adjust(sk)
            self.tcp_cleanup_rbuf(sk, copied)
        return copied

    # recvmsg()

    def recvmsg(self, sk: TcpSock, n: int, nonblock: bool = False, flags: int = 0, prequeue: bool = True) -> bytes | int:
        """Read up to ``n`` bytes (``tcp_recvmsg()``): b"" at the end of the stream, or a negative errno."""
        socks = self.socks
        socks.lock_sock(sk)
        if sk.sk_state == TCP_LISTEN:
            result: bytes | int = -ENOTCONN
        elif flags & MSG_OOB:
            result = self._tcp_recv_urg(sk, n, flags)
        else:
            timeo = 0 if nonblock or flags & MSG_DONTWAIT else sk.sk_rcvtimeo
            target = n if flags & MSG_WAITALL else min(sk.sk_rcvlowat, n)
            read = _Read(flags, n, target or 1, timeo, sk.copied_seq)
            error = 0
            while read.left and not error and self._take_queued(sk, read):
                error = self._may_wait(sk, read)
                if not error:
                    self._wait_for_data(sk, read, prequeue)
            self._remove_reader(sk, read)
            self.tcp_cleanup_rbuf(sk, read.copied)
            result = (error if error < 0 else b"") if not read.copied else b"".join(read.pieces)
            if read.copied:
                self.sched.spend(costs.TCP_RX)
        socks.release_sock(sk)
        return result

    def _take_queued(self, sk: TcpSock, read: _Read) -> bool:
        """Copy from the receive queue; False when the read is over: enough, or the stream's end, or an urgent byte ahead."""
        queue = sk.sk_receive_queue
        at = 0
        while read.left:
            if sk.urg_data and sk.urg_seq == read.seq and read.copied:
                return False
            if at >= len(queue):
                return True
            skb = queue[at]
            offset = (read.seq - skb.seq & MASK) - (1 if skb.flags & W_SYN else 0)
            if offset < skb.len:
                self._copy(sk, read, skb, offset)
                if (read.seq - skb.seq & MASK) < skb.len:
                    continue
            if skb.flags & W_FIN:
                read.seq = read.seq + 1 & MASK
            if read.peeks:
                at += 1
            else:
                sk.copied_seq = read.seq
                queue.popleft()
                self.skbs.kfree_skb(skb)
            if skb.flags & W_FIN:
                return False
        return False

    def _copy(self, sk: TcpSock, read: _Read, skb: SkBuff, offset: int) -> None:
        """Copy what is wanted of one segment, up to or behind an urgent byte."""
        used = min(skb.len - offset, read.left)
        skip = 0
        if sk.urg_data:
            urgent = sk.urg_seq - read.seq & MASK
            if urgent < used:
                if urgent:
                    used = urgent
                elif not sk.sk_flags & SOCK_URGINLINE:
                    skip = 1
                    used -= 1
        start = offset + skip
        if used:
            read.pieces.append(bytes(used) if read.flags & MSG_TRUNC else skb_bytes(skb, start)[:used])
        read.seq = read.seq + skip + used & MASK
        read.copied += used
        read.left -= used
        if not read.peeks:
            sk.copied_seq = read.seq
            self.tcp_rcv_space_adjust(sk)
            if sk.urg_data and (sk.urg_seq - sk.copied_seq) & SIGN:
                sk.urg_data = 0
                self.tcp_fast_path_check(sk)

    def _may_wait(self, sk: TcpSock, read: _Read) -> int:
        """Tell whether a read goes on when the queue is empty: 0; else a negative errno, or 1: it ends without an error."""
        if read.copied >= read.target and not sk.sk_backlog:
            return 1
        ended = sk.sk_shutdown & RCV_SHUTDOWN or sk.sk_state == TCP_CLOSE
        if read.copied:
            return 1 if sk.sk_err or ended or not read.timeo or read.peeks else 0
        if sk.sk_flags & SOCK_DONE:
            return 1
        if sk.sk_err:
            return self._take_error(sk)
        if sk.sk_shutdown & RCV_SHUTDOWN:
            return 1
        if sk.sk_state == TCP_CLOSE:
            return -ENOTCONN
        return 0 if read.timeo else -EAGAIN

    def _wait_for_data(self, sk: TcpSock, read: _Read, prequeue: bool) -> None:
        """Wait for a segment, or work off the backlog; what the reader processes itself comes directly (``do_prequeue``)."""
        socks = self.socks
        self.tcp_cleanup_rbuf(sk, read.copied)
        me = self.sched.current
        direct = (
            prequeue
            and not self.sysctl_tcp_low_latency
            and not read.flags & (MSG_TRUNC | MSG_PEEK)
            and (sk.ucopy_task is None or sk.ucopy_task is me)
        )
        if direct:
            sk.ucopy_task = me
            sk.ucopy_len = read.left
            sk.ucopy_pieces = read.pieces
            if sk.prequeue:
                self.tcp_prequeue_process(sk)
                self._take_direct(sk, read)
                return
        socks.release_sock(sk)
        if read.copied < read.target:
            read.timeo = self._sk_wait_data(sk, read)
        socks.lock_sock(sk)
        if direct:
            self._take_direct(sk, read)
            if sk.prequeue and sk.rcv_nxt == sk.copied_seq:
                self.tcp_prequeue_process(sk)
                self._take_direct(sk, read)
        else:
            read.seq = sk.copied_seq

    def _sk_wait_data(self, sk: TcpSock, read: _Read) -> int:
        """Sleep until something can be read or processed; give the jiffies that are left (``sk_wait_data()``)."""
        why = ("socket", sk)
        me = self.sched.current

        def ready() -> bool:
            # the backlog may have given data directly when the socket was released
            return _readable(sk) or (sk.ucopy_task is me and sk.ucopy_len != read.left)

        if read.timeo == MAX_SCHEDULE_TIMEOUT:
            self.sched.wait_event(sk.sk_sleep, ready, why)
            return read.timeo
        return self.sched.wait_event_timeout(sk.sk_sleep, ready, read.timeo, why)

    def _take_direct(self, sk: TcpSock, read: _Read) -> None:
        """Count what segments gave directly."""
        chunk = read.left - sk.ucopy_len
        if chunk:
            read.left -= chunk
            read.copied += chunk
        read.seq = sk.copied_seq

    def _remove_reader(self, sk: TcpSock, read: _Read) -> None:
        """End the prequeue with the read; what waits there is processed now, and not left behind."""
        if sk.ucopy_task is not self.sched.current:
            return
        if sk.prequeue:
            sk.ucopy_len = read.left if read.copied else 0
            before = sk.ucopy_len
            self.tcp_prequeue_process(sk)
            read.left -= before - sk.ucopy_len
            read.copied += before - sk.ucopy_len
        sk.ucopy_task = None
        sk.ucopy_len = 0
        sk.ucopy_pieces = []

    def _tcp_recv_urg(self, sk: TcpSock, n: int, flags: int) -> bytes | int:
        """Give the urgent byte (``tcp_recv_urg()``)."""
        if sk.sk_flags & SOCK_URGINLINE or not sk.urg_data or sk.urg_data == TCP_URG_READ:
            return -EINVAL
        if sk.sk_state == TCP_CLOSE and not sk.sk_flags & SOCK_DONE:
            return -ENOTCONN
        if sk.urg_data & TCP_URG_VALID:
            byte = sk.urg_data & 0xFF
            if not flags & MSG_PEEK:
                sk.urg_data = TCP_URG_READ
            return bytes((byte,))[:n]
        if sk.sk_state == TCP_CLOSE or sk.sk_shutdown & RCV_SHUTDOWN:
            return b""
        return -EAGAIN

    def tcp_inq(self, sk: TcpSock) -> int:
        """Give the bytes that could be read now (SIOCINQ in ``tcp_ioctl()``): up to urgent data, without a FIN."""
        if sk.sk_state == TCP_LISTEN:
            return -EINVAL
        if sk.urg_data and not (sk.urg_seq - sk.copied_seq) & SIGN and (sk.urg_seq - sk.rcv_nxt) & SIGN:
            return sk.urg_seq - sk.copied_seq & MASK
        answer = sk.rcv_nxt - sk.copied_seq & MASK
        if answer and sk.sk_receive_queue and sk.sk_receive_queue[-1].flags & W_FIN:
            answer -= 1
        return answer

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
    """Tell whether recvmsg() has something to do, be it an error."""
    return bool(
        sk.sk_receive_queue
        or sk.prequeue
        or sk.sk_err
        or sk.sk_flags & SOCK_DONE
        or sk.sk_shutdown & RCV_SHUTDOWN
        or sk.sk_state == TCP_CLOSE
    )
