"""Sending IPv6 packets (2.6.23 net/ipv6/ip6_output.c): what ICMPv6 needs.

Interface: ``Ip6Output.ip6_send(saddr, daddr, nexthdr, payload, hop_limit=64)``: 0 or a negative errno.

Rules
    * Everything is allocated with GFP_ATOMIC. What is above the MTU is cut; fragments are numbered from one counter.
    * Left out: sockets, extension headers of the sender's, packets to the own addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import EMSGSIZE, ENETUNREACH, ENOMEM
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.dev import ETH_P_IPV6
from kemu_net.ipv6.addr import IPV6_HLEN, IPV6_MAXPLEN, NEXTHDR_FRAGMENT

if TYPE_CHECKING:
    from kemu_net.core.dst import Dst
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.ipv6.ip6_route import Ip6Route
    from kemu_net.ipv6.ndisc import Ndisc

LL_RESERVED = 16
_FRAG_HLEN = 8


class Ip6Output:
    """The way out of one host.

    :ivar alloc_failed: packets that found no memory.
    """

    def __init__(self, skbs: SkbAlloc, route: Ip6Route, ndisc: Ndisc) -> None:
        self.skbs = skbs
        self.route = route
        self.ndisc = ndisc
        self.ident = 0
        self.alloc_failed = 0

    def ip6_send(self, saddr: int, daddr: int, nexthdr: int, payload: bytes, hop_limit: int = 64) -> int:
        """Send a packet (``ip6_push_pending_frames()``)."""
        dst = self.route.ip6_route_output(daddr)
        if isinstance(dst, int):
            return dst
        if len(payload) > IPV6_MAXPLEN:
            return -EMSGSIZE
        if len(payload) + IPV6_HLEN <= dst.mtu:
            return self._xmit(dst, _header(saddr, daddr, nexthdr, len(payload), hop_limit) + payload)
        self.ident = ident = (self.ident + 1) & 0xFFFFFFFF
        size = (dst.mtu - IPV6_HLEN - _FRAG_HLEN) & ~7
        for at in range(0, len(payload), size):
            chunk = payload[at : at + size]
            field = at | (at + size < len(payload))
            header = _header(saddr, daddr, NEXTHDR_FRAGMENT, len(chunk) + _FRAG_HLEN, hop_limit)
            piece = bytes((nexthdr, 0)) + field.to_bytes(2, "big") + ident.to_bytes(4, "big") + chunk
            error = self._xmit(dst, header + piece)
            if error < 0:
                return error
        return 0

    def _xmit(self, dst: Dst, packet: bytes) -> int:
        """Give a packet to the next hop (``ip6_finish_output2()``)."""
        skb = self.skbs.alloc_skb(len(packet) + LL_RESERVED, GFP_ATOMIC)
        if skb is None:
            self.alloc_failed += 1
            return -ENOMEM
        skb.buf = packet
        skb.len = len(packet)
        skb.h = IPV6_HLEN
        skb.protocol = ETH_P_IPV6
        skb.dst = dst
        neigh = dst.neigh
        if neigh is not None and neigh.dead:
            successor = self.ndisc.neigh_lookup_create(neigh.ip)
            if successor is not None:
                successor.refcnt += 1
                self.ndisc.neigh_release(neigh)
                dst.neigh = successor
            neigh = successor
        if neigh is None:
            self.skbs.kfree_skb(skb, "no neighbour")
            return -ENETUNREACH
        return self.ndisc.neigh_resolve_output(neigh, skb)


def _header(saddr: int, daddr: int, nexthdr: int, size: int, hop_limit: int) -> bytes:
    addresses = saddr.to_bytes(16, "big") + daddr.to_bytes(16, "big")
    return b"\x60\0\0\0" + size.to_bytes(2, "big") + bytes((nexthdr, hop_limit)) + addresses
