"""The write queue: what is sent when, and how a segment is cut (2.6.23 net/ipv4/tcp_output.c).

Interface
    TcpOutput.tcp_write_xmit, tcp_push_pending_frames, tcp_push, tcp_push_one      send what windows and Nagle allow
    tcp_may_send_now(sk)                                                           whether new data could go
    tcp_fragment(sk, queue, at, length, gfp), tcp_trim_head(sk, skb, length)       cut a segment
    update_send_head(sk, skb)                                                      a segment is in flight now

Rules
    * No segmentation offload: a segment is one packet. One that became too long (the path got narrower, SACK blocks came) is cut
      before it is sent, or sent again.
    * Whoever cuts a segment that is in flight corrects the counts of what is sacked, lost and retransmitted.
    * Others may still look at a segment's data; before its fragments change it gets a data area of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu.kernel.errno import ENOBUFS, ENOMEM
from kemu.mm.gfp import GFP_ATOMIC, gfp_t
from kemu.mm.page import get_page
from kemu_net.core.sock import SOCK_QUEUE_SHRUNK
from kemu_net.ipv4.tcp_sock import (
    FIN,
    ICSK_TIME_PROBE0,
    ICSK_TIME_RETRANS,
    MASK,
    PSH,
    SIGN,
    TCP_NAGLE_CORK,
    TCP_NAGLE_PUSH,
    TCP_RTO_MAX,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    TcpSock,
)
from kemu_net.ipv4.tcp_transmit import TcpTransmit
from kemu_net.ipv4.tcp_window import tcp_packets_in_flight

if TYPE_CHECKING:
    from collections import deque

    from kemu.mm.page import Page
    from kemu_net.core.skbuff import SkBuff


class TcpOutput(TcpTransmit):
    """The queue of what was not sent yet."""

    def tcp_write_xmit(self, sk: TcpSock, mss_now: int, nonagle: int) -> bool:
        """Send unsent segments while windows and Nagle allow (``tcp_write_xmit()``).

        True when something waits, nothing is in flight and so nobody but a probe timer will wake the connection.
        """
        unsent = sk.sk_write_queue
        rtx = sk.sk_rtx_queue
        if sk.rx_opt.num_sacks:
            mss_now = self.tcp_current_mss(sk)
        sent = 0
        while unsent:
            skb = unsent[0]
            if len(rtx) - sk.sacked_out - sk.lost_out + sk.retrans_out >= sk.snd_cwnd:
                break
            end_seq = skb.end_seq
            length = skb.len
            if length > mss_now:
                end_seq = skb.seq + mss_now & MASK
            if (sk.snd_una + sk.snd_wnd - end_seq) & SIGN:
                break  # behind the receiver's window
            if length < mss_now:
                if not self._tcp_nagle_test(sk, skb, nonagle if len(unsent) == 1 else TCP_NAGLE_PUSH):
                    break
            elif length > mss_now and self.tcp_fragment(sk, unsent, 0, mss_now, GFP_ATOMIC):
                break
            skb.when = self.sched.jiffies
            if self.tcp_transmit_skb(sk, skb, True, GFP_ATOMIC):
                break
            self.update_send_head(sk, skb)
            sent += 1
            if length < mss_now:
                sk.snd_sml = end_seq  # tcp_minshall_update()
        if sent:
            self.tcp_cwnd_validate(sk, sk.lsndtime)
            return False
        return not rtx and bool(unsent)

    def _tcp_nagle_test(self, sk: TcpSock, skb: SkBuff, nonagle: int) -> bool:
        """Tell whether a short segment may go (``tcp_nagle_test()``): Nagle's rule in Minshall's form, and MSG_MORE."""
        if nonagle & TCP_NAGLE_PUSH or skb.flags & FIN:
            return True
        if nonagle & TCP_NAGLE_CORK:
            return False
        if nonagle or not sk.sk_rtx_queue:
            return True
        unacked_small = (sk.snd_una - sk.snd_sml) & SIGN and not (sk.snd_nxt - sk.snd_sml) & SIGN
        return not unacked_small

    def tcp_may_send_now(self, sk: TcpSock) -> bool:
        """Tell whether an unsent segment could go now (``tcp_may_send_now()``)."""
        unsent = sk.sk_write_queue
        if not unsent or tcp_packets_in_flight(sk) >= sk.snd_cwnd:
            return False
        skb = unsent[0]
        mss = self.tcp_current_mss(sk)
        end_seq = skb.seq + mss & MASK if skb.len > mss else skb.end_seq
        if (sk.snd_una + sk.snd_wnd - end_seq) & SIGN:
            return False
        return skb.len >= mss or self._tcp_nagle_test(sk, skb, TCP_NAGLE_PUSH if len(unsent) == 1 else sk.nonagle)

    def update_send_head(self, sk: TcpSock, skb: SkBuff) -> None:
        """Move a segment that has been sent to those in flight (``update_send_head()``)."""
        sk.sk_write_queue.popleft()
        rtx = sk.sk_rtx_queue
        sk.snd_nxt = skb.end_seq
        rtx.append(skb)
        if len(rtx) == 1:
            self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto, TCP_RTO_MAX)

    def tcp_push_pending_frames(self, sk: TcpSock, mss_now: int, nonagle: int) -> None:
        """Send what may go; else see that a probe will be sent (``__tcp_push_pending_frames()``)."""
        if sk.sk_write_queue and self.tcp_write_xmit(sk, mss_now, nonagle) and not sk.icsk_pending:
            self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, sk.rto, TCP_RTO_MAX)

    def tcp_push_one(self, sk: TcpSock, mss_now: int) -> None:
        """Send the first unsent segment if it may go (``tcp_push_one()``)."""
        skb = sk.sk_write_queue[0]
        if tcp_packets_in_flight(sk) >= sk.snd_cwnd or (sk.snd_una + sk.snd_wnd - skb.end_seq) & SIGN:
            return
        if skb.len > mss_now and self.tcp_fragment(sk, sk.sk_write_queue, 0, mss_now, GFP_ATOMIC):
            return
        skb.when = self.sched.jiffies
        if not self.tcp_transmit_skb(sk, skb, True, GFP_ATOMIC):
            self.update_send_head(sk, skb)
            self.tcp_cwnd_validate(sk, skb.when)

    def tcp_push(self, sk: TcpSock, more: bool, mss_now: int, nonagle: int) -> None:
        """End a write (``tcp_push()``); ``more`` is MSG_MORE: a last short segment waits for its rest."""
        if sk.sk_write_queue:
            if not more or (sk.pushed_seq + (sk.max_window >> 1) - sk.write_seq) & SIGN:
                sk.sk_write_queue[-1].flags |= PSH
                sk.pushed_seq = sk.write_seq
            self.tcp_push_pending_frames(sk, mss_now, TCP_NAGLE_CORK if more else nonagle)

    # cutting

    def tcp_fragment(self, sk: TcpSock, queue: deque[SkBuff], at: int, length: int, gfp: gfp_t) -> int:
        """Cut segment ``at`` of a queue after ``length`` bytes (``tcp_fragment()``): 0, or a negative errno and nothing changed."""
        skb = queue[at]
        linear = skb.len - skb.data_len
        if skb.data_len and self.skbs.skb_unclone(skb, GFP_ATOMIC):
            return -ENOMEM
        rest = self.streams.sk_stream_alloc_pskb(sk, max(linear - length, 0), 0, gfp)
        if rest is None:
            return -ENOBUFS
        sk.sk_wmem_queued += rest.truesize  # sk_charge_skb()
        sk.sk_forward_alloc -= rest.truesize
        rest.seq = skb.seq + length & MASK
        rest.end_seq = skb.end_seq
        rest.flags = skb.flags
        rest.sacked = skb.sacked
        rest.when = skb.when
        skb.flags &= ~(FIN | PSH)
        skb.end_seq = rest.seq
        rest.len = skb.len - length
        if linear > length:
            rest.buf = skb.buf[length:]
            skb.buf = skb.buf[:length]
            rest.frags = skb.frags
            rest.data_len = skb.data_len
            skb.frags = None
            skb.data_len = 0
        else:
            _split_frags(skb, rest, length - linear)
        skb.len = length
        skb.truesize -= rest.data_len  # what moved is accounted with its new holder
        rest.truesize += rest.data_len
        queue.insert(at + 1, rest)
        if queue is sk.sk_rtx_queue:
            self._tcp_count_piece(sk, rest.sacked, 1)
        return 0

    def _tcp_count_piece(self, sk: TcpSock, sacked: int, change: int) -> None:
        """Correct the counts of what is in flight for one segment more or less with these marks."""
        if sacked & TCPCB_SACKED_ACKED:
            sk.sacked_out += change
        if sacked & TCPCB_SACKED_RETRANS:
            sk.retrans_out += change
        if sacked & TCPCB_LOST:
            sk.lost_out += change

    def tcp_trim_head(self, sk: TcpSock, skb: SkBuff, length: int) -> int:
        """Drop the first ``length`` bytes of a segment, which are acknowledged (``tcp_trim_head()``): 0 or -ENOMEM."""
        if self.skbs.skb_unclone(skb, GFP_ATOMIC):
            return -ENOMEM
        linear = skb.len - skb.data_len
        cut = min(length, linear)
        skb.buf = skb.buf[cut:linear]
        if length > linear:
            self._drop_frags(skb, length - linear)
        skb.len -= length
        skb.seq = skb.seq + length & MASK
        skb.truesize -= length
        sk.sk_wmem_queued -= length
        sk.sk_forward_alloc += length
        sk.sk_flags |= SOCK_QUEUE_SHRUNK
        return 0

    def _drop_frags(self, skb: SkBuff, length: int) -> None:
        """Drop the first ``length`` bytes of the fragments (``__pskb_trim_head()``)."""
        kept: list[tuple[Page, int, int]] = []
        left = length
        for page, offset, size in skb.frags or ():
            if left >= size:
                self.skbs.skb_put_page(skb, page)
            else:
                kept.append((page, offset + left, size - left))
            left = max(left - size, 0)
        skb.frags = kept
        skb.data_len -= length

    def charge_work(self, segments: int) -> None:
        """Let the time pass that a task needs to make segments; it owns the socket, so packets wait in the backlog."""
        while segments > 0:
            self.sched.spend(costs.TCP_TX)
            segments -= 1


def _split_frags(skb: SkBuff, rest: SkBuff, keep: int) -> None:
    """Leave the first ``keep`` bytes of the fragments with ``skb``; a fragment that is cut is held by both (``skb_split()``)."""
    mine: list[tuple[Page, int, int]] = []
    theirs: list[tuple[Page, int, int]] = []
    for page, offset, size in skb.frags or ():
        if keep >= size:
            mine.append((page, offset, size))
        elif keep > 0:
            get_page(page)
            mine.append((page, offset, keep))
            theirs.append((page, offset + keep, size - keep))
        else:
            theirs.append((page, offset, size))
        keep = max(keep - size, 0)
    skb.frags = mine
    rest.frags = theirs
    rest.data_len = sum(size for _page, _offset, size in theirs)
    skb.data_len -= rest.data_len
