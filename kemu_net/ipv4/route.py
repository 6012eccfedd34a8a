"""The route cache (2.6.23 net/ipv4/route.c): one real ``ip_dst_cache`` object per pair of addresses.

Interface
    RouteCache.ip_route_output(daddr, saddr=0)   the route to an address: a Dst, or a negative errno
    RouteCache.ip_route_input(daddr, saddr)      the route of a received packet: a Dst, or a negative errno
    RouteCache.max_size                          ip_rt_max_size, which patch 18 makes a reserve of

Rules
    * A lookup that misses allocates with GFP_ATOMIC in whatever context it runs; in softirq only PF_MEMALLOC (patch 23) entitles
      it.
    * The cache is emptied every 600 s. Whoever looks something up checks that: no timer keeps an idle machine awake. A Dst that
      left the cache is ``obsolete``: who keeps one (a socket) looks up anew.
    * One entry per (source, destination) for input and output each; type of service and device are not part of the key.
    * Left out: reference counts (an obsolete entry is freed at once), redirects, path MTU, multicast, forwarding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel.errno import ENETUNREACH, ENOBUFS
from kemu.kernel.timer import HZ
from kemu.mm.gfp import GFP_ATOMIC
from kemu.mm.slub import SLAB_HWCACHE_ALIGN

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.dev import NetDevice
    from kemu_net.ipv4.arp import Arp, Neighbour

SIZEOF_RTABLE = 320
FLUSH_INTERVAL = 600 * HZ  # ip_rt_secret_interval
GC_TIMEOUT = 300 * HZ
GC_MIN_INTERVAL = HZ // 2
INADDR_BROADCAST = 0xFFFFFFFF
_MIB = 1 << 20


def rt_hash_entries(pages: int) -> int:
    """Give the buckets of the route cache for so many pages of low memory (``alloc_large_system_hash()`` in ip_rt_init())."""
    memory = -(-(pages << 12) // _MIB) * _MIB
    entries = memory >> (15 if memory >= 512 * _MIB else 17)
    entries = max(entries, 512)  # a page of pointers
    return 1 << (entries - 1).bit_length()


class Dst:
    """``struct rtable`` with its ``struct dst_entry``.

    :ivar neigh: the next hop; None for what is delivered here.
    :ivar csum: sum of the words of an IP header to it that never change.
    """

    __slots__ = ("addr", "csum", "daddr", "lastuse", "local", "neigh", "nic", "obsolete", "saddr")

    def __init__(self, addr: int, saddr: int, daddr: int, nic: NetDevice, now: int) -> None:
        self.addr = addr
        self.saddr = saddr
        self.daddr = daddr
        self.nic = nic
        self.lastuse = now
        self.neigh: Neighbour | None = None
        self.local = False
        self.obsolete = False
        # version, length and TOS 0x4500; don't fragment 0x4000; TTL 64
        self.csum = 0x4500 + 0x4000 + 0x4000 + saddr + daddr

    def __repr__(self) -> str:
        """Say what ``ip route show cache`` would print."""
        kind = "local " if self.local else ""
        return f"<{kind}route {self.saddr:#010x} -> {self.daddr:#010x} via {self.neigh!r}{' obsolete' if self.obsolete else ''}>"


class RouteCache:
    """Routes of a host with one interface.

    :param pages: pages of low memory, which fix the table's size.
    :param prefix: length of the network prefix on the link.
    :param gateway: next hop for everything else, or 0.
    :ivar alloc_failed: lookups that found no memory.
    """

    def __init__(
        self, kernel: Kernel, slub: Slub, arp: Arp, nic: NetDevice, ip: int, pages: int, *, prefix: int = 24, gateway: int = 0
    ) -> None:
        self.sched = kernel.sched
        self.slub = slub
        self.arp = arp
        self.nic = nic
        self.ip = ip
        self.netmask = INADDR_BROADCAST << (32 - prefix) & INADDR_BROADCAST
        self.broadcast = ip | ~self.netmask & INADDR_BROADCAST
        self.gateway = gateway
        self.gc_thresh = rt_hash_entries(pages)
        self.max_size = 16 * self.gc_thresh
        self.ip_dst_cache = slub.kmem_cache_create("ip_dst_cache", SIZEOF_RTABLE, 0, SLAB_HWCACHE_ALIGN)
        self.entries: dict[int, Dst] = {}
        self.alloc_failed = 0
        self._flushed = 0
        self._collected = -GC_MIN_INTERVAL

    def is_local(self, addr: int) -> bool:
        """Tell whether a packet to ``addr`` is for this host (RTN_LOCAL or RTN_BROADCAST)."""
        return addr in (self.ip, INADDR_BROADCAST, self.broadcast) or addr >> 24 == 127

    def ip_route_output(self, daddr: int, saddr: int = 0) -> Dst | int:
        """Find the way to ``daddr`` (``ip_route_output_key()``): a Dst, -ENETUNREACH or -ENOBUFS."""
        saddr = saddr or self.ip
        now = self.sched.jiffies
        if now - self._flushed >= FLUSH_INTERVAL:
            self.rt_cache_flush()
        dst = self.entries.get(saddr << 33 | daddr << 1 | 1)
        if dst is not None:
            dst.lastuse = now
            return dst
        local = daddr == self.ip or daddr >> 24 == 127
        hop = daddr
        if daddr == self.broadcast:
            hop = INADDR_BROADCAST
        elif not local and (daddr ^ self.ip) & self.netmask and daddr != INADDR_BROADCAST:
            if not self.gateway:
                return -ENETUNREACH
            hop = self.gateway
        dst = self._dst_alloc(saddr, daddr, now)
        if dst is None:
            return -ENOBUFS
        if local:
            dst.local = True
        else:
            dst.neigh = self.arp.neigh_lookup_create(hop)
            if dst.neigh is None:
                self._dst_free(dst)
                return -ENOBUFS
        self.entries[saddr << 33 | daddr << 1 | 1] = dst
        return dst

    def ip_route_input(self, daddr: int, saddr: int) -> Dst | int:
        """Find what becomes of a received packet (``ip_route_input()``): a local Dst, -ENETUNREACH or -ENOBUFS."""
        now = self.sched.jiffies
        if now - self._flushed >= FLUSH_INTERVAL:
            self.rt_cache_flush()
        dst = self.entries.get(saddr << 33 | daddr << 1)
        if dst is not None:
            dst.lastuse = now
            return dst
        if not self.is_local(daddr):
            return -ENETUNREACH
        dst = self._dst_alloc(saddr, daddr, now)
        if dst is None:
            return -ENOBUFS
        dst.local = True
        self.entries[saddr << 33 | daddr << 1] = dst
        return dst

    def _dst_alloc(self, saddr: int, daddr: int, now: int) -> Dst | None:
        """Allocate an entry, collecting garbage when there are many (``dst_alloc()``)."""
        if len(self.entries) > self.gc_thresh and not self._garbage_collect(now):
            return None
        addr = self.slub.kmem_cache_alloc(self.ip_dst_cache, GFP_ATOMIC)
        if addr is None:
            self.alloc_failed += 1
            return None
        return Dst(addr, saddr, daddr, self.nic, now)

    def _dst_free(self, dst: Dst) -> None:
        dst.obsolete = True
        self.slub.kmem_cache_free(self.ip_dst_cache, dst.addr)

    def _garbage_collect(self, now: int) -> bool:
        """Drop entries that were long unused; a full cache drops younger ones too (``rt_garbage_collect()``). False: it is full."""
        full = len(self.entries) >= self.max_size
        if not full and now - self._collected < GC_MIN_INTERVAL:
            return True
        self._collected = now
        goal = self.max_size - (self.max_size >> 3)
        expire = GC_TIMEOUT
        while expire:
            for key, dst in list(self.entries.items()):
                if now - dst.lastuse >= expire:
                    del self.entries[key]
                    self._dst_free(dst)
            if not full or len(self.entries) < goal:
                return True
            expire >>= 2
        return len(self.entries) < self.max_size

    def rt_cache_flush(self) -> None:
        """Empty the cache (``rt_cache_flush()``)."""
        self._flushed = self.sched.jiffies
        for dst in self.entries.values():
            self._dst_free(dst)
        self.entries.clear()

    def check(self) -> None:
        """Assert that every cached entry is alive and counted by its slab."""
        if any(dst.obsolete for dst in self.entries.values()):
            raise KernelBug("route cache: an obsolete entry is still in the table", state=self.entries)
        if len(self.entries) > self.max_size + 1:
            raise KernelBug(f"route cache: {len(self.entries)} entries, limit {self.max_size}", state=self)
