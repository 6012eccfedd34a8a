"""ICMP, as much as a host needs to be polite (2.6.23 net/ipv4/icmp.c; RFC 792).

Interface
    Icmp.icmp_rcv(skb)                      answers echo requests
    Icmp.icmp_send_port_unreach(skb)        tells the sender of a UDP packet that nobody listens; the skb stays the caller's

Rules
    * Replies are allocated with plain GFP_ATOMIC: for an emergency packet they come from the reserve through PF_MEMALLOC (patch
      23), uncharged. A ping flood is a visible consumer of the reserve.
    * At most one unreachable message per destination and second (icmp_ratelimit), and none for broadcasts.
    * Left out: all other types; errors are not reported to sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.timer import HZ
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.checksum import csum_fold, csum_ok, csum_partial
from kemu_net.core.skbuff import PACKET_HOST, SkBuff, skb_bytes

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.ipv4.ip_output import IpOutput

IPPROTO_ICMP = 1
ICMP_ECHOREPLY = 0
ICMP_DEST_UNREACH = 3
ICMP_PORT_UNREACH = 3
ICMP_ECHO = 8
RATELIMIT = HZ
_MAX_DESTINATIONS = 256


class Icmp:
    """ICMP of one host."""

    def __init__(self, kernel: Kernel, skbs: SkbAlloc, output: IpOutput) -> None:
        self.sched = kernel.sched
        self.skbs = skbs
        self.output = output
        self.alloc_failed = 0
        self._sent: dict[int, int] = {}

    def icmp_rcv(self, skb: SkBuff) -> None:
        """Process an ICMP packet (``icmp_rcv()``)."""
        message = skb_bytes(skb)
        if len(message) < 8 or not csum_ok(message):
            self.skbs.kfree_skb(skb, "icmp: malformed")
            return
        if message[0] == ICMP_ECHO and skb.pkt_type == PACKET_HOST:
            self._send(skb.daddr, skb.saddr, bytes((ICMP_ECHOREPLY, 0)), message[4:])
        self.skbs.kfree_skb(skb)

    def icmp_send_port_unreach(self, skb: SkBuff) -> None:
        """Tell the sender that nobody listens (``icmp_send(skb, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0)``)."""
        now = self.sched.jiffies
        if skb.pkt_type != PACKET_HOST or now - self._sent.get(skb.saddr, -RATELIMIT) < RATELIMIT:
            return
        if len(self._sent) >= _MAX_DESTINATIONS:
            self._sent.clear()
        self._sent[skb.saddr] = now
        original = skb.buf[skb.nh : skb.h + 8]
        self._send(skb.daddr, skb.saddr, bytes((ICMP_DEST_UNREACH, ICMP_PORT_UNREACH)), b"\0\0\0\0" + original)

    def _send(self, saddr: int, daddr: int, kind: bytes, rest: bytes) -> None:
        skb = self.skbs.alloc_skb(len(rest) + 64, GFP_ATOMIC)
        if skb is None:
            self.alloc_failed += 1
            return
        check = csum_fold(csum_partial(kind + b"\0\0" + rest))
        skb.buf = b"".join((kind, check.to_bytes(2, "big"), rest))
        skb.len = len(skb.buf)
        self.output.ip_send_skb(skb, saddr, daddr, IPPROTO_ICMP)
