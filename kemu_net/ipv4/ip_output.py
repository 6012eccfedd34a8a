"""Sending IPv4 packets (2.6.23 net/ipv4/ip_output.c).

Interface
    IpOutput.ip_queue_xmit(skb, sk)                    a socket's packet, data at the transport header; sk.sk_dst keeps the route
    IpOutput.ip_send_skb(skb, saddr, daddr, proto)     a packet without a socket: resets, ICMP, UDP
    IpOutput.ip_local_out(skb, dst)                    a packet with a header of its own, data at it (raw sockets)
    ip_fragment(), ip_send_datagram()                  see ip_split.py
    dst_confirm(sk, jiffies)                           a protocol heard from the peer: its neighbour is alive

Rules
    * All take the skb over, also when they fail: 0, or -EHOSTUNREACH when there is no route or no memory for one.
    * An skb may come with ip_summed = CHECKSUM_PARTIAL and a checksum field of zero: the NIC fills it in when it reads the
      fragments, so that a page that changes meanwhile still goes out with a right checksum.
    * To a neighbour that is known, the Ethernet and the IP header are put before the data in one step. What is too long for the
      path, or has options of its socket, or finds netfilter hooks, takes the long way.
    * Packets to the own address go to the backlog of this CPU, with their route.
    * Left out: IP options, multicast; the identity is one counter of the host, not one per peer.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import EHOSTUNREACH
from kemu_net.core.dev import ETH_P_IP
from kemu_net.core.dst import sk_dst_set
from kemu_net.core.neighbour import NUD_CONNECTED
from kemu_net.core.skbuff import CHECKSUM_UNNECESSARY, PACKET_HOST
from kemu_net.core.uapi import IP_PMTUDISC_DONT, IP_PMTUDISC_WANT
from kemu_net.ipv4.ip_split import IpSplit

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.dev import Dev, NetDevice
    from kemu_net.core.dst import Dst
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.sock import Sock
    from kemu_net.ipv4.arp import Arp
    from kemu_net.ipv4.route import RouteCache
    from kemu_net.netfilter.core import NfHooks

IP_HLEN = 20
IP_DF = 0x4000
TTL = 64
NF_IP_LOCAL_OUT = 3
NF_IP_POST_ROUTING = 4

pack_iphdr = struct.Struct("!HHHHBBHII").pack


class IpOutput(IpSplit):
    """The way out of one host."""

    def __init__(self, kernel: Kernel, dev: Dev, nic: NetDevice, arp: Arp, route: RouteCache, nf: NfHooks | None = None) -> None:
        super().__init__(dev.skbs)
        self.softirq = kernel.softirq
        self.dev = dev
        self.nic = nic
        self.arp = arp
        self.route = route
        self.nf = nf
        self.hooks: list[Any] = [[] for _ in range(5)] if nf is None else nf.registered
        self.ident = 0

    def ip_queue_xmit(self, skb: SkBuff, sk: Sock) -> int:
        """Send a socket's packet (``ip_queue_xmit()``)."""
        dst = sk.sk_dst
        if dst is None or dst.obsolete:
            found = self.route.ip_route_output(sk.daddr, sk.saddr)
            if isinstance(found, int):
                sk_dst_set(sk, None)
                self.skbs.kfree_skb(skb, "no route")
                return -EHOSTUNREACH
            sk_dst_set(sk, found)
            dst = found
        if sk.tos or sk.uc_ttl >= 0 or sk.pmtudisc != IP_PMTUDISC_WANT:
            df = 0 if sk.pmtudisc == IP_PMTUDISC_DONT else dst.df if sk.pmtudisc == IP_PMTUDISC_WANT else IP_DF
            return self._build_and_send(skb, dst, sk.sk_protocol, sk.tos, TTL if sk.uc_ttl < 0 else sk.uc_ttl, df)
        return self.ip_output(skb, dst, sk.sk_protocol)

    def ip_send_skb(self, skb: SkBuff, saddr: int, daddr: int, proto: int, tos: int = 0, ttl: int = TTL, df: int = IP_DF) -> int:
        """Send a packet that no connected socket stands behind."""
        dst = self.route.ip_route_output(daddr, saddr)
        if isinstance(dst, int):
            self.skbs.kfree_skb(skb, "no route")
            return -EHOSTUNREACH
        if tos or ttl != TTL or df != IP_DF:
            return self._build_and_send(skb, dst, proto, tos, ttl, df)
        return self.ip_output(skb, dst, proto)

    def ip_output(self, skb: SkBuff, dst: Dst, proto: int) -> int:
        """Put the IP header before the transport header and pass the packet on (``ip_output()``, ``ip_finish_output()``)."""
        total = skb.len + IP_HLEN
        hooks = self.hooks
        if total > dst.mtu or hooks[3] or hooks[4]:
            return self._build_and_send(skb, dst, proto, 0, TTL, dst.df)
        self.ident = ident = (self.ident + 1) & 0xFFFF
        check = -(dst.csum + total + ident + proto) % 65535
        header = pack_iphdr(0x4500, total, ident, dst.df, TTL, proto, check, dst.saddr, dst.daddr)
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
            skb.dev = self.nic
            return self.dev.dev_queue_xmit(skb)
        skb.buf = header + buf
        skb.data = skb.nh = 0
        skb.h = IP_HLEN
        skb.len = total
        skb.dst = dst
        return self.ip_finish_output2(skb)

    # the long way

    def _build_and_send(self, skb: SkBuff, dst: Dst, proto: int, tos: int, ttl: int, df: int) -> int:
        """Put a header with choices of the sender's before the transport header, and send the packet through the hooks."""
        total = skb.len + IP_HLEN
        self.ident = ident = (self.ident + 1) & 0xFFFF
        kind = 0x4500 | tos
        check = -(kind + total + ident + df + (ttl << 8 | proto) + dst.saddr + dst.daddr) % 65535
        header = pack_iphdr(kind, total, ident, df, ttl, proto, check, dst.saddr, dst.daddr)
        skb.buf = header + skb.buf[skb.data :]
        skb.data = skb.nh = 0
        skb.h = IP_HLEN
        skb.len = total
        return self.ip_local_out(skb, dst)

    def ip_local_out(self, skb: SkBuff, dst: Dst) -> int:
        """Send a packet of this host whose header is built (``dst_output()`` after NF_IP_LOCAL_OUT)."""
        skb.protocol = ETH_P_IP
        skb.dst = dst
        if self.hooks[NF_IP_LOCAL_OUT]:
            assert self.nf is not None
            return self.nf.nf_hook_slow(NF_IP_LOCAL_OUT, skb, None, self.nic, self.dst_output)
        return self.dst_output(skb)

    def dst_output(self, skb: SkBuff) -> int:
        """Take a packet through the last hooks (``ip_output()``)."""
        if self.hooks[NF_IP_POST_ROUTING]:
            assert self.nf is not None
            return self.nf.nf_hook_slow(NF_IP_POST_ROUTING, skb, None, self.nic, self.ip_finish_output)
        return self.ip_finish_output(skb)

    def ip_finish_output(self, skb: SkBuff) -> int:
        """Split what is too long for the path (``ip_finish_output()``)."""
        if skb.len > skb.dst.mtu:
            return self.ip_fragment(skb)
        return self.ip_finish_output2(skb)

    def ip_finish_output2(self, skb: SkBuff) -> int:
        """Give a packet, its data at the IP header, to the next hop (``ip_finish_output2()``)."""
        dst: Dst = skb.dst
        if dst.local:
            return self._loopback(skb)
        neigh = dst.neigh
        if neigh is None or (neigh.dead and not self.route.rebind_neighbour(dst)):
            self.skbs.kfree_skb(skb, "no neighbour")
            return -EHOSTUNREACH
        assert dst.neigh is not None
        return self.arp.neigh_resolve_output(dst.neigh, skb)

    def _loopback(self, skb: SkBuff) -> int:
        """Give a packet to this host itself (``loopback_xmit()``)."""
        destructor = skb.destructor
        if destructor is not None:
            skb.destructor = None
            destructor(skb)
            skb.sk = None
        skb.pkt_type = PACKET_HOST
        skb.ip_summed = CHECKSUM_UNNECESSARY
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
