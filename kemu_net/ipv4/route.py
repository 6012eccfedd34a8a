"""Looking up routes (2.6.23 net/ipv4/route.c): one real ``ip_dst_cache`` object per pair of addresses and direction.

Interface
    RouteCache.ip_route_output(daddr, saddr=0)   the route to an address: a Dst, or a negative errno
    RouteCache.ip_route_input(daddr, saddr)      the route of a received packet: a Dst, or a negative errno
    RouteCache.ip_rt_update_pmtu(dst, mtu)       a path is narrower than thought
    RouteCache.ip_rt_frag_needed(...)            a router says so
    RouteCache.max_size                          ip_rt_max_size, which patch 18 makes a reserve of

Rules
    * A lookup that misses allocates with GFP_ATOMIC in whatever context it runs; in softirq only PF_MEMALLOC (patch 23) entitles
      it. Of a received packet a miss also checks the addresses: a martian gets no entry.
    * A path's MTU is learnt for 600 s, and is at least 552: below that DF is given up instead.
    * One entry per (source, destination) for input and output each; type of service and device are not part of the key.
    * Left out: redirects, multicast (but 224.0.0.1, as every host is in that group), forwarding, policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import EHOSTUNREACH, EINVAL, ENETUNREACH, ENOBUFS
from kemu.kernel.timer import HZ
from kemu_net.core.dst import Dst
from kemu_net.ipv4.route_table import RouteTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.dev import NetDevice
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.ipv4.arp import Arp

INADDR_BROADCAST = 0xFFFFFFFF
INADDR_ALLHOSTS = 0xE0000001
LOOPBACK_MTU = 16436
MTU_EXPIRES = 600 * HZ  # ip_rt_mtu_expires
MIN_PMTU = 552  # ip_rt_min_pmtu: 512 + 20 + 20
#: What a router may have that says "too long" without saying how long (RFC 1191, 7.1).
MTU_PLATEAUS = (32000, 17914, 8166, 4352, 2002, 1492, 576, 296, 216, 128)


class RouteCache(RouteTable):
    """Routes of a host with one interface.

    :param pages: pages of low memory, which fix the table's size.
    :param prefix: length of the network prefix on the link.
    :param gateway: next hop for everything else, or 0.
    :ivar link_failure: tells the sender of a packet that its next hop does not answer (ICMP), set by Inet.
    """

    def __init__(
        self, kernel: Kernel, slub: Slub, arp: Arp, nic: NetDevice, ip: int, pages: int, *, prefix: int = 24, gateway: int = 0
    ) -> None:
        super().__init__(kernel, slub, pages, arp.neigh_release)
        self.arp = arp
        self.nic = nic
        self.ip = ip
        self.netmask = INADDR_BROADCAST << (32 - prefix) & INADDR_BROADCAST
        self.broadcast = ip | ~self.netmask & INADDR_BROADCAST
        self.gateway = gateway
        self.link_failure: Callable[[SkBuff], None] | None = None

    def is_local(self, addr: int) -> bool:
        """Tell whether a packet to ``addr`` is for this host (RTN_LOCAL or RTN_BROADCAST)."""
        return addr in (self.ip, INADDR_BROADCAST, self.broadcast) or addr >> 24 == 127

    # output

    def ip_route_output(self, daddr: int, saddr: int = 0) -> Dst | int:
        """Find the way to ``daddr`` (``ip_route_output_key()``): a Dst, -ENETUNREACH, -EINVAL or -ENOBUFS."""
        saddr = saddr or self.ip
        dst = self.entries.get(saddr << 33 | daddr << 1 | 1)
        if dst is not None:
            dst.lastuse = self.sched.jiffies
            return dst
        return self._output_slow(daddr, saddr)

    def _output_slow(self, daddr: int, saddr: int) -> Dst | int:
        """Make the way to ``daddr`` (``ip_route_output_slow()``)."""
        if saddr >= 0xE0000000 or not saddr >> 24:
            return -EINVAL
        local = daddr == self.ip or daddr >> 24 == 127 or not daddr
        hop = daddr
        if daddr == self.broadcast:
            hop = INADDR_BROADCAST
        elif not local and (daddr ^ self.ip) & self.netmask and daddr != INADDR_BROADCAST:
            if not self.gateway:
                return -ENETUNREACH
            hop = self.gateway
        dst = self._dst_alloc(saddr, daddr)
        if dst is None:
            return -ENOBUFS
        dst.broadcast = hop == INADDR_BROADCAST
        if local:
            dst.local = True
            dst.mtu = LOOPBACK_MTU
        elif not self._bind_neighbour(dst, hop):
            self._destroy(dst)
            return -ENOBUFS
        self.rt_intern_hash(dst, saddr << 33 | daddr << 1 | 1)
        return dst

    def _bind_neighbour(self, dst: Dst, hop: int) -> bool:
        """Find the next hop (``arp_bind_neighbour()``); a full table is asked once more after the routes let go of some."""
        neigh = self.arp.neigh_lookup_create(hop)
        if neigh is None and not self.sched.in_softirq() and len(self.arp.table) >= self.arp.gc_thresh3:
            saved = self.gc_elasticity, self.gc_min_interval
            self.gc_elasticity, self.gc_min_interval = 1, 0
            self.rt_garbage_collect()
            self.gc_elasticity, self.gc_min_interval = saved
            neigh = self.arp.neigh_lookup_create(hop)
        if neigh is None:
            return False
        neigh.refcnt += 1
        dst.neigh = neigh
        return True

    def rebind_neighbour(self, dst: Dst) -> bool:
        """Give a route whose neighbour left the table its successor; False without memory."""
        old = dst.neigh
        assert old is not None
        neigh = self.arp.neigh_lookup_create(old.ip)
        if neigh is None:
            return False
        neigh.refcnt += 1
        dst.neigh = neigh
        self.arp.neigh_release(old)
        return True

    # input

    def ip_route_input(self, daddr: int, saddr: int) -> Dst | int:
        """Find what becomes of a received packet (``ip_route_input()``): a local Dst, or why it is none of ours.

        -EINVAL: a martian. -EHOSTUNREACH: for another host. -ENOBUFS: no memory.
        """
        dst = self.entries.get(saddr << 33 | daddr << 1)
        if dst is not None:
            dst.lastuse = self.sched.jiffies
            return dst
        return self._input_slow(daddr, saddr)

    def _input_slow(self, daddr: int, saddr: int) -> Dst | int:
        """Check the addresses, and make an entry of what is for this host (``ip_route_input_slow()``)."""
        if saddr >= 0xE0000000 or saddr >> 24 == 127:
            return -EINVAL
        to_all = daddr in (INADDR_BROADCAST, self.broadcast)
        if not to_all and (not saddr >> 24 or daddr >= 0xF0000000 or daddr >> 24 in (0, 127)):
            return -EINVAL
        if to_all and not saddr >> 24 and saddr:
            return -EINVAL
        if to_all or daddr in (self.ip, INADDR_ALLHOSTS):
            if saddr in (self.ip, self.broadcast):
                return -EINVAL  # fib_validate_source(): nobody else may send with an address of ours
        else:
            return -EHOSTUNREACH
        dst = self._dst_alloc(saddr, daddr)
        if dst is None:
            return -ENOBUFS
        dst.local = True
        dst.broadcast = to_all or daddr == INADDR_ALLHOSTS
        self.rt_intern_hash(dst, saddr << 33 | daddr << 1)
        return dst

    def _dst_alloc(self, saddr: int, daddr: int) -> Dst | None:
        """Allocate an entry, collecting garbage when there are many (``dst_alloc()``)."""
        if self.live > self.gc_thresh and not self.rt_garbage_collect():
            return None
        return self.dst_alloc(saddr, daddr, self.nic)

    # what is learnt of a path

    def ip_rt_update_pmtu(self, dst: Dst, mtu: int) -> None:
        """Note that packets above ``mtu`` do not get through (``ip_rt_update_pmtu()``)."""
        if dst.mtu <= mtu or mtu < 68 or not dst.df:
            return
        if mtu < MIN_PMTU:
            mtu = MIN_PMTU
            dst.df = 0  # the metric is locked: let routers fragment
            dst.csum -= 0x4000
        dst.mtu = mtu
        expires = self.sched.jiffies + MTU_EXPIRES
        dst.expires = min(dst.expires, expires) if dst.expires else expires

    def ip_rt_frag_needed(self, saddr: int, daddr: int, total: int, ihl: int, mtu: int) -> int:
        """Take what a router says of a packet of ours of ``total`` bytes (``ip_rt_frag_needed()``): give the MTU to use, or 0.

        :param mtu: what it names as the next hop's MTU; 0 from routers that do not know RFC 1191.
        """
        dst = self.entries.get(saddr << 33 | daddr << 1 | 1)
        if dst is None or not dst.df:
            return mtu
        narrower = mtu
        if narrower < 68 or narrower >= total:
            if not narrower and total >= dst.mtu and total >= 68 + ihl:
                total -= ihl  # 4.2BSD counts without the header
            narrower = next((plateau for plateau in MTU_PLATEAUS if total > plateau), 68)
        if narrower > dst.mtu:
            return mtu
        if dst.neigh is not None:
            dst.neigh.confirmed = self.sched.jiffies
        self.ip_rt_update_pmtu(dst, narrower)
        return dst.mtu

    def ipv4_link_failure(self, skb: SkBuff) -> None:
        """Tell who sent ``skb`` that its next hop does not answer, and forget the route (``ipv4_link_failure()``)."""
        if self.link_failure is not None:
            self.link_failure(skb)
        dst = skb.dst
        if dst is not None and not dst.obsolete:
            dst.expires = self.sched.jiffies or 1
