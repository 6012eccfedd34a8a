"""Receiving IPv4 packets (2.6.23 net/ipv4/ip_input.c).

Interface
    IpInput.ip_rcv(skb)                       the handler of ETH_P_IP; the data at the IP header
    IpInput.inet_add_protocol(proto, fn)      fn(skb) owns the skb: data and ``h`` at the transport header, ``nh`` at the IP header,
                                              saddr and daddr set, ``len`` without the IP header and without padding
    IpInput.raw_local_deliver                 None, or called with every packet before its protocol: raw_local_deliver(skb, proto)
                                              tells whether somebody took a clone; the packet is the same as above

Rules
    * Nothing that arrives may raise: what is malformed is counted and freed.
    * A packet that is not for this host is dropped: no forwarding. Nor is a source route followed.
    * The route is looked up for every packet and allocated on a miss; without memory for it the packet is lost. A packet that
      this host sent to itself brings its route along.
    * ip_rcv() is the whole way of a plain packet. Options, fragments and netfilter hooks take the long way, the same in steps, and
      so that a hook can hold the packet between two of them.
    * A reassembled packet has its other fragments in ``frag_list``: a protocol reads with skb_bytes(), or pulls first.
    * Left out: multicast routing, XFRM, the early demultiplexing of later kernels.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import EHOSTUNREACH, EINVAL
from kemu_net.core.dev import ETH_P_IP
from kemu_net.core.skb_trim import pskb_trim
from kemu_net.core.skbuff import PACKET_OTHERHOST, SkBuff
from kemu_net.ipv4.icmp import ICMP_DEST_UNREACH, ICMP_PARAMETERPROB, ICMP_PROT_UNREACH
from kemu_net.ipv4.ip_fragment import IP_DEFRAG_LOCAL_DELIVER
from kemu_net.ipv4.ip_options import ip_options_compile

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu_net.core.dev import Dev
    from kemu_net.ipv4.icmp import Icmp
    from kemu_net.ipv4.ip_fragment import IpFrag
    from kemu_net.ipv4.route import RouteCache
    from kemu_net.netfilter.core import NfHooks

#: version to total length; identity and fragment; TTL, protocol and checksum; source; destination
_unpack_iphdr = struct.Struct("!IIIII").unpack_from
_IP_FRAGMENT = 0x3FFF  # more fragments, or an offset
NF_IP_PRE_ROUTING = 0
NF_IP_LOCAL_IN = 1


class IpInput:
    """The way in of one host."""

    def __init__(self, kernel: Kernel, dev: Dev, route: RouteCache, frags: IpFrag, nf: NfHooks | None = None) -> None:
        self.sched = kernel.sched
        self.skbs = dev.skbs
        self.route = route
        self.frags = frags
        self.nf = nf
        self.hooks: list[Any] = [[] for _ in range(5)] if nf is None else nf.registered
        self.icmp: Icmp | None = None
        self.protocols: dict[int, Callable[[SkBuff], object]] = {}
        self.raw_local_deliver: Callable[[SkBuff, int], bool] | None = None
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
            if not skb.data_len:
                skb.len = total
            elif not pskb_trim(self.skbs, skb, total):
                self.skbs.kfree_skb(skb, "ip: no memory to trim")
                return
        hooks = self.hooks
        if ihl > 20 or second & _IP_FRAGMENT or hooks[0] or hooks[1]:
            skb.nh = offset
            self._ip_rcv_rare(skb)
            return
        # ip_rcv_finish()
        if skb.dst is None:
            dst = self.route.ip_route_input(daddr, saddr)
            if dst.__class__ is int:
                self._no_route(skb, dst, daddr)
                return
            skb.dst = dst
        # ip_local_deliver_finish()
        skb.saddr = saddr
        skb.daddr = daddr
        skb.nh = offset
        skb.data = skb.h = offset + ihl
        skb.len = total - ihl
        handler = self.protocols.get(third >> 16 & 0xFF)
        if handler is None or self.raw_local_deliver is not None:
            self._deliver(skb, third >> 16 & 0xFF)
            return
        handler(skb)

    # the long way

    def _ip_rcv_rare(self, skb: SkBuff) -> None:
        """Take a packet through the hooks before routing."""
        if self.hooks[0]:
            assert self.nf is not None
            self.nf.nf_hook_slow(NF_IP_PRE_ROUTING, skb, skb.dev, None, self.ip_rcv_finish)
        else:
            self.ip_rcv_finish(skb)

    def ip_rcv_finish(self, skb: SkBuff) -> int:
        """Find the route of a packet whose header, at ``nh``, was checked, and look at its options (``ip_rcv_finish()``)."""
        first, _second, _third, saddr, daddr = _unpack_iphdr(skb.buf, skb.nh)
        if skb.dst is None:
            dst = self.route.ip_route_input(daddr, saddr)
            if isinstance(dst, int):
                self._no_route(skb, dst, daddr)
                return 0
            skb.dst = dst
        ihl = first >> 22 & 0x3C
        if ihl > 20 and not self._ip_rcv_options(skb, ihl):
            return 0
        return self.ip_local_deliver(skb)

    def _ip_rcv_options(self, skb: SkBuff, ihl: int) -> bool:
        """Check the options (``ip_rcv_options()``); what is refused is gone. A source route of ours to follow is refused too."""
        nh = skb.nh
        milliseconds = self.sched.now // 1_000_000 % 86_400_000
        opt = ip_options_compile(skb.buf[nh : nh + ihl], self.route.ip, milliseconds)
        if isinstance(opt, int):
            if self.icmp is not None:
                self.icmp.icmp_send(skb, ICMP_PARAMETERPROB, 0, opt << 24)
            self.skbs.kfree_skb(skb, "ip: options")
            return False
        if opt.srr:
            self.skbs.kfree_skb(skb, "ip: source route")
            return False
        if opt.is_changed:
            skb.buf = skb.buf[:nh] + bytes(opt.header) + skb.buf[nh + ihl :]
        return True

    def ip_local_deliver(self, skb: SkBuff) -> int:
        """Make a packet whole and take it through the hooks of what is for this host (``ip_local_deliver()``)."""
        if skb.buf[skb.nh + 6] & 0x3F or skb.buf[skb.nh + 7]:
            whole = self.frags.ip_defrag(skb, IP_DEFRAG_LOCAL_DELIVER)
            if whole is None:
                return 0
            skb = whole
        if self.hooks[1]:
            assert self.nf is not None
            return self.nf.nf_hook_slow(NF_IP_LOCAL_IN, skb, skb.dev, None, self.ip_local_deliver_finish)
        return self.ip_local_deliver_finish(skb)

    def ip_local_deliver_finish(self, skb: SkBuff) -> int:
        """Step over the header and hand the packet up (``ip_local_deliver_finish()``)."""
        nh = skb.nh
        first, _second, third, skb.saddr, skb.daddr = _unpack_iphdr(skb.buf, nh)
        ihl = first >> 22 & 0x3C
        skb.data = skb.h = nh + ihl
        skb.len -= ihl
        self._deliver(skb, third >> 16 & 0xFF)
        return 0

    def _deliver(self, skb: SkBuff, proto: int) -> None:
        """Hand a packet to raw sockets and to its protocol; if nobody wants it, say so."""
        raw = self.raw_local_deliver
        taken = raw is not None and raw(skb, proto)
        handler = self.protocols.get(proto)
        if handler is not None:
            handler(skb)
        elif taken:
            self.skbs.kfree_skb(skb)
        else:
            if self.icmp is not None:
                self.icmp.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_PROT_UNREACH, 0)
            self.skbs.kfree_skb(skb, "no transport protocol")

    def _no_route(self, skb: SkBuff, error: object, daddr: int) -> None:
        """Free a packet that the route cache refused, counted by the reason."""
        reason = "no route"
        if error == -EHOSTUNREACH:
            reason = "not for this host"
        elif error == -EINVAL:
            reason = "ip: martian destination" if daddr >= 0xE0000000 or daddr >> 24 in (0, 127) else "ip: martian source"
        self.skbs.kfree_skb(skb, reason)
