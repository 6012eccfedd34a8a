"""Destinations: what a route cache entry is to everybody but the cache (2.6.23 include/net/dst.h, net/core/dst.c).

Interface
    Dst                          one entry; who keeps one writes ``dst.refcnt += 1`` (dst_hold()) and ``-= 1`` (dst_release())
    DstGc.dst_alloc(...)         a slab object, or None
    DstGc.dst_free(dst)          the cache lets go of an entry: freed at once, or when its last holder has released it
    sk_dst_set(sk, dst)          a socket keeps a route, or forgets it (None)

Rules
    * Sockets hold the routes that they keep; a packet merely knows its route, since nothing looks at the route of a packet that
      waits.
    * Releasing is a decrement, as in the kernel. An entry that left the cache while somebody held it is ``obsolete`` (who keeps it
      looks up anew) and waits in a list, which a timer walks: after 0.1 s, then ever less often, at least every 120 s.
    * ``live`` counts the entries that exist, waiting ones included: that is what limits look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.kernel.timer import HZ, Timer
from kemu.mm.gfp import GFP_ATOMIC
from kemu.mm.slub import SLAB_HWCACHE_ALIGN

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.neighbour import Neighbour

DST_GC_MIN = HZ // 10
DST_GC_INC = HZ // 2
DST_GC_MAX = 120 * HZ
#: A fresh entry may send so many ICMP errors at once: its bucket counts from the start of time, and is full.
LONG_AGO = -(1 << 40)


class Dst:
    """``struct dst_entry``, and of ``struct rtable`` and ``struct rt6_info`` what output and ICMP look at.

    :ivar key: where the cache has it; ``chain``: the hash chain.
    :ivar neigh: the next hop; None for what is delivered here.
    :ivar csum: sum of the words of an IPv4 header to it that never change.
    :ivar df: IP_DF, or 0 once the path's MTU is too small to be believed.
    :ivar expires: jiffy at which what was learnt of the path is forgotten, or 0.
    :ivar broadcast: it leads to all hosts of the link, or came from one that wrote to all.
    """

    __slots__ = (
        "addr",
        "broadcast",
        "chain",
        "csum",
        "daddr",
        "df",
        "expires",
        "key",
        "lastuse",
        "local",
        "mtu",
        "neigh",
        "nic",
        "obsolete",
        "rate_last",
        "rate_tokens",
        "refcnt",
        "saddr",
    )

    def __init__(self, addr: int, saddr: int, daddr: int, nic: Any, now: int) -> None:
        self.addr = addr
        self.saddr = saddr
        self.daddr = daddr
        self.nic = nic
        self.lastuse = now
        self.key = self.chain = 0
        self.neigh: Neighbour | None = None
        self.local = self.broadcast = self.obsolete = False
        self.refcnt = 0
        self.mtu: int = nic.mtu
        self.expires = 0
        self.rate_tokens = 0
        self.rate_last = LONG_AGO
        self.df = 0x4000
        # version, length and TOS 0x4500; don't fragment 0x4000; TTL 64
        self.csum = 0x4500 + 0x4000 + 0x4000 + saddr + daddr

    def __repr__(self) -> str:
        """Say what ``ip route show cache`` would print."""
        kind = "local " if self.local else ""
        return f"<{kind}route {self.saddr:#010x} -> {self.daddr:#010x} via {self.neigh!r}{' obsolete' if self.obsolete else ''}>"


class DstGc:
    """``struct dst_ops`` of one family with its slab cache, and the list of what waits for its holders.

    :param release: what to do with an entry's neighbour when the entry dies.
    :ivar alloc_failed: lookups that found no memory.
    """

    def __init__(self, kernel: Kernel, slub: Slub, name: str, size: int, release: Callable[[Neighbour], None]) -> None:
        self.sched = kernel.sched
        self.timers = kernel.timers
        self.slub = slub
        self.cache = slub.kmem_cache_create(name, size, 0, SLAB_HWCACHE_ALIGN)
        self._neigh_release = release
        self.live = 0
        self.alloc_failed = 0
        self.waiting: list[Dst] = []
        self._gc_timer = Timer("dst_gc", self._run_gc)
        self._gc_expires = 0
        self._gc_inc = DST_GC_MAX

    def dst_alloc(self, saddr: int, daddr: int, nic: Any) -> Dst | None:
        """Allocate an entry with GFP_ATOMIC (``dst_alloc()`` after its collector)."""
        addr = self.slub.kmem_cache_alloc(self.cache, GFP_ATOMIC)
        if addr is None:
            self.alloc_failed += 1
            return None
        self.live += 1
        return Dst(addr, saddr, daddr, nic, self.sched.jiffies)

    def dst_free(self, dst: Dst) -> None:
        """Free an entry that left the cache, now or when nobody holds it any more (``dst_free()``)."""
        if dst.obsolete:
            return
        dst.obsolete = True
        if not dst.refcnt:
            self._destroy(dst)
            return
        self.waiting.append(dst)
        if self._gc_inc > DST_GC_INC:
            self._gc_inc = DST_GC_INC
            self._gc_expires = DST_GC_MIN
            self.timers.mod_timer(self._gc_timer, self.sched.jiffies + DST_GC_MIN)

    def _destroy(self, dst: Dst) -> None:
        """Free an entry that nobody holds (``dst_destroy()``)."""
        neigh = dst.neigh
        if neigh is not None:
            dst.neigh = None
            self._neigh_release(neigh)
        self.live -= 1
        self.slub.kmem_cache_free(self.cache, dst.addr)

    def _run_gc(self, _data: object) -> None:
        """Free what was released meanwhile (``dst_run_gc()``)."""
        still = []
        for dst in self.waiting:
            if dst.refcnt > 0:
                still.append(dst)
            else:
                self._destroy(dst)
        self.waiting[:] = still
        if not still:
            self._gc_inc = DST_GC_MAX
            return
        self._gc_expires = min(self._gc_expires + self._gc_inc, DST_GC_MAX)
        self._gc_inc += DST_GC_INC
        self.timers.mod_timer(self._gc_timer, self.sched.jiffies + self._gc_expires)

    def dst_ifdown(self) -> None:
        """Free what waits although it is held: the device goes away, and nobody will send on it again (``dst_ifdown()``)."""
        for dst in self.waiting:
            self._destroy(dst)
        self.waiting.clear()
        self.timers.del_timer(self._gc_timer)
        self._gc_inc = DST_GC_MAX


def sk_dst_set(sk: Any, dst: Dst | None) -> None:
    """Let a socket keep ``dst`` instead of what it kept (``sk_dst_set()``, ``sk_dst_reset()``)."""
    old = sk.sk_dst
    if dst is not None:
        dst.refcnt += 1
    sk.sk_dst = dst
    if old is not None:
        old.refcnt -= 1
