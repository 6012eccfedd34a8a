"""The receive queue and the out-of-order queue (2.6.23 net/ipv4/tcp_input.c).

Interface
    TcpQueues.tcp_data_queue(sk, skb)      queue, hold back or drop a segment with data; owns the skb
    tcp_fin, tcp_ofo_queue                 what becomes readable
    tcp_prune_queue, tcp_collapse          make room

Rules
    * A queued skb has its header pulled: ``data`` is at the payload. Neighbours in the receive queue may overlap; readers skip.
    * What is refused for memory is counted under drops["rmem"].
    * tcp_collapse() copies small segments together; that takes memory, from the reserve where the context is entitled.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import skb_bytes
from kemu_net.core.sock import RCV_SHUTDOWN, SOCK_DEAD, SOCK_DONE, SOCK_RCVBUF_LOCK
from kemu_net.core.stream import sk_stream_set_owner_r
from kemu_net.ipv4.tcp_sock import (
    ACK,
    FIN,
    HP_BITS,
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    ICSK_ACK_SCHED,
    MASK,
    PSH,
    SIGN,
    SYN,
    TCP_ATO_MIN,
    TCP_MAX_QUICKACKS,
    TCP_MIN_MSS,
    TCP_MIN_RCVMSS,
    URG,
    W_FIN,
    W_SYN,
    TcpSock,
)
from kemu_net.ipv4.tcp_states import TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_SYN_RECV, TCP_TIME_WAIT
from kemu_net.ipv4.tcp_timewait import TcpTimewait

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kemu_net.core.skbuff import SkBuff

_PRED20 = 5 << 28 | ACK << 16
_REMNANT = (FIN | URG | SYN | PSH) << 16  # TCP_REMNANT
_COLLAPSE_MAX = 4096 - 312 - 192  # SKB_MAX_ORDER(header, 0)


class TcpQueues(TcpTimewait):
    """Received data until somebody reads it."""

    # acknowledging

    def tcp_incr_quickack(self, sk: TcpSock) -> None:
        """Acknowledge the next segments at once (``tcp_incr_quickack()``): half the window's worth."""
        quickacks = sk.rcv_wnd // (2 * sk.ack_rcv_mss) or 2
        if quickacks > sk.ack_quick:
            sk.ack_quick = min(quickacks, TCP_MAX_QUICKACKS)

    def tcp_enter_quickack_mode(self, sk: TcpSock) -> None:
        """Acknowledge at once from now on (``tcp_enter_quickack_mode()``)."""
        self.tcp_incr_quickack(sk)
        sk.ack_pingpong = 0
        sk.ack_ato = TCP_ATO_MIN

    # header prediction

    def tcp_fast_path_check(self, sk: TcpSock) -> None:
        """Predict the next header if nothing unusual is going on (``tcp_fast_path_check()``)."""
        if not sk.out_of_order_queue and sk.rcv_wnd and sk.sk_rmem_alloc < sk.sk_rcvbuf:
            sk.pred_flags = (_PRED20 | sk.snd_wnd) & HP_BITS

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
        rcv_nxt = sk.rcv_nxt
        window = sk.rcv_wup + sk.rcv_wnd - rcv_nxt & MASK
        if window & SIGN:
            window = 0
        if not (rcv_nxt - end_seq) & SIGN:
            self._out_of_window(sk, skb)  # all of it is old: the acknowledgement was lost
            return
        if (seq - rcv_nxt) & SIGN or seq == rcv_nxt:
            if not window:
                self._out_of_window(sk, skb)
                return
            if seq != rcv_nxt:
                self.tcp_enter_quickack_mode(sk)  # a part of it is old
            self._queue_in_order(sk, skb)
            return
        if not (seq - rcv_nxt - window) & SIGN:
            self._out_of_window(sk, skb)
            return
        self.tcp_enter_quickack_mode(sk)
        if not self._tcp_try_rmem(sk, skb):
            return
        sk.pred_flags = 0
        sk.ack_pending |= ICSK_ACK_SCHED
        self._tcp_ofo_insert(sk, skb)

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

    def _queue_in_order(self, sk: TcpSock, skb: SkBuff) -> None:
        """Queue what the reader waits for, and what it makes readable."""
        if not self._tcp_try_rmem(sk, skb):
            return
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
        self.tcp_fast_path_check(sk)
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_data_ready(sk)

    def tcp_event_data_recv(self, sk: TcpSock, skb: SkBuff) -> None:
        """Schedule an acknowledgement, learn the sender's pace, open the window (``tcp_event_data_recv()``)."""
        sk.ack_pending |= ICSK_ACK_SCHED
        length = skb.len
        if length >= sk.ack_rcv_mss:  # tcp_measure_rcv_mss()
            sk.ack_rcv_mss = length
            sk.ack_last_seg_size = 0
        else:
            self._tcp_measure_short_segment(sk, skb, length)
        now = self.sched.jiffies
        ato = sk.ack_ato
        if not ato:
            self.tcp_incr_quickack(sk)
            sk.ack_ato = TCP_ATO_MIN
        else:
            m = now - sk.ack_lrcvtime
            if m <= TCP_ATO_MIN // 2:
                sk.ack_ato = (ato >> 1) + TCP_ATO_MIN // 2
            elif m < ato:
                sk.ack_ato = min((ato >> 1) + m, sk.rto)
            elif m > sk.rto:
                self.tcp_incr_quickack(sk)
                self.streams.sk_stream_mem_reclaim(sk)
        sk.ack_lrcvtime = now
        if length >= 128 and sk.rcv_ssthresh < sk.window_clamp:
            self.tcp_grow_window(sk, skb)

    def _tcp_measure_short_segment(self, sk: TcpSock, skb: SkBuff, length: int) -> None:
        """Two short segments of one size are the sender's segment size; one is the end of a write (``tcp_measure_rcv_mss()``)."""
        last = sk.ack_last_seg_size
        sk.ack_last_seg_size = 0
        if length >= TCP_MIN_RCVMSS or (length >= TCP_MIN_MSS and not skb.flags & _REMNANT):
            sk.ack_last_seg_size = length
            if length == last:
                sk.ack_rcv_mss = length
                return
        if sk.ack_pending & ICSK_ACK_PUSHED:
            sk.ack_pending |= ICSK_ACK_PUSHED2
        sk.ack_pending |= ICSK_ACK_PUSHED

    def tcp_grow_window(self, sk: TcpSock, skb: SkBuff) -> None:
        """Let the advertised window grow if data fills its buffers well (``tcp_grow_window()``)."""
        space = sk.sk_rcvbuf - sk.sk_rmem_alloc
        if sk.rcv_ssthresh >= space - (space >> 2) or sk.sk_prot.memory_pressure:
            return
        truesize = skb.truesize - (skb.truesize >> 2)
        increment = 2 * sk.advmss
        if truesize > skb.len:  # __tcp_grow_window()
            increment = 0
            rmem = sk.sk_prot.sysctl_rmem[2]
            window = rmem - (rmem >> 2) >> 1
            truesize >>= 1
            while sk.rcv_ssthresh <= window:
                if truesize <= skb.len:
                    increment = 2 * sk.ack_rcv_mss
                    break
                truesize >>= 1
                window >>= 1
        if increment:
            sk.rcv_ssthresh = min(sk.rcv_ssthresh + increment, sk.window_clamp)
            sk.ack_quick |= 1

    def _tcp_ofo_insert(self, sk: TcpSock, skb: SkBuff) -> None:
        """Keep a segment that came too early, sorted; drop what it makes superfluous."""
        queue = sk.out_of_order_queue
        seq = skb.seq
        end_seq = skb.end_seq
        at = len(queue)
        while at and (seq - queue[at - 1].seq) & SIGN:
            at -= 1
        if at and not (queue[at - 1].end_seq - end_seq) & SIGN:
            self.skbs.kfree_skb(skb)  # another holds all of it
            return
        sk_stream_set_owner_r(skb, sk)
        queue.insert(at, skb)
        at += 1
        while at < len(queue) and not (end_seq - queue[at].end_seq) & SIGN:
            self.skbs.kfree_skb(queue.pop(at))

    def tcp_ofo_queue(self, sk: TcpSock) -> None:
        """Move what is in order now to the receive queue (``tcp_ofo_queue()``)."""
        queue = sk.out_of_order_queue
        moved = 0
        for skb in queue:
            if (sk.rcv_nxt - skb.seq) & SIGN:
                break
            moved += 1
            if not (sk.rcv_nxt - skb.end_seq) & SIGN:
                self.skbs.kfree_skb(skb)
                continue
            sk.sk_receive_queue.append(skb)
            sk.rcv_nxt = skb.end_seq
            if skb.flags & W_FIN:
                del queue[:moved]
                self.tcp_fin(sk)
                return
        del queue[:moved]

    def tcp_fin(self, sk: TcpSock) -> None:
        """Note that the peer will send nothing more (``tcp_fin()``)."""
        sk.ack_pending |= ICSK_ACK_SCHED
        sk.sk_shutdown |= RCV_SHUTDOWN
        sk.sk_flags |= SOCK_DONE
        state = sk.sk_state
        if state in (TCP_SYN_RECV, TCP_ESTABLISHED):
            self.tcp_set_state(sk, "fin")
            sk.ack_pingpong = 1
        elif state == TCP_FIN_WAIT1:
            self.tcp_send_ack(sk)
            self.tcp_set_state(sk, "fin")
        elif state == TCP_FIN_WAIT2:
            self.tcp_send_ack(sk)
        for skb in sk.out_of_order_queue:
            self.skbs.kfree_skb(skb)
        sk.out_of_order_queue.clear()
        self.streams.sk_stream_mem_reclaim(sk)
        if state == TCP_FIN_WAIT2:
            self.tcp_time_wait(sk, TCP_TIME_WAIT)
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_state_change(sk)

    # making room

    def tcp_prune_queue(self, sk: TcpSock) -> int:
        """Bring a socket back below its buffer (``tcp_prune_queue()``): 0, or -1 when only the sender can help."""
        if sk.sk_rmem_alloc >= sk.sk_rcvbuf:
            self.tcp_clamp_window(sk)
        elif sk.sk_prot.memory_pressure:
            sk.rcv_ssthresh = min(sk.rcv_ssthresh, 4 * sk.advmss)
        sk.out_of_order_queue = list(self.tcp_collapse(sk, sk.out_of_order_queue))
        sk.sk_receive_queue = deque(self.tcp_collapse(sk, sk.sk_receive_queue))
        self.streams.sk_stream_mem_reclaim(sk)
        if sk.sk_rmem_alloc <= sk.sk_rcvbuf:
            return 0
        for skb in sk.out_of_order_queue:
            self.skbs.kfree_skb(skb)
        sk.out_of_order_queue.clear()
        self.streams.sk_stream_mem_reclaim(sk)
        if sk.sk_rmem_alloc <= sk.sk_rcvbuf:
            return 0
        sk.pred_flags = 0  # the sender must notice
        return -1

    def tcp_clamp_window(self, sk: TcpSock) -> None:
        """Let the buffer grow to what it holds, or shrink the window (``tcp_clamp_window()``)."""
        sk.ack_quick = 0
        prot = sk.sk_prot
        rmem_max = prot.sysctl_rmem[2]
        if (
            sk.sk_rcvbuf < rmem_max
            and not sk.sk_userlocks & SOCK_RCVBUF_LOCK
            and not prot.memory_pressure
            and prot.memory_allocated < prot.sysctl_mem[0]
        ):
            sk.sk_rcvbuf = min(sk.sk_rmem_alloc, rmem_max)
        if sk.sk_rmem_alloc > sk.sk_rcvbuf:
            sk.rcv_ssthresh = min(sk.window_clamp, 2 * sk.advmss)

    def tcp_collapse(self, sk: TcpSock, queue: Iterable[SkBuff]) -> Iterable[SkBuff]:
        """Copy runs of badly filled segments together (``tcp_collapse()``, ``tcp_collapse_ofo_queue()``).

        A segment is left alone that carries a FIN, that fills its buffer well and does not overlap the one before, or that has no
        neighbour. Without memory for a copy, everything stays as it is.
        """
        result: list[SkBuff] = []
        run: list[SkBuff] = []
        for skb in queue:
            if run and (skb.flags & (W_FIN | W_SYN) or (run[-1].end_seq - skb.seq) & SIGN):
                result += self._collapse_run(sk, run)
                run = []
            if skb.flags & (W_FIN | W_SYN):
                result.append(skb)
            else:
                run.append(skb)
        return result + self._collapse_run(sk, run)

    def _collapse_run(self, sk: TcpSock, run: list[SkBuff]) -> list[SkBuff]:
        """Copy one run without gaps, if that saves anything."""
        if len(run) < 2 or not any(skb.truesize - (skb.truesize >> 2) > skb.len for skb in run):
            return run
        result: list[SkBuff] = []
        at = run[0].seq
        rest = run
        while rest:
            start = at
            data = b""
            used = 0
            for skb in rest:
                if data and len(data) + skb.len > _COLLAPSE_MAX:
                    break
                if not (skb.end_seq - at - 1) & SIGN:
                    data += skb_bytes(skb, at - skb.seq & MASK)
                    at = skb.end_seq
                used += 1
            if used == 1:
                result.append(rest[0])
            else:
                copy = self._collapse_copy(sk, rest[:used], data, start)
                if copy is None:
                    return result + rest
                result.append(copy)
            rest = rest[used:]
        return result

    def _collapse_copy(self, sk: TcpSock, old: list[SkBuff], data: bytes, seq: int) -> SkBuff | None:
        """Put ``data`` into one new skb and free the old ones, if there is memory and it is smaller."""
        copy = self.skbs.alloc_skb(len(data), GFP_ATOMIC)
        if copy is None:
            return None
        if copy.truesize >= sum(skb.truesize for skb in old):
            self.skbs.kfree_skb(copy)
            return None
        copy.buf = data
        copy.len = len(data)
        copy.seq = seq
        copy.end_seq = seq + len(data) & MASK
        copy.flags = old[-1].flags
        sk_stream_set_owner_r(copy, sk)
        for skb in old:
            self.skbs.kfree_skb(skb)
        return copy
