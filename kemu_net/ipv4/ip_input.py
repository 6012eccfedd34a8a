"""Receiving IPv4 packets (2.6.23 net/ipv4/ip_input.c).

Interface
    IpInput.ip_rcv(skb)                       the handler of ETH_P_IP; the data at the IP header
    IpInput.inet_add_protocol(proto, fn)      fn(skb) owns the skb: data and ``h`` at the transport header, ``nh`` at the IP header,
                                              saddr and daddr set, ``len`` without the IP header and without padding

Rules
    * Nothing that arrives may raise: what is malformed is counted and freed.
    * A packet that is not for this host is dropped: no forwarding.
    * The route is looked up for every packet and allocated on a miss; without memory for it the packet is lost.
    * Left out: reassembly (a fragment is dropped and counted under ``ignored["fragment"]``), netfilter, options (skipped).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kemu_net.core.dev import ETH_P_IP
from kemu_net.core.skbuff import PACKET_OTHERHOST, SkBuff

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu_net.core.dev import Dev
    from kemu_net.ipv4.route import RouteCache

#: version to total length; identity and fragment; TTL, protocol and checksum; source; destination
_unpack_iphdr = struct.Struct("!IIIII").unpack_from
_IP_FRAGMENT = 0x3FFF  # more fragments, or an offset


class IpInput:
    """The way in of one host.

    :param unreachable: called with an skb that no protocol wants, before it is freed (ICMP).
    """

    def __init__(self, dev: Dev, route: RouteCache) -> None:
        self.skbs = dev.skbs
        self.route = route
        self.protocols: dict[int, Callable[[SkBuff], object]] = {}
        dev.dev_add_pack(ETH_P_IP, self.ip_rcv)

    def inet_add_protocol(self, proto: int, fn: Callable[[SkBuff], object]) -> None:
        """Register the handler of a transport protocol (``inet_add_protocol()``)."""
        self.protocols[proto] = fn

    def ip_rcv(self, skb: SkBuff) -> None:
        """Check the header, find the route, and give the packet to its protocol (``ip_rcv()`` to ``ip_local_deliver_finish()``)."""
        offset = skb.data
        length = skb.len
        headlen = length - skb.data_len
        if headlen < 20 or skb.pkt_type == PACKET_OTHERHOST:
            self.skbs.kfree_skb(skb, "ip: short")
            return
        buf = skb.buf
        first, second, third, saddr, daddr = _unpack_iphdr(buf, offset)
        ihl = first >> 22 & 0x3C
        total = first & 0xFFFF
        if first >> 28 != 4 or ihl < 20 or ihl > headlen or total < ihl or total > length:
            self.skbs.kfree_skb(skb, "ip: malformed")
            return
        check = first + second + third + saddr + daddr
        if ihl > 20:
            check += int.from_bytes(buf[offset + 20 : offset + ihl], "big")
        if check % 65535:
            self.skbs.kfree_skb(skb, "ip: checksum")
            return
        if total < length:
            if skb.data_len:
                self.skbs.kfree_skb(skb, "ip: padded fragments")
                return
            skb.len = total
        # ip_rcv_finish()
        if (saddr >= 0xE0000000 or saddr == self.route.ip) and not self._own(skb, saddr):
            self.skbs.kfree_skb(skb, "ip: martian source")
            return
        dst = self.route.ip_route_input(daddr, saddr)
        if dst.__class__ is int:
            self.skbs.kfree_skb(skb, "not for this host" if not self.route.is_local(daddr) else "no route")
            return
        # ip_local_deliver()
        if second & _IP_FRAGMENT:
            self.skbs.kfree_skb(skb, "fragment")
            return
        skb.dst = dst
        skb.saddr = saddr
        skb.daddr = daddr
        skb.nh = offset
        skb.data = skb.h = offset + ihl
        skb.len = total - ihl
        handler = self.protocols.get(third >> 16 & 0xFF)
        if handler is None:
            self.skbs.kfree_skb(skb, "no transport protocol")
            return
        handler(skb)

    def _own(self, skb: SkBuff, saddr: int) -> bool:
        """Tell whether a packet with an own source address is one that this host sent to itself."""
        return saddr == self.route.ip and not skb.data
