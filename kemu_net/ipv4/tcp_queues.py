"""The receive queue: what is done with a segment that has data (2.6.23 net/ipv4/tcp_input.c).

Interface
    TcpQueues.tcp_data_queue(sk, skb)      queue, hold back, hand to a reader, or drop a segment with data; owns the skb
    tcp_urg(sk, skb)                       note where urgent data is
    tcp_fast_path_check(sk)                predict the next header again

Rules
    * A queued skb has its header pulled: ``data`` is at the payload. Neighbours in the receive queue may overlap; readers skip.
    * What is refused for memory is counted under drops["rmem"].
    * A task in recvmsg() that owns the socket gets data that is in order at once, without a stay in the queue (``ucopy``).
    * Urgent data is BSD's: the pointer points behind the last urgent byte; that byte alone is out of band, unless SO_OOBINLINE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu_net.core.skbuff import skb_bytes
from kemu_net.core.sock import SOCK_DEAD, SOCK_URGINLINE
from kemu_net.core.stream import sk_stream_set_owner_r
from kemu_net.ipv4.tcp_ofo import TcpOfo
from kemu_net.ipv4.tcp_options import tcp_eff_sacks
from kemu_net.ipv4.tcp_sock import HP_BITS, ICSK_ACK_SCHED, MASK, SIGN, URG, W_ACK, W_FIN, W_SYN, TcpSock

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff

TCP_URG_VALID = 0x0100  # urg_data: the byte has come; it is in the low 8 bits
TCP_URG_NOTYET = 0x0200
TCP_URG_READ = 0x0400
W_URG = URG << 16


class TcpQueues(TcpOfo):
    """Received data until somebody reads it."""

    def tcp_fast_path_check(self, sk: TcpSock) -> None:
        """Predict the next header if nothing unusual is going on (``tcp_fast_path_check()``)."""
        if not sk.out_of_order_queue and sk.rcv_wnd and sk.sk_rmem_alloc < sk.sk_rcvbuf and not sk.urg_data:
            self.tcp_fast_path_on(sk)

    def tcp_fast_path_on(self, sk: TcpSock) -> None:
        """Predict a header with the present window (``tcp_fast_path_on()``)."""
        sk.pred_flags = (sk.tcp_header_len << 26 | W_ACK | sk.snd_wnd >> sk.rx_opt.snd_wscale) & HP_BITS

    # queueing

    def tcp_data_queue(self, sk: TcpSock, skb: SkBuff) -> None:
        """Queue a segment (``tcp_data_queue()``)."""
        seq = skb.seq
        end_seq = skb.end_seq
        if seq == end_seq:
            self.skbs.kfree_skb(skb)
            return
        header = skb.flags >> 28 << 2
        skb.data += header
        skb.len -= header
        if sk.duplicate_sack is not None:
            sk.duplicate_sack = None
            tcp_eff_sacks(sk)
        rcv_nxt = sk.rcv_nxt
        window = sk.rcv_wup + sk.rcv_wnd - rcv_nxt & MASK
        if window & SIGN:
            window = 0
        if seq == rcv_nxt:
            if window:
                self._queue_in_order(sk, skb)
            else:
                self._out_of_window(sk, skb)
        elif not (rcv_nxt - end_seq) & SIGN:
            self.tcp_dsack_set(sk, seq, end_seq)
            self._out_of_window(sk, skb)  # all of it is old: the acknowledgement was lost
        elif not (seq - rcv_nxt - window) & SIGN:
            self._out_of_window(sk, skb)  # a probe of a closed window
        elif (seq - rcv_nxt) & SIGN:  # the first part of it is old
            self.tcp_enter_quickack_mode(sk)
            self.tcp_dsack_set(sk, seq, rcv_nxt)
            if window:
                self._queue_in_order(sk, skb)
            else:
                self._out_of_window(sk, skb)
        else:
            self.tcp_enter_quickack_mode(sk)
            if self._tcp_try_rmem(sk, skb):
                sk.pred_flags = 0
                sk.ack_pending |= ICSK_ACK_SCHED
                self.tcp_ofo_insert(sk, skb)

    def _out_of_window(self, sk: TcpSock, skb: SkBuff) -> None:
        """Drop what cannot be used, and say where we are."""
        self.tcp_enter_quickack_mode(sk)
        sk.ack_pending |= ICSK_ACK_SCHED
        self.skbs.kfree_skb(skb)

    def _tcp_try_rmem(self, sk: TcpSock, skb: SkBuff) -> bool:
        """Find room and pages for a segment, by force if need be; without, it is dropped and counted."""
        schedule = self.streams.sk_stream_rmem_schedule
        if sk.sk_rmem_alloc <= sk.sk_rcvbuf and schedule(sk, skb):
            return True
        if self.tcp_prune_queue(sk) >= 0 and schedule(sk, skb):
            return True
        self.skbs.kfree_skb(skb, "rmem")
        return False

    def tcp_copy_to_reader(self, sk: TcpSock, skb: SkBuff) -> bool:
        """Give a segment in order to the reader who owns the socket; True if it took all of it and nothing is left to queue.

        The caller saw that the task in recvmsg() is this one (``tcp_copy_to_iovec()``, and the same in tcp_data_queue()).
        """
        chunk = min(skb.len, sk.ucopy_len)
        sk.ucopy_pieces.append(skb_bytes(skb)[:chunk])
        sk.ucopy_len -= chunk
        sk.copied_seq = sk.copied_seq + chunk & MASK
        self.tcp_rcv_space_adjust(sk)
        return chunk == skb.len and not skb.flags & W_FIN

    def _queue_in_order(self, sk: TcpSock, skb: SkBuff) -> None:
        """Queue what the reader waits for, and what it makes readable."""
        eaten = False
        if (
            sk.ucopy_len
            and skb.seq == sk.rcv_nxt == sk.copied_seq
            and sk.sk_lock_owned
            and sk.ucopy_task is self.sched.current
            and not sk.urg_data
        ):
            eaten = self.tcp_copy_to_reader(sk, skb)
        elif not self._tcp_try_rmem(sk, skb):
            return
        if not eaten:
            sk_stream_set_owner_r(skb, sk)
            sk.sk_receive_queue.append(skb)
        sk.rcv_nxt = skb.end_seq
        if skb.len:
            self.tcp_event_data_recv(sk, skb)
        if skb.flags & W_FIN:
            self.tcp_fin(sk)
        if sk.out_of_order_queue:
            self.tcp_ofo_queue(sk)
            if not sk.out_of_order_queue:
                sk.ack_pingpong = 0  # the gap is filled: say so at once
        if sk.selective_acks:
            self.tcp_sack_remove(sk)
        self.tcp_fast_path_check(sk)
        if eaten:
            self.skbs.kfree_skb(skb)
        elif not sk.sk_flags & SOCK_DEAD:
            sk.sk_data_ready(sk)

    # urgent data

    def tcp_urg(self, sk: TcpSock, skb: SkBuff) -> None:
        """Note urgent data: where it will be, and the byte when it comes (``tcp_urg()``); the skb's data is at the header."""
        if skb.flags & W_URG:
            self._tcp_check_urg(sk, skb)
        if sk.urg_data == TCP_URG_NOTYET:
            at = (sk.urg_seq - skb.seq & MASK) + (skb.flags >> 28 << 2) - (1 if skb.flags & W_SYN else 0)
            if at < skb.len:
                sk.urg_data = TCP_URG_VALID | skb_bytes(skb, at)[0]
                if not sk.sk_flags & SOCK_DEAD:
                    sk.sk_data_ready(sk)

    def _tcp_check_urg(self, sk: TcpSock, skb: SkBuff) -> None:
        """Take a new urgent pointer, unless it is old or known (``tcp_check_urg()``)."""
        at = skb.h + 18
        pointer = skb.buf[at] << 8 | skb.buf[at + 1]
        seq = skb.seq + max(pointer - 1, 0) & MASK
        if (seq - sk.copied_seq) & SIGN or (seq - sk.rcv_nxt) & SIGN:
            return
        if sk.urg_data and not (sk.urg_seq - seq) & SIGN:
            return
        copied = sk.copied_seq
        if sk.urg_data and sk.urg_seq == copied and not sk.sk_flags & SOCK_URGINLINE and copied != sk.rcv_nxt:
            # the reader stands before an urgent byte that nobody took: it is lost, as BSD does it
            sk.copied_seq = copied + 1 & MASK
            queue = sk.sk_receive_queue
            if queue and not (sk.copied_seq - queue[0].end_seq) & SIGN:
                self.skbs.kfree_skb(queue.popleft())
        sk.urg_data = TCP_URG_NOTYET
        sk.urg_seq = seq
        sk.pred_flags = 0
