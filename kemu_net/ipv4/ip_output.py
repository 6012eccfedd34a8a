"""Sending IPv4 packets (2.6.23 net/ipv4/ip_output.c).

Interface
    IpOutput.ip_queue_xmit(skb, sk)                    a socket's packet, data at the transport header; sk.sk_dst keeps the route
    IpOutput.ip_send_skb(skb, saddr, daddr, proto)     a packet without a socket: resets, ICMP, UDP
    dst_confirm(sk, jiffies)                           a protocol heard from the peer: its neighbour is alive

Rules
    * Both take the skb over, also when they fail: 0, or -EHOSTUNREACH when there is no route or no memory for one.
    * An skb may come with ip_summed = CHECKSUM_PARTIAL and a checksum field of zero: the NIC fills it in when it reads the
      fragments, so that a page that changes meanwhile still goes out with a right checksum.
    * To a neighbour that is known, the Ethernet and the IP header are put before the data in one step.
    * Packets to the own address go to the backlog of this CPU.
    * Left out: options, fragmentation (a packet above the MTU is refused with -EMSGSIZE), netfilter, multicast.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kemu.kernel.errno import EHOSTUNREACH, EMSGSIZE
from kemu_net.core.dev import ETH_P_IP
from kemu_net.core.skbuff import CHECKSUM_UNNECESSARY, PACKET_HOST
from kemu_net.ipv4.arp import NUD_CONNECTED

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.dev import Dev, NetDevice
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.sock import Sock
    from kemu_net.ipv4.arp import Arp
    from kemu_net.ipv4.route import Dst, RouteCache

IP_HLEN = 20
IP_DF = 0x4000
TTL = 64

pack_iphdr = struct.Struct("!HHHHBBHII").pack


class IpOutput:
    """The way out of one host."""

    def __init__(self, kernel: Kernel, dev: Dev, nic: NetDevice, arp: Arp, route: RouteCache) -> None:
        self.softirq = kernel.softirq
        self.dev = dev
        self.skbs = dev.skbs
        self.nic = nic
        self.arp = arp
        self.route = route
        self.ident = 0

    def ip_queue_xmit(self, skb: SkBuff, sk: Sock) -> int:
        """Send a socket's packet (``ip_queue_xmit()``)."""
        dst = sk.sk_dst
        if dst is None or dst.obsolete:
            found = self.route.ip_route_output(sk.daddr, sk.saddr)
            if isinstance(found, int):
                sk.sk_dst = None
                self.skbs.kfree_skb(skb, "no route")
                return -EHOSTUNREACH
            dst = sk.sk_dst = found
        return self.ip_output(skb, dst, sk.sk_protocol)

    def ip_send_skb(self, skb: SkBuff, saddr: int, daddr: int, proto: int) -> int:
        """Send a packet that no connected socket stands behind."""
        dst = self.route.ip_route_output(daddr, saddr)
        if isinstance(dst, int):
            self.skbs.kfree_skb(skb, "no route")
            return -EHOSTUNREACH
        return self.ip_output(skb, dst, proto)

    def ip_output(self, skb: SkBuff, dst: Dst, proto: int) -> int:
        """Put the IP header before the transport header and pass the packet on (``ip_output()``, ``ip_finish_output()``)."""
        total = skb.len + IP_HLEN
        nic = self.nic
        if total > nic.mtu and not dst.local:
            self.skbs.kfree_skb(skb, "above the MTU")
            return -EMSGSIZE
        self.ident = ident = (self.ident + 1) & 0xFFFF
        check = -(dst.csum + total + ident + proto) % 65535
        header = pack_iphdr(0x4500, total, ident, IP_DF, TTL, proto, check, dst.saddr, dst.daddr)
        data = skb.data
        buf = skb.buf[data:] if data else skb.buf
        neigh = dst.neigh
        skb.protocol = ETH_P_IP
        if neigh is not None and neigh.state & NUD_CONNECTED:
            skb.buf = neigh.hh + header + buf
            skb.data = skb.mac = 0
            skb.nh = 14
            skb.h = 34
            skb.len = total + 14
            skb.dev = nic
            return self.dev.dev_queue_xmit(skb)
        skb.buf = header + buf
        skb.data = skb.nh = 0
        skb.h = IP_HLEN
        skb.len = total
        if neigh is None:
            return self._loopback(skb)
        if self.arp.table.get(neigh.ip) is not neigh:
            neigh = self.arp.neigh_lookup_create(neigh.ip)
            if neigh is None:
                self.skbs.kfree_skb(skb, "no neighbour")
                return -EHOSTUNREACH
            dst.neigh = neigh
        return self.arp.neigh_resolve_output(neigh, skb)

    def _loopback(self, skb: SkBuff) -> int:
        """Give a packet to this host itself (``loopback_xmit()``)."""
        destructor = skb.destructor
        if destructor is not None:
            skb.destructor = None
            destructor(skb)
            skb.sk = None
        skb.pkt_type = PACKET_HOST
        skb.ip_summed = CHECKSUM_UNNECESSARY
        skb.dst = None
        skb.dev = self.nic
        self.softirq.local_bh_disable()
        self.dev.netif_rx(skb)
        self.softirq.local_bh_enable()
        return 0


def dst_confirm(sk: Sock, jiffies: int) -> None:
    """Note that the peer of ``sk`` has just been heard (``dst_confirm()``): its neighbour entry needs no probe."""
    dst = sk.sk_dst
    if dst is not None and dst.neigh is not None:
        dst.neigh.confirmed = jiffies
