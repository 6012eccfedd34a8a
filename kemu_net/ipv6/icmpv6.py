"""ICMPv6 (2.6.23 net/ipv6/icmp.c; RFC 4443).

Interface
    Icmpv6.icmpv6_rcv(skb)                     the handler of next header 58: echo, neighbour discovery
    Icmpv6.icmpv6_send(skb, type, code, info)  tell the sender of a received packet of an error; the skb stays the caller's
    Icmpv6.send(saddr, daddr, message, hop_limit=255)   send a message, its checksum filled in

Rules
    * Errors: none about an error, nor to a group or nobody; about a packet to a group only those that the RFC wants. Each
      route may send one a second, six at once after a rest. An error quotes as much of the packet as fits 1280 bytes.
    * Replies are allocated with plain GFP_ATOMIC: for an emergency packet they come from the reserve through PF_MEMALLOC.
    * Left out: errors that are received (no protocol is there to hear of them), routers' messages, group membership reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.timer import HZ
from kemu_net.core.checksum import csum_fold, csum_ok, csum_partial
from kemu_net.core.skbuff import PACKET_HOST, SkBuff, skb_bytes
from kemu_net.ipv4.icmp import xrlim_allow
from kemu_net.ipv6.addr import ANY, IPV6_HLEN, IPV6_MIN_MTU, NEXTHDR_ICMP, is_multicast
from kemu_net.ipv6.ndisc import NDISC_NEIGHBOUR_ADVERTISEMENT, NDISC_NEIGHBOUR_SOLICITATION

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.ipv6.ip6_output import Ip6Output
    from kemu_net.ipv6.ip6_route import Ip6Route
    from kemu_net.ipv6.ndisc import Ndisc

ICMPV6_PKT_TOOBIG = 2
ICMPV6_PARAMPROB = 4
ICMPV6_UNK_NEXTHDR = 1
ICMPV6_UNK_OPTION = 2
ICMPV6_INFOMSG_MASK = 0x80
ICMPV6_ECHO_REQUEST = 128
ICMPV6_ECHO_REPLY = 129


class Icmpv6:
    """ICMPv6 of one host.

    :ivar time: jiffies between two errors on one route (net.ipv6.icmp.ratelimit).
    """

    def __init__(self, kernel: Kernel, skbs: SkbAlloc, output: Ip6Output, route: Ip6Route, ndisc: Ndisc) -> None:
        self.sched = kernel.sched
        self.skbs = skbs
        self.output = output
        self.route = route
        self.ndisc = ndisc
        self.time = HZ

    def icmpv6_rcv(self, skb: SkBuff) -> None:
        """Process a message (``icmpv6_rcv()``)."""
        message = skb_bytes(skb)
        pseudo = skb.saddr + skb.daddr + len(message) + NEXTHDR_ICMP
        if len(message) < 8 or not csum_ok(message, pseudo % 65535):
            self.skbs.kfree_skb(skb, "icmpv6: malformed")
            return
        reason = None
        if message[0] == ICMPV6_ECHO_REQUEST:
            self._echo_reply(skb, message)
        elif message[0] in (NDISC_NEIGHBOUR_SOLICITATION, NDISC_NEIGHBOUR_ADVERTISEMENT):
            reason = self.ndisc.ndisc_rcv(message, skb.saddr, skb.daddr, skb.buf[skb.nh + 7])
        self.skbs.kfree_skb(skb, reason)

    def _echo_reply(self, skb: SkBuff, message: bytes) -> None:
        """Answer a ping (``icmpv6_echo_reply()``)."""
        if is_multicast(skb.saddr) or skb.saddr == ANY:
            return
        own = self.route.source_for(skb.saddr) if is_multicast(skb.daddr) else skb.daddr
        self.send(own, skb.saddr, bytes((ICMPV6_ECHO_REPLY, 0, 0, 0)) + message[4:], 64)

    def icmpv6_send(self, skb: SkBuff, kind: int, code: int, info: int) -> None:
        """Tell the sender of ``skb``, whose header is at ``nh``, of an error (``icmpv6_send()``)."""
        nh = skb.nh
        buf = skb.buf
        to = int.from_bytes(buf[nh + 8 : nh + 24], "big")
        own = int.from_bytes(buf[nh + 24 : nh + 40], "big")
        if is_multicast(to) or to == ANY:
            return
        if is_multicast(own) or skb.pkt_type != PACKET_HOST:
            if not (kind == ICMPV6_PKT_TOOBIG or (kind == ICMPV6_PARAMPROB and code == ICMPV6_UNK_OPTION)):
                return
            own = self.route.source_for(to)
        if buf[nh + 6] == NEXTHDR_ICMP and len(buf) > nh + IPV6_HLEN and not buf[nh + IPV6_HLEN] & ICMPV6_INFOMSG_MASK:
            return
        back = self.route.ip6_route_output(to)
        if isinstance(back, int) or (kind != ICMPV6_PKT_TOOBIG and not xrlim_allow(back, self.sched.jiffies, self.time)):
            return
        end = skb.data + skb.len - skb.data_len
        quoted = buf[nh:end] + (skb_bytes(skb)[end - skb.data :] if skb.data_len else b"")
        room = IPV6_MIN_MTU - IPV6_HLEN - 8
        self.send(own, to, bytes((kind, code, 0, 0)) + info.to_bytes(4, "big") + quoted[:room], 64)

    def send(self, saddr: int, daddr: int, message: bytes, hop_limit: int = 255) -> None:
        """Fill in the checksum and send; without memory or a route nothing happens."""
        total = csum_partial(message) + saddr + daddr + len(message) + NEXTHDR_ICMP
        check = csum_fold(total).to_bytes(2, "big")
        self.output.ip6_send(saddr, daddr, NEXTHDR_ICMP, message[:2] + check + message[4:], hop_limit)
