"""Sending again (2.6.23 net/ipv4/tcp_output.c: tcp_retransmit_skb(), tcp_xmit_retransmit_queue()).

Interface
    TcpRetransmit.tcp_retransmit_skb(sk, skb)      one segment again: 0, or negative and it did not leave
    tcp_xmit_retransmit_queue(sk)                  what is marked lost, as far as the window allows; then holes in between

Rules
    * A segment that is sent again is cut to the present segment size, and joined with the next one if both are short and nobody
      else looks at them.
    * ``skb.ack_seq`` of a segment in flight is snd_nxt at its last retransmission: a SACK above it says that that one is lost too.
    * A retransmission that the own device or the window holds up ends the round; the timer comes back to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.errors import KernelBug
from kemu.kernel.errno import EAGAIN, ENOMEM
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skb_alloc import skb_cloned
from kemu_net.ipv4.tcp_control import TcpControl
from kemu_net.ipv4.tcp_sock import (
    FIN,
    ICSK_TIME_RETRANS,
    MASK,
    SIGN,
    SYN,
    TCP_CA_RECOVERY,
    TCP_RTO_MAX,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    TCPCB_TAGBITS,
    TcpSock,
)
from kemu_net.ipv4.tcp_window import tcp_packets_in_flight

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff

_HEADROOM: Final = 192  # MAX_TCP_HEADER, aligned: what sk_stream_alloc_pskb() adds


class TcpRetransmit(TcpControl):
    """Second and later transmissions."""

    def tcp_retransmit_skb(self, sk: TcpSock, skb: SkBuff) -> int:
        """Send a segment again (``tcp_retransmit_skb()``): 0, or negative and it did not leave."""
        if sk.sk_wmem_alloc > min(sk.sk_wmem_queued + (sk.sk_wmem_queued >> 2), sk.sk_sndbuf):
            return -EAGAIN  # the device still holds most of what was sent
        if (skb.seq - sk.snd_una) & SIGN:
            if (skb.end_seq - sk.snd_una) & SIGN:
                raise KernelBug("tcp_retransmit_skb: a segment that is acknowledged", state=sk)
            if self.tcp_trim_head(sk, skb, sk.snd_una - skb.seq & MASK):
                return -ENOMEM
        if not (skb.seq - sk.snd_una - sk.snd_wnd) & SIGN and skb.seq != sk.snd_una:
            return -EAGAIN
        mss = self.tcp_current_mss(sk)
        rtx = sk.sk_rtx_queue
        if skb.len > mss:
            if self.tcp_fragment(sk, rtx, rtx.index(skb), mss, GFP_ATOMIC):
                return -ENOMEM
        elif skb.len < mss >> 1 and not skb.flags & SYN and rtx[-1] is not skb and self.sysctl_tcp_retrans_collapse:
            self._tcp_retrans_try_collapse(sk, skb, mss)
        if skb.len and skb.flags & FIN and sk.snd_una == (skb.end_seq - 1 & MASK):
            self._leave_fin_alone(skb)
        skb.when = self.sched.jiffies
        err = self.tcp_transmit_skb(sk, skb, True, GFP_ATOMIC)
        if not err:
            self.stats.retransmits += 1
            sk.total_retrans += 1
            if not skb.sacked & TCPCB_SACKED_RETRANS:
                sk.retrans_out += 1
            skb.sacked |= TCPCB_RETRANS
            if not sk.retrans_stamp:
                sk.retrans_stamp = skb.when or 1  # 0 means none
            sk.undo_retrans += 1
            skb.ack_seq = sk.snd_nxt
        return err

    def _leave_fin_alone(self, skb: SkBuff) -> None:
        """Strip acknowledged data off a FIN that is sent again (``pskb_trim(skb, 0)`` in tcp_retransmit_skb())."""
        if skb.data_len and self.skbs.skb_unclone(skb, GFP_ATOMIC):
            return
        for page, _offset, _size in skb.frags or ():
            self.skbs.skb_put_page(skb, page)
        skb.frags = None
        skb.buf = b""
        skb.len = skb.data_len = 0
        skb.seq = skb.end_seq - 1 & MASK

    def _tcp_retrans_try_collapse(self, sk: TcpSock, skb: SkBuff, mss: int) -> None:
        """Join a short segment with the next one, if that fits (``tcp_retrans_try_collapse()``)."""
        rtx = sk.sk_rtx_queue
        at = rtx.index(skb)
        after = rtx[at + 1]
        size = skb.len + after.len
        if (
            skb.data_len
            or after.data_len
            or skb_cloned(skb)
            or skb_cloned(after)
            or after.sacked & TCPCB_SACKED_ACKED
            or (sk.snd_una + sk.snd_wnd - after.end_seq) & SIGN
            or size > mss
            or size > skb.end - _HEADROOM
        ):
            return
        del rtx[at + 1]
        skb.buf += after.buf
        skb.len = size
        skb.end_seq = after.end_seq
        skb.flags |= after.flags
        skb.sacked |= after.sacked & TCPCB_EVER_RETRANS
        self._tcp_count_piece(sk, after.sacked, -1)
        if not sk.rx_opt.sack_ok and sk.sacked_out:
            sk.sacked_out -= 1
        sk.fackets_out = max(sk.fackets_out - 1, 0)
        self.streams.sk_stream_free_skb(sk, after)

    def tcp_xmit_retransmit_queue(self, sk: TcpSock) -> None:
        """Send what is marked lost again, as far as the window allows (``tcp_xmit_retransmit_queue()``)."""
        rtx = sk.sk_rtx_queue
        if sk.lost_out:
            seen = at = 0
            while at < len(rtx) and seen < sk.lost_out:  # a segment that is cut makes one more
                if tcp_packets_in_flight(sk) >= sk.snd_cwnd:
                    return
                skb = rtx[at]
                if skb.sacked & TCPCB_LOST:
                    if not skb.sacked & (TCPCB_SACKED_ACKED | TCPCB_SACKED_RETRANS) and not self._retransmit_at(sk, skb, at):
                        return
                    seen += 1
                at += 1
        if sk.ca_state != TCP_CA_RECOVERY or not sk.rx_opt.sack_ok or self.tcp_may_send_now(sk):
            return
        at = 0
        while at < len(rtx) and at < sk.fackets_out and tcp_packets_in_flight(sk) < sk.snd_cwnd:
            skb = rtx[at]
            if not skb.sacked & TCPCB_TAGBITS and not self._retransmit_at(sk, skb, at):
                return
            at += 1

    def _retransmit_at(self, sk: TcpSock, skb: SkBuff, at: int) -> bool:
        """Send a segment again; the first one starts the timer anew."""
        if self.tcp_retransmit_skb(sk, skb):
            return False
        if not at:
            self.inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto, TCP_RTO_MAX)
        return True
