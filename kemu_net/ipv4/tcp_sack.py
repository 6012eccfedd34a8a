"""What SACK blocks say about segments in flight (2.6.23 net/ipv4/tcp_input.c: tcp_sacktag_write_queue(); RFC 2018, 2883).

Interface
    TcpSack.tcp_sacktag_write_queue(sk, skb, prior_snd_una) -> FLAG_DATA_SACKED, FLAG_DATA_LOST
    tcp_update_reordering(sk, metric)          the network delivers out of order this far
    tcp_mark_head_lost(sk, packets), tcp_update_scoreboard(sk), tcp_head_timedout(sk)
    tcp_add_reno_sack, tcp_remove_reno_sacks   duplicate acknowledgements stand in where SACK is off

Rules
    * FACK is on, as 2.6.23 has it: everything below the highest SACK minus ``reordering`` is lost. The first reordering that is
      seen switches it off for the connection.
    * Marks of a segment in flight (skb.sacked): acknowledged by SACK, sent again, lost, and whether it was ever sent again. The
      sums are sacked_out, retrans_out and lost_out; fackets_out counts up to the highest SACK.
    * A block of the peer is believed as far as it covers segments in flight; anything else in it is ignored.
    * Left out: the kernel's cache of the last blocks and its hints, which only save time; F-RTO (off in 2.6.23).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu_net.ipv4.tcp_retransmit import TcpRetransmit
from kemu_net.ipv4.tcp_sock import (
    MASK,
    SIGN,
    TCP_CA_LOSS,
    TCP_CA_RECOVERY,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    TCPCB_TAGBITS,
    TcpSock,
)

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff

FLAG_DATA_SACKED: Final = 0x20  # news from SACK
FLAG_DATA_LOST: Final = 0x80  # SACK beyond what was in flight when the trouble began

TCP_MAX_REORDERING: Final = 127


class _Walk:
    """What one acknowledgement's blocks have told so far."""

    __slots__ = ("flag", "lost_retrans", "prior_fackets", "reord")

    def __init__(self, sk: TcpSock) -> None:
        self.flag = 0
        self.reord = len(sk.sk_rtx_queue)
        self.prior_fackets = sk.fackets_out
        self.lost_retrans: int | None = None


