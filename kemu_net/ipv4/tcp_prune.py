"""Making room in a receive buffer (2.6.23 net/ipv4/tcp_input.c).

Interface
    TcpPrune.tcp_prune_queue(sk)                bring a socket back below its buffer: 0, or -1 when only the sender can help
    tcp_collapse(sk, queue, start, end)         copy badly filled segments together

Rules
    * Copying takes memory, from the reserve where the context is entitled. Without memory everything stays as it is.
    * A segment that fills its buffer well, or has a SYN or FIN, is left alone.
    * What is dropped from the out-of-order queue was acknowledged by SACK blocks at most: they are forgotten with it, and the
      sender, who must keep such data, sends it again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import NET_SKB_PAD, SIZEOF_SHARED_INFO, SMP_CACHE_BYTES, skb_bytes
from kemu_net.core.stream import sk_stream_set_owner_r
from kemu_net.ipv4.tcp_options import tcp_win_from_space
from kemu_net.ipv4.tcp_rcvbuf import TcpRcvbuf
from kemu_net.ipv4.tcp_sock import MASK, SIGN, W_FIN, W_SYN, TcpSock

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff

_EDGE = W_FIN | W_SYN


class TcpPrune(TcpRcvbuf):
    """What happens to a full receive buffer."""

    def tcp_sack_reset(self, sk: TcpSock) -> None:
        """Forget all SACK blocks (``tcp_sack_reset()``)."""
        sk.selective_acks.clear()
        sk.duplicate_sack = None
        sk.rx_opt.num_sacks = 0

    def tcp_prune_queue(self, sk: TcpSock) -> int:
        """Bring a socket back below its buffer (``tcp_prune_queue()``): 0, or -1 when only the sender can help."""
        if sk.sk_rmem_alloc >= sk.sk_rcvbuf:
            self.tcp_clamp_window(sk)
        elif sk.sk_prot.memory_pressure:
            sk.rcv_ssthresh = min(sk.rcv_ssthresh, 4 * sk.advmss)
        self._tcp_collapse_ofo_queue(sk)
        queue = sk.sk_receive_queue
        if queue:
            kept = self.tcp_collapse(sk, list(queue), sk.copied_seq, sk.rcv_nxt)
            queue.clear()
            queue.extend(kept)
        self.streams.sk_stream_mem_reclaim(sk)
        if sk.sk_rmem_alloc <= sk.sk_rcvbuf:
            return 0
        if sk.out_of_order_queue:
            self.tcp_purge_ofo_queue(sk)
            self.streams.sk_stream_mem_reclaim(sk)
        if sk.sk_rmem_alloc <= sk.sk_rcvbuf:
            return 0
        sk.pred_flags = 0  # the sender must notice
        return -1

    def tcp_purge_ofo_queue(self, sk: TcpSock) -> None:
        """Drop everything that came too early, and the promise to the sender."""
        for skb in sk.out_of_order_queue:
            self.skbs.kfree_skb(skb)
        sk.out_of_order_queue.clear()
        self.tcp_sack_reset(sk)

    def _tcp_collapse_ofo_queue(self, sk: TcpSock) -> None:
        """Collapse each run without gaps of what came too early (``tcp_collapse_ofo_queue()``)."""
        queue = sk.out_of_order_queue
        kept: list[SkBuff] = []
        run: list[SkBuff] = []
        start = end = 0
        for skb in queue:
            if run and ((end - skb.seq) & SIGN or (skb.end_seq - start) & SIGN):
                kept += self.tcp_collapse(sk, run, start, end)
                run = []
            if not run:
                start, end = skb.seq, skb.end_seq
            elif (end - skb.end_seq) & SIGN:
                end = skb.end_seq
            run.append(skb)
        if run:
            kept += self.tcp_collapse(sk, run, start, end)
        queue[:] = kept

    def tcp_collapse(self, sk: TcpSock, queue: list[SkBuff], start: int, end: int) -> list[SkBuff]:
        """Copy segments of ``queue`` together, from the first that is worth it (``tcp_collapse()``); give what is queued then.

        :param start: what lies before it is not wanted; ``end``: where the data ends. Between them there are no gaps.
        """
        kept: list[SkBuff] = []
        rest = deque(queue)
        while rest:
            skb = rest[0]
            if not (start - skb.end_seq) & SIGN:
                self.skbs.kfree_skb(rest.popleft())  # no new bits
                continue
            follower = rest[1] if len(rest) > 1 else None
            if not skb.flags & _EDGE and (
                tcp_win_from_space(skb.truesize) > skb.len
                or (skb.seq - start) & SIGN
                or (follower is not None and skb.end_seq != follower.seq)
            ):
                break
            start = skb.end_seq
            kept.append(rest.popleft())
        while rest and not rest[0].flags & _EDGE and (start - end) & SIGN:
            copy = self._collapse_some(sk, rest, start, end - start & MASK)
            if copy is None:
                break
            kept.append(copy)
            start = copy.end_seq
        kept += rest
        return kept

    def _collapse_some(self, sk: TcpSock, rest: deque[SkBuff], start: int, wanted: int) -> SkBuff | None:
        """Fill one new skb, of a page at most, with ``wanted`` bytes from ``start`` on; free what it makes superfluous."""
        head = rest[0]
        headroom = head.data + NET_SKB_PAD
        room = min(wanted, 4096 - headroom - SIZEOF_SHARED_INFO & ~(SMP_CACHE_BYTES - 1))
        copy = self.skbs.alloc_skb(room + headroom, GFP_ATOMIC) if room > 0 else None
        if copy is None:
            return None
        sk_stream_set_owner_r(copy, sk)
        copy.flags, copy.h, copy.data, copy.ack_seq = head.flags, head.h, head.data, head.ack_seq
        copy.saddr, copy.daddr = head.saddr, head.daddr
        copy.seq = start
        pieces = [head.buf[: head.data]]
        while room and rest and not rest[0].flags & _EDGE:
            skb = rest[0]
            size = skb.end_seq - start & MASK
            if not size & SIGN:
                size = min(size, room)
                offset = start - skb.seq & MASK
                pieces.append(skb_bytes(skb, offset)[:size])
                room -= size
                start = start + size & MASK
            if not (start - skb.end_seq) & SIGN:
                self.skbs.kfree_skb(rest.popleft())
        copy.buf = b"".join(pieces)
        copy.len = len(copy.buf) - copy.data
        copy.end_seq = start
        return copy
