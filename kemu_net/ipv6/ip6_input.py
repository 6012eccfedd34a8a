"""Receiving IPv6 packets (2.6.23 net/ipv6/ip6_input.c, exthdrs.c; RFC 2460).

Interface
    Ip6Input.ipv6_rcv(skb)                   the handler of ETH_P_IPV6; the data at the IPv6 header
    Ip6Input.inet6_add_protocol(proto, fn)   fn(skb) owns the skb: data and ``h`` at its header, ``nh`` at the IPv6 header, saddr
                                             and daddr as ints of 128 bits

Rules
    * Nothing that arrives may raise: what is malformed is counted and freed. What is not for this host is dropped.
    * Headers are followed in the order in which they come; hop-by-hop options only right behind the IPv6 header.
    * A next header that nobody handles (here: TCP and UDP too) is answered with a parameter problem, counted and dropped.
    * A routing header is stepped over if nothing is left to visit; else it is refused, as accept_source_route = 0 wants.
    * Left out: jumbograms, mobility, tunnels, AH and ESP, raw sockets, netfilter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import EHOSTUNREACH
from kemu_net.core.dev import ETH_P_IPV6
from kemu_net.core.skb_trim import pskb_may_pull, pskb_pull, pskb_trim
from kemu_net.core.skbuff import PACKET_OTHERHOST, SkBuff
from kemu_net.ipv6.addr import (
    IPV6_HLEN,
    LOOPBACK,
    NEXTHDR_DEST,
    NEXTHDR_FRAGMENT,
    NEXTHDR_HOP,
    NEXTHDR_NONE,
    NEXTHDR_ROUTING,
    is_multicast,
)
from kemu_net.ipv6.icmpv6 import ICMPV6_PARAMPROB, ICMPV6_UNK_NEXTHDR, ICMPV6_UNK_OPTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu_net.core.dev import Dev
    from kemu_net.ipv6.icmpv6 import Icmpv6
    from kemu_net.ipv6.ip6_route import Ip6Route
    from kemu_net.ipv6.reassembly import Ip6Frag

    Step = tuple[SkBuff, int] | None

_PAD0 = 0
_PADN = 1
_ROUTER_ALERT = 5
_ICMPV6_HDR_FIELD = 0


class Ip6Input:
    """The way in of one host."""

    def __init__(self, dev: Dev, route: Ip6Route, frags: Ip6Frag, icmpv6: Icmpv6) -> None:
        self.skbs = dev.skbs
        self.route = route
        self.icmpv6 = icmpv6
        self.protocols: dict[int, Callable[[SkBuff], object]] = {}
        self._headers: dict[int, Callable[[SkBuff, int], Step]] = {
            NEXTHDR_ROUTING: self._ipv6_rthdr_rcv,
            NEXTHDR_FRAGMENT: frags.ipv6_frag_rcv,
            NEXTHDR_DEST: self._ipv6_destopt_rcv,
        }
        dev.dev_add_pack(ETH_P_IPV6, self.ipv6_rcv)

    def inet6_add_protocol(self, proto: int, fn: Callable[[SkBuff], object]) -> None:
        """Register the handler of a protocol (``inet6_add_protocol()``)."""
        self.protocols[proto] = fn

    def ipv6_rcv(self, skb: SkBuff) -> None:
        """Check the header and find the route (``ipv6_rcv()``, ``ip6_rcv_finish()``)."""
        kfree_skb = self.skbs.kfree_skb
        if skb.pkt_type == PACKET_OTHERHOST or not pskb_may_pull(self.skbs, skb, IPV6_HLEN):
            kfree_skb(skb, "ipv6: short")
            return
        nh = skb.nh = skb.data
        buf = skb.buf
        payload = buf[nh + 4] << 8 | buf[nh + 5]
        if buf[nh] >> 4 != 6 or payload + IPV6_HLEN > skb.len or not pskb_trim(self.skbs, skb, payload + IPV6_HLEN):
            kfree_skb(skb, "ipv6: malformed")
            return
        skb.saddr = int.from_bytes(buf[nh + 8 : nh + 24], "big")
        skb.daddr = int.from_bytes(buf[nh + 24 : nh + 40], "big")
        if skb.daddr == LOOPBACK or is_multicast(skb.saddr):
            kfree_skb(skb, "ipv6: martian")
            return
        skb.h = nh + IPV6_HLEN
        nhoff = 6
        if buf[nh + 6] == NEXTHDR_HOP:
            if not self._options(skb, {_ROUTER_ALERT}):
                return
            nhoff = IPV6_HLEN
        dst = self.route.ip6_route_input(skb.daddr)
        if isinstance(dst, int):
            kfree_skb(skb, "not for this host" if dst == -EHOSTUNREACH else "no route")
            return
        skb.dst = dst
        self._ip6_input_finish(skb, nhoff)

    def _ip6_input_finish(self, skb: SkBuff, nhoff: int) -> None:
        """Follow the headers up to the one that somebody takes (``ip6_input_finish()``).

        :param nhoff: where, behind ``nh``, the header at ``h`` is named.
        """
        while True:
            nexthdr = skb.buf[skb.nh + nhoff]
            header = self._headers.get(nexthdr)
            if header is None:
                break
            step = header(skb, nhoff)
            if step is None:
                return
            skb, nhoff = step
        handler = self.protocols.get(nexthdr)
        if handler is None or not pskb_pull(self.skbs, skb, skb.h - skb.data):
            if handler is None and nexthdr != NEXTHDR_NONE:
                self.icmpv6.icmpv6_send(skb, ICMPV6_PARAMPROB, ICMPV6_UNK_NEXTHDR, nhoff)
            self.skbs.kfree_skb(skb, "ipv6: nothing for anybody")
            return
        handler(skb)

    # extension headers

    def _length(self, skb: SkBuff) -> int:
        """Give the length of the extension header at ``h``, fetched whole; 0 if there is less of it, and the packet is gone."""
        at = skb.h - skb.data
        if pskb_may_pull(self.skbs, skb, at + 8):
            length = (skb.buf[skb.h + 1] + 1) << 3
            if pskb_may_pull(self.skbs, skb, at + length):
                return length
        self.skbs.kfree_skb(skb, "ipv6: malformed")
        return 0

    def _options(self, skb: SkBuff, known: set[int]) -> bool:
        """Step over a header of options (``ip6_parse_tlv()``); what is refused is gone."""
        length = self._length(skb)
        if not length:
            return False
        start = skb.h
        end = start + length
        at = start + 2
        while at < end:
            kind = skb.buf[at]
            if kind == _PAD0:
                at += 1
                continue
            if at + 2 > end or at + 2 + skb.buf[at + 1] > end:
                self.skbs.kfree_skb(skb, "ipv6: malformed")
                return False
            if kind != _PADN and kind not in known and not self._unknown_option(skb, kind, at):
                return False
            at += 2 + skb.buf[at + 1]
        skb.h = end
        return True

    def _unknown_option(self, skb: SkBuff, kind: int, at: int) -> bool:
        """Do what the option's two highest bits say (``ip6_tlvopt_unknown()``): True to step over it."""
        action = kind >> 6
        if action == 0:
            return True
        if action == 2 or (action == 3 and not is_multicast(skb.daddr)):
            self.icmpv6.icmpv6_send(skb, ICMPV6_PARAMPROB, ICMPV6_UNK_OPTION, at - skb.nh)
        self.skbs.kfree_skb(skb, "ipv6: unknown option")
        return False

    def _ipv6_destopt_rcv(self, skb: SkBuff, _nhoff: int) -> Step:
        """Step over destination options (``ipv6_destopt_rcv()``)."""
        named = skb.h - skb.nh
        return (skb, named) if self._options(skb, set()) else None

    def _ipv6_rthdr_rcv(self, skb: SkBuff, _nhoff: int) -> Step:
        """Step over a routing header that is used up (``ipv6_rthdr_rcv()``)."""
        length = self._length(skb)
        if not length:
            return None
        named = skb.h - skb.nh
        if skb.buf[skb.h + 3]:
            self.icmpv6.icmpv6_send(skb, ICMPV6_PARAMPROB, _ICMPV6_HDR_FIELD, named + 2)
            self.skbs.kfree_skb(skb, "ipv6: source route")
            return None
        skb.h += length
        return skb, named