class TcpSack(TcpRetransmit):
    """The scoreboard."""

    def tcp_sacktag_write_queue(self, sk: TcpSock, skb: SkBuff, prior_snd_una: int) -> int:
        """Mark what the blocks of a segment cover (``tcp_sacktag_write_queue()``); sk.rx_opt.sack_blocks has them."""
        blocks = sk.rx_opt.sack_blocks
        if not blocks:
            return 0
        if not sk.sacked_out:
            sk.fackets_out = 0
        walk = _Walk(sk)
        first_end = blocks[0][1]
        dsack = _is_dsack(blocks, skb.ack_seq)
        if dsack:
            sk.dsack_seen = True
            if not (prior_snd_una - first_end) & SIGN and sk.undo_marker and (sk.undo_marker - first_end) & SIGN:
                sk.undo_retrans -= 1  # for data that is already forgotten
        if (skb.ack_seq - prior_snd_una + sk.max_window) & SIGN:
            return 0  # too old
        for number, (start, end) in enumerate(blocks):
            if (sk.high_seq - end) & SIGN:
                walk.flag |= FLAG_DATA_LOST
            self._tag_block(sk, start, end, dsack and not number, walk)
        if walk.lost_retrans is not None and sk.ca_state == TCP_CA_RECOVERY:
            self._mark_lost_retrans(sk, walk)
        if walk.reord < sk.fackets_out and sk.ca_state != TCP_CA_LOSS:
            self.tcp_update_reordering(sk, sk.fackets_out + 1 - walk.reord)
        return walk.flag

    def _tag_block(self, sk: TcpSock, start: int, end: int, dup: bool, walk: _Walk) -> None:
        """Mark the segments in flight that one block covers."""
        fack_count = 0
        for skb in sk.sk_rtx_queue:
            if not (skb.seq - end) & SIGN:
                break
            in_sack = not (skb.seq - start) & SIGN and not (end - skb.end_seq) & SIGN
            fack_count += 1
            sacked = skb.sacked
            if dup and in_sack and sacked & TCPCB_RETRANS and (sk.undo_marker - skb.end_seq) & SIGN:
                sk.undo_retrans -= 1
            if not (sk.snd_una - skb.end_seq) & SIGN:  # about to be forgotten
                if sacked & TCPCB_RETRANS:
                    if dup and in_sack and sacked & TCPCB_SACKED_ACKED:
                        walk.reord = min(fack_count, walk.reord)
                elif fack_count < walk.prior_fackets and not sacked & TCPCB_SACKED_ACKED:
                    walk.reord = min(fack_count, walk.reord)
                continue
            if (
                sacked & TCPCB_SACKED_RETRANS
                and (skb.ack_seq - end) & SIGN
                and (walk.lost_retrans is None or (walk.lost_retrans - end) & SIGN)
            ):
                walk.lost_retrans = end
            if in_sack:
                self._tag_segment(sk, skb, fack_count, dup, walk)

    def _tag_segment(self, sk: TcpSock, skb: SkBuff, fack_count: int, dup: bool, walk: _Walk) -> None:
        """Mark one segment as arrived; what was believed lost or was in a hole tells of reordering."""
        sacked = skb.sacked
        if not sacked & TCPCB_SACKED_ACKED:
            if sacked & TCPCB_SACKED_RETRANS:
                if sacked & TCPCB_LOST:  # else the retransmission is believed to be still in flight
                    skb.sacked &= ~(TCPCB_LOST | TCPCB_SACKED_RETRANS)
                    sk.lost_out -= 1
                    sk.retrans_out -= 1
            else:
                if not sacked & TCPCB_RETRANS and fack_count < walk.prior_fackets:
                    walk.reord = min(fack_count, walk.reord)
                if sacked & TCPCB_LOST:
                    skb.sacked &= ~TCPCB_LOST
                    sk.lost_out -= 1
            skb.sacked |= TCPCB_SACKED_ACKED
            walk.flag |= FLAG_DATA_SACKED
            sk.sacked_out += 1
            if fack_count > sk.fackets_out:
                sk.fackets_out = fack_count
        elif dup and sacked & TCPCB_RETRANS:
            walk.reord = min(fack_count, walk.reord)
        if dup and skb.sacked & TCPCB_SACKED_RETRANS:  # that retransmission was not needed
            skb.sacked &= ~TCPCB_SACKED_RETRANS
            sk.retrans_out -= 1

    def _mark_lost_retrans(self, sk: TcpSock, walk: _Walk) -> None:
        """Something that was sent after a retransmission has arrived: the retransmission is lost as well."""
        limit = walk.lost_retrans
        assert limit is not None
        for skb in sk.sk_rtx_queue:
            if (limit - skb.seq) & SIGN:
                break
            if not (sk.snd_una - skb.end_seq) & SIGN or not skb.sacked & TCPCB_SACKED_RETRANS:
                continue
            if not (skb.ack_seq - limit) & SIGN:
                continue
            if not sk.tcp_fack and (limit - skb.ack_seq - sk.reordering * sk.mss_cache) & SIGN:
                continue
            skb.sacked &= ~TCPCB_SACKED_RETRANS
            sk.retrans_out -= 1
            if not skb.sacked & (TCPCB_LOST | TCPCB_SACKED_ACKED):
                sk.lost_out += 1
                skb.sacked |= TCPCB_LOST
                walk.flag |= FLAG_DATA_SACKED

    def tcp_update_reordering(self, sk: TcpSock, metric: int) -> None:
        """Note how far the network delivers out of order (``tcp_update_reordering()``); FACK cannot stand any."""
        if metric > sk.reordering:
            sk.reordering = min(TCP_MAX_REORDERING, metric)
            sk.tcp_fack = False

    # what is lost

    def tcp_head_timedout(self, sk: TcpSock) -> bool:
        """Tell whether the first segment in flight is older than an RTO (``tcp_head_timedout()``)."""
        rtx = sk.sk_rtx_queue
        return bool(rtx) and self.sched.jiffies - rtx[0].when > sk.rto

    def tcp_mark_head_lost(self, sk: TcpSock, packets: int) -> None:
        """Mark the first ``packets`` segments in flight lost, unless they are marked otherwise (``tcp_mark_head_lost()``)."""
        for skb in sk.sk_rtx_queue:
            packets -= 1
            if packets < 0 or (sk.high_seq - skb.end_seq) & SIGN:
                break
            if not skb.sacked & TCPCB_TAGBITS:
                skb.sacked |= TCPCB_LOST
                sk.lost_out += 1
        if not sk.rx_opt.sack_ok:  # a guess must not exceed what there is
            sk.sacked_out = max(min(sk.sacked_out, len(sk.sk_rtx_queue) - sk.lost_out), 0)

    def tcp_update_scoreboard(self, sk: TcpSock) -> None:
        """Mark what has to be sent again (``tcp_update_scoreboard()``)."""
        self.tcp_mark_head_lost(sk, max(sk.fackets_out - sk.reordering, 1) if sk.tcp_fack else 1)
        if sk.rx_opt.sack_ok and self.tcp_head_timedout(sk):
            now = self.sched.jiffies
            for skb in sk.sk_rtx_queue:
                if now - skb.when <= sk.rto:
                    break
                if not skb.sacked & TCPCB_TAGBITS:
                    skb.sacked |= TCPCB_LOST
                    sk.lost_out += 1

    # without SACK

    def _tcp_check_reno_reordering(self, sk: TcpSock, addend: int) -> None:
        """More arrived, says the count, than was in flight: it was reordering (``tcp_check_reno_reordering()``)."""
        packets_out = len(sk.sk_rtx_queue)
        holes = min(max(sk.lost_out, 1), packets_out)
        if sk.sacked_out + holes > packets_out:
            sk.sacked_out = packets_out - holes
            self.tcp_update_reordering(sk, packets_out + addend)

    def tcp_add_reno_sack(self, sk: TcpSock) -> None:
        """Count a duplicate acknowledgement: some segment arrived (``tcp_add_reno_sack()``)."""
        sk.sacked_out += 1
        self._tcp_check_reno_reordering(sk, 0)

    def tcp_remove_reno_sacks(self, sk: TcpSock, acked: int) -> None:
        """One segment filled a hole, the others are those that were counted (``tcp_remove_reno_sacks()``)."""
        if acked > 0:
            sk.sacked_out = max(sk.sacked_out - (acked - 1), 0)
        self._tcp_check_reno_reordering(sk, acked)


def _is_dsack(blocks: tuple[tuple[int, int], ...], ack_seq: int) -> bool:
    """Tell whether the first block reports a duplicate: it is below the acknowledgement, or inside the second (RFC 2883)."""
    start, end = blocks[0]
    if (start - ack_seq) & SIGN:
        return True
    if len(blocks) < 2:
        return False
    outer_start, outer_end = blocks[1]
    return not (outer_end - end & MASK) & SIGN and not (start - outer_start & MASK) & SIGN
