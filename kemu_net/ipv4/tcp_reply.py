"""Segments that no connection stands behind: resets, acknowledgements of minisockets, answers to requests.

The control replies of 2.6.23 net/ipv4/tcp_ipv4.c, and tcp_make_synack() of tcp_output.c.

Interface
    TcpReply.tcp_v4_send_reset(skb)                  answer what belongs nowhere
    TcpReply.tcp_v4_send_ack(skb, seq, ack, window, ts_recent)  repeat where we are
    TcpReply.tcp_v4_send_synack(sk, req)             a listener's answer to a SYN

Rules
    * Resets and acknowledgements are allocated with GFP_ATOMIC, for nobody: patch 15 does not cover them, patch 20 does not stop
      them. In the softirq of an emergency skb they come from the reserve, uncharged (patch 23).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from kemu.kernel.errno import ENOMEM
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.sock import skb_set_owner_w
from kemu_net.core.stream import MAX_TCP_HEADER
from kemu_net.ipv4.tcp_options import TSTAMP_WORD, tcp_syn_options
from kemu_net.ipv4.tcp_prequeue import TcpPrequeue
from kemu_net.ipv4.tcp_sock import ACK, MASK, MAX_TCP_WINDOW, RST, SYN, W_ACK, W_RST, TcpSock

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.ipv4.tcp_options import TcpOptionsReceived

_HEADER = Struct("!HHIIHHHH").pack  # ports, seq, ack, offset and flags, window, checksum, urgent pointer
_TSTAMP = Struct("!III").pack
IPPROTO_TCP = 6


def tcp_segment(
    saddr: int, daddr: int, sport: int, dport: int, seq: int, ack: int, flags: int, window: int, options: bytes = b""
) -> bytes:
    """Build a segment without data, its checksum included."""
    offset = 5 + len(options) // 4 << 12
    length = 20 + len(options)
    total = (
        saddr
        + daddr
        + IPPROTO_TCP
        + length
        + sport
        + dport
        + seq
        + ack
        + (offset | flags)
        + window
        + int.from_bytes(options, "big")
    )
    return _HEADER(sport, dport, seq, ack, offset | flags, window, -total % 65535, 0) + options


class RequestSock:
    """``struct tcp_request_sock``: a SYN that was answered.

    :ivar opt: what its options were; ``opt.ts_recent`` is the stamp that we echo.
    :ivar acked: the third segment came, but there was no room for a connection, or it must come with data: the SYN|ACK is sent
        again until there is.
    """

    __slots__ = (
        "acked",
        "addr",
        "advmss",
        "daddr",
        "dport",
        "expires",
        "opt",
        "rcv_isn",
        "rcv_wnd",
        "retrans",
        "saddr",
        "snt_isn",
        "sport",
        "window_clamp",
    )

    def __init__(self, addr: int, skb: SkBuff, sport: int, dport: int, opt: TcpOptionsReceived) -> None:
        self.addr = addr
        self.saddr = skb.daddr
        self.sport = sport
        self.daddr = skb.saddr
        self.dport = dport
        self.opt = opt
        self.rcv_isn = skb.seq
        self.snt_isn = 0
        self.advmss = 536
        self.rcv_wnd = self.window_clamp = 0
        self.expires = self.retrans = 0
        self.acked = False


class TcpReply(TcpPrequeue):
    """Answers without a connection."""

    def _ip_send_reply(self, skb: SkBuff, segment: bytes) -> None:
        """Send ``segment`` back to where ``skb`` came from (``ip_send_reply()``)."""
        reply = self.skbs.alloc_skb(MAX_TCP_HEADER, GFP_ATOMIC)
        if reply is not None:
            reply.buf = segment
            reply.len = len(segment)
            self.inet.ip_send_skb(reply, skb.daddr, skb.saddr, IPPROTO_TCP)

    def tcp_v4_send_reset(self, skb: SkBuff) -> None:
        """Answer a segment that belongs nowhere (``tcp_v4_send_reset()``), unless it is a reset itself."""
        word = skb.flags
        if word & W_RST:
            return
        buf = skb.buf
        h = skb.h
        dport, sport = buf[h] << 8 | buf[h + 1], buf[h + 2] << 8 | buf[h + 3]
        if word & W_ACK:
            segment = tcp_segment(skb.daddr, skb.saddr, sport, dport, skb.ack_seq, 0, RST, 0)
        else:
            segment = tcp_segment(skb.daddr, skb.saddr, sport, dport, 0, skb.end_seq, RST | ACK, 0)
        self._ip_send_reply(skb, segment)

    def tcp_v4_send_ack(self, skb: SkBuff, seq: int, ack: int, window: int, ts_recent: int) -> None:
        """Repeat an acknowledgement for a minisocket or a request (``tcp_v4_send_ack()``).

        :param window: as it stands in the header; ``ts_recent``: the stamp to echo, 0 for none.
        """
        buf = skb.buf
        h = skb.h
        dport, sport = buf[h] << 8 | buf[h + 1], buf[h + 2] << 8 | buf[h + 3]
        options = _TSTAMP(TSTAMP_WORD, self.sched.jiffies & MASK, ts_recent) if ts_recent else b""
        window = min(window, MAX_TCP_WINDOW)
        self._ip_send_reply(skb, tcp_segment(skb.daddr, skb.saddr, sport, dport, seq, ack, ACK, window, options))

    def tcp_make_synack(self, sk: TcpSock, req: RequestSock) -> SkBuff | None:
        """Make a listener's answer to a SYN (``tcp_make_synack()``)."""
        gfp = self.socks.sk_allocation(sk, GFP_ATOMIC) if self.patched.sk_allocation else GFP_ATOMIC  # [p15]
        skb = self.skbs.alloc_skb(MAX_TCP_HEADER + 15, gfp)
        if skb is None:
            return None
        skb_set_owner_w(skb, sk)
        skb.buf = tcp_segment(
            req.saddr,
            req.daddr,
            req.sport,
            req.dport,
            req.snt_isn,
            req.rcv_isn + 1 & MASK,
            SYN | ACK,
            min(req.rcv_wnd, MAX_TCP_WINDOW),
            self._synack_options(req),
        )
        skb.len = len(skb.buf)
        return skb

    def _synack_options(self, req: RequestSock) -> bytes:
        """Offer what the SYN offered."""
        opt = req.opt
        stamps = (self.sched.jiffies & MASK, opt.ts_recent) if opt.tstamp_ok else None
        return tcp_syn_options(req.advmss, stamps, opt.sack_ok, opt.rcv_wscale if opt.wscale_ok else None)

    def tcp_v4_send_synack(self, sk: TcpSock, req: RequestSock) -> int:
        """Send it (``tcp_v4_send_synack()``): 0 or a negative errno."""
        skb = self.tcp_make_synack(sk, req)
        if skb is None:
            return -ENOMEM
        return self.inet.ip_send_skb(skb, req.saddr, req.daddr, IPPROTO_TCP)
