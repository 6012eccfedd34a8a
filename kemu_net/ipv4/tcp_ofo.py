"""Segments that came too early, and the SACK blocks that tell of them (2.6.23 net/ipv4/tcp_input.c; RFC 2018, RFC 2883).

Interface
    TcpOfo.tcp_ofo_insert(sk, skb)               keep a segment behind a gap, sorted; owns the skb
    tcp_ofo_queue(sk)                            move what is in order now to the receive queue
    tcp_fin(sk)                                  the end of the stream is in order
    tcp_sack_new_ofo_skb, tcp_sack_remove        the blocks that we announce
    tcp_dsack_set, tcp_dsack_extend              what came twice

Rules
    * The queue is sorted by ``seq``. Neighbours may overlap; no segment lies inside another's bounds as a whole.
    * ``selective_acks`` are at most four blocks, the newest first: the block of the segment that came last. A block that is
      forgotten for want of room is still queued.
    * ``duplicate_sack`` is told once, in the next segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu_net.core.sock import RCV_SHUTDOWN, SOCK_DEAD, SOCK_DONE
from kemu_net.core.stream import sk_stream_set_owner_r
from kemu_net.ipv4.tcp_options import TCP_NUM_SACKS, tcp_eff_sacks
from kemu_net.ipv4.tcp_prune import TcpPrune
from kemu_net.ipv4.tcp_sock import ICSK_ACK_SCHED, SIGN, W_FIN, TcpSock
from kemu_net.ipv4.tcp_states import TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_SYN_RECV, TCP_TIME_WAIT

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff


class TcpOfo(TcpPrune):
    """The out-of-order queue."""

    # blocks

    def tcp_dsack_set(self, sk: TcpSock, seq: int, end_seq: int) -> None:
        """Tell the sender that these bytes came twice (``tcp_dsack_set()``)."""
        if sk.rx_opt.sack_ok and self.sysctl_tcp_dsack:
            sk.duplicate_sack = (seq, end_seq)
            tcp_eff_sacks(sk)

    def tcp_dsack_extend(self, sk: TcpSock, seq: int, end_seq: int) -> None:
        """Add to what the next segment tells of duplicates, where it adjoins (``tcp_dsack_extend()``)."""
        if sk.duplicate_sack is None:
            self.tcp_dsack_set(sk, seq, end_seq)
        else:
            sk.duplicate_sack = _tcp_sack_extend(sk.duplicate_sack, seq, end_seq) or sk.duplicate_sack

    def tcp_sack_new_ofo_skb(self, sk: TcpSock, seq: int, end_seq: int) -> None:
        """Put the block of a new segment first, and let it swallow blocks that it reaches (``tcp_sack_new_ofo_skb()``)."""
        blocks = sk.selective_acks
        for at, block in enumerate(blocks):
            first = _tcp_sack_extend(block, seq, end_seq)
            if first is not None:
                del blocks[at]
                break
        else:
            first = (seq, end_seq)
            del blocks[TCP_NUM_SACKS - 1 :]
        at = 0
        while at < len(blocks):  # tcp_sack_maybe_coalesce()
            larger = _tcp_sack_extend(first, *blocks[at])
            if larger is None:
                at += 1
            else:
                first = larger
                del blocks[at]
        blocks.insert(0, first)
        tcp_eff_sacks(sk)

    def tcp_sack_remove(self, sk: TcpSock) -> None:
        """Forget the blocks that are in order now (``tcp_sack_remove()``)."""
        rcv_nxt = sk.rcv_nxt
        if not sk.out_of_order_queue:
            sk.selective_acks.clear()
        else:
            sk.selective_acks[:] = [block for block in sk.selective_acks if (rcv_nxt - block[0]) & SIGN]
        tcp_eff_sacks(sk)

    # the queue

    def tcp_ofo_insert(self, sk: TcpSock, skb: SkBuff) -> None:
        """Keep a segment that came too early; tell what overlaps, drop what is covered (the end of ``tcp_data_queue()``)."""
        queue = sk.out_of_order_queue
        seq = skb.seq
        end_seq = skb.end_seq
        if queue and seq == queue[-1].end_seq:
            sk_stream_set_owner_r(skb, sk)
            queue.append(skb)
        else:
            self._tcp_ofo_place(sk, skb)
        if sk.rx_opt.sack_ok:
            blocks = sk.selective_acks
            if blocks and blocks[0][1] == seq:
                blocks[0] = (blocks[0][0], end_seq)  # data in order behind a gap: the usual case
                if len(blocks) == 1:
                    return
            self.tcp_sack_new_ofo_skb(sk, seq, end_seq)

    def _tcp_ofo_place(self, sk: TcpSock, skb: SkBuff) -> None:
        """Find the place of a segment; drop it if another holds all of it, drop what it holds all of."""
        queue = sk.out_of_order_queue
        seq = skb.seq
        end_seq = skb.end_seq
        at = len(queue)
        while at and (seq - queue[at - 1].seq) & SIGN:
            at -= 1
        if at:
            before = queue[at - 1]
            if (seq - before.end_seq) & SIGN:
                if not (before.end_seq - end_seq) & SIGN:
                    self.skbs.kfree_skb(skb)
                    self.tcp_dsack_set(sk, seq, end_seq)
                    return
                if seq != before.seq:
                    self.tcp_dsack_set(sk, seq, before.end_seq)
                else:
                    at -= 1  # it covers the one before as a whole
        sk_stream_set_owner_r(skb, sk)
        queue.insert(at, skb)
        at += 1
        while at < len(queue) and (queue[at].seq - end_seq) & SIGN:
            after = queue[at]
            if (end_seq - after.end_seq) & SIGN:
                self.tcp_dsack_extend(sk, after.seq, end_seq)
                break
            self.tcp_dsack_extend(sk, after.seq, after.end_seq)
            self.skbs.kfree_skb(queue.pop(at))

    def tcp_ofo_queue(self, sk: TcpSock) -> None:
        """Move what is in order now to the receive queue (``tcp_ofo_queue()``)."""
        queue = sk.out_of_order_queue
        dsack_high = sk.rcv_nxt
        while queue:
            skb = queue[0]
            seq = skb.seq
            if (sk.rcv_nxt - seq) & SIGN:
                break
            end_seq = skb.end_seq
            if (seq - dsack_high) & SIGN:
                dsack = dsack_high
                if (end_seq - dsack_high) & SIGN:
                    dsack_high = end_seq
                self.tcp_dsack_extend(sk, seq, dsack)
            queue.pop(0)
            if not (sk.rcv_nxt - end_seq) & SIGN:
                self.skbs.kfree_skb(skb)
                continue
            sk.sk_receive_queue.append(skb)
            sk.rcv_nxt = end_seq
            if skb.flags & W_FIN:
                self.tcp_fin(sk)

    def tcp_fin(self, sk: TcpSock) -> None:
        """Note that the peer will send nothing more (``tcp_fin()``)."""
        sk.ack_pending |= ICSK_ACK_SCHED
        sk.sk_shutdown |= RCV_SHUTDOWN
        sk.sk_flags |= SOCK_DONE
        state = sk.sk_state
        if state in (TCP_SYN_RECV, TCP_ESTABLISHED):
            self.tcp_set_state(sk, "fin")
            sk.ack_pingpong = 1
        elif state == TCP_FIN_WAIT1:  # both closed at once
            self.tcp_send_ack(sk)
            self.tcp_set_state(sk, "fin")
        elif state == TCP_FIN_WAIT2:
            self.tcp_send_ack(sk)
        self.tcp_purge_ofo_queue(sk)  # nothing can come behind a FIN
        self.streams.sk_stream_mem_reclaim(sk)
        if state == TCP_FIN_WAIT2:
            self.tcp_time_wait(sk, TCP_TIME_WAIT)
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_state_change(sk)


def _tcp_sack_extend(block: tuple[int, int], seq: int, end_seq: int) -> tuple[int, int] | None:
    """Give the block that ``block`` and a segment make together, or None if there is a gap (``tcp_sack_extend()``)."""
    start, end = block
    if (end - seq) & SIGN or (end_seq - start) & SIGN:
        return None
    return (seq if (seq - start) & SIGN else start, end_seq if (end - end_seq) & SIGN else end)
