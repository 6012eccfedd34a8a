"""Routes of IPv6 (2.6.23 net/ipv6/route.c, ip6_fib.c): ``ip6_dst_cache`` objects, one per destination.

Interface
    Ip6Route.ip6_route_input(daddr)    the route of a received packet: a Dst, -EHOSTUNREACH or -ENOBUFS
    Ip6Route.ip6_route_output(daddr)   the way to an address of the link: a Dst, -ENETUNREACH or -ENOBUFS
    Ip6Route.max_size                  ip6_rt_max_size, which patch 18 makes a reserve of

Rules
    * A miss allocates with GFP_ATOMIC wherever the code runs. Above gc_thresh (1024) entries each allocation looks for old ones;
      above max_size (4096) it fails.
    * What was unused for gc_timeout (60 s) goes; a timer looks every 30 s, while there are entries. Under pressure the time that
      an entry gets shrinks with every collection (``expire``).
    * A dict of destinations stands for the tree. 2.6.23 makes the routes of the own addresses when an address is added, and keeps
      them; here the first packet makes them, and they age as the others.
    * Left out: prefixes from routers, gateways (what is not on the link is unreachable), path MTU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import EHOSTUNREACH, ENETUNREACH, ENOBUFS
from kemu.kernel.timer import HZ, Timer
from kemu_net.core.dst import Dst, DstGc
from kemu_net.ipv6.addr import ALL_NODES, is_link_local, is_multicast, solicited_node
from kemu_net.ipv6.reserves import IP6_RT_MAX_SIZE, SIZEOF_RT6_INFO

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.dev import NetDevice
    from kemu_net.ipv6.ndisc import Ndisc


class Ip6Route(DstGc):
    """The routes of one host.

    :param addresses: its own; all but the link-local one have a prefix of 64 bits on the link.
    """

    def __init__(self, kernel: Kernel, slub: Slub, ndisc: Ndisc, nic: NetDevice, addresses: tuple[int, ...]) -> None:
        super().__init__(kernel, slub, "ip6_dst_cache", SIZEOF_RT6_INFO, ndisc.neigh_release)
        self.ndisc = ndisc
        self.nic = nic
        self.addresses = addresses
        self.groups = frozenset((ALL_NODES, *map(solicited_node, addresses)))
        self.max_size = IP6_RT_MAX_SIZE
        self.gc_thresh = 1024
        self.gc_timeout = 60 * HZ
        self.gc_interval = 30 * HZ
        self.gc_min_interval = HZ // 2
        self.gc_elasticity = 9
        self.entries: dict[int, Dst] = {}
        self._last_gc = -self.gc_min_interval
        self._expire = self.gc_interval
        self._timer = Timer("ip6_fib", self._run_gc_timer)
        for name in ("gc_thresh", "gc_elasticity"):
            kernel.sysctl.register(
                f"net.ipv6.route.{name}",
                lambda name=name: getattr(self, name),  # type: ignore[misc]  # the default binds the loop's value
                lambda value, name=name: setattr(self, name, value),
            )

    def ip6_route_input(self, daddr: int) -> Dst | int:
        """Find what becomes of a received packet (``ip6_route_input()``)."""
        dst = self.entries.get(daddr << 1)
        if dst is not None:
            dst.lastuse = self.sched.jiffies
            return dst
        if daddr not in self.addresses and daddr not in self.groups:
            return -EHOSTUNREACH
        dst = self._ip6_dst_alloc(daddr, daddr << 1)
        if dst is None:
            return -ENOBUFS
        dst.local = True
        dst.broadcast = daddr in self.groups
        return dst

    def ip6_route_output(self, daddr: int) -> Dst | int:
        """Find the way to ``daddr`` (``ip6_route_output()``, ``rt6_alloc_cow()``)."""
        dst = self.entries.get(daddr << 1 | 1)
        if dst is not None:
            dst.lastuse = self.sched.jiffies
            return dst
        on_link = is_link_local(daddr) or is_multicast(daddr) or any(daddr >> 64 == own >> 64 for own in self.addresses)
        if not on_link or daddr in self.addresses:
            return -ENETUNREACH
        neigh = self.ndisc.neigh_lookup_create(daddr)
        if neigh is None:
            return -ENOBUFS
        dst = self._ip6_dst_alloc(daddr, daddr << 1 | 1)
        if dst is None:
            return -ENOBUFS
        neigh.refcnt += 1
        dst.neigh = neigh
        dst.broadcast = is_multicast(daddr)
        return dst

    def source_for(self, daddr: int) -> int:
        """Give the own address to write to ``daddr`` from (``ipv6_get_saddr()``)."""
        for own in self.addresses:
            if own >> 64 == daddr >> 64:
                return own
        return self.addresses[0]

    def _ip6_dst_alloc(self, daddr: int, key: int) -> Dst | None:
        """Allocate and enter a route (``ip6_dst_alloc()``)."""
        if self.live > self.gc_thresh and not self.ip6_dst_gc():
            return None
        dst = self.dst_alloc(self.addresses[0], daddr, self.nic)
        if dst is not None:
            dst.key = key
            self.entries[key] = dst
            if not self._timer.pending:
                self.timers.mod_timer(self._timer, self.sched.jiffies + self.gc_interval)
        return dst

    def ip6_dst_gc(self) -> bool:
        """Drop what is old (``ip6_dst_gc()``); False: there are more than max_size."""
        now = self.sched.jiffies
        if self._last_gc + self.gc_min_interval <= now or self.live > self.max_size:
            self._expire += 1
            self._age(now, self._expire)
            self._last_gc = now
            if self.live < self.gc_thresh:
                self._expire = self.gc_timeout >> 1
        self._expire -= self._expire >> self.gc_elasticity
        return self.live <= self.max_size

    def _age(self, now: int, timeout: int) -> None:
        """Drop every route that nobody holds and nobody used for so long (``fib6_age()``)."""
        old = [dst for dst in self.entries.values() if not dst.refcnt and now - dst.lastuse >= timeout]
        for dst in old:
            del self.entries[dst.key]
            self.dst_free(dst)

    def _run_gc_timer(self, _data: object) -> None:
        """Look for old routes, and again in 30 s if some stay (``fib6_run_gc()``)."""
        self._age(self.sched.jiffies, self.gc_timeout)
        if self.entries:
            self.timers.mod_timer(self._timer, self.sched.jiffies + self.gc_interval)

    def close(self) -> None:
        """Free all routes."""
        for dst in self.entries.values():
            self.dst_free(dst)
        self.entries.clear()
        self.dst_ifdown()
        self.timers.del_timer(self._timer)
