"""The table of the route cache and its collectors (2.6.23 net/ipv4/route.c).

Interface
    RouteTable.rt_intern_hash(dst, key)   enter an entry; a full chain loses its least useful one
    RouteTable.rt_garbage_collect()       False: the cache is full and nothing can go
    RouteTable.rt_cache_flush()           empty it
    sysctls net.ipv4.route.*              plain attributes here

Rules
    * Every entry hangs in one of rt_hash_entries() chains; a dict finds it. A secret drawn from the machine's randomness decides
      on the chain, and is drawn anew with every flush.
    * At most gc_elasticity + 1 entries in a chain, and gc_thresh entries before every allocation looks for garbage. How long an
      entry must have been unused to be garbage adapts: it halves with each collection that misses its goal, and grows again.
    * What a socket holds is never garbage; a flush takes it out all the same.
    * rt_check_expire() looks at a fifth of the chains every 60 s, and the cache is emptied every 600 s. Both timers run only
      while there are entries: an idle machine sleeps. They fall on whole intervals since boot (2.6.23 starts at a random one).
    * Left out: the delays of a flush that a change of configuration causes; redirects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel.timer import HZ, Timer
from kemu_net.core.dst import Dst, DstGc

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.neighbour import Neighbour

SIZEOF_RTABLE = 320
FLUSH_INTERVAL = 600 * HZ  # ip_rt_secret_interval
_MIB = 1 << 20
_GOLDEN = 0x9E3779B97F4A7C15


def rt_hash_entries(pages: int) -> int:
    """Give the buckets of the route cache for so many pages of low memory (``alloc_large_system_hash()`` in ip_rt_init())."""
    memory = -(-(pages << 12) // _MIB) * _MIB
    entries = memory >> (15 if memory >= 512 * _MIB else 17)
    entries = max(entries, 512)  # a page of pointers
    return 1 << (entries - 1).bit_length()


class RouteTable(DstGc):
    """``rt_hash_table`` and ``ipv4_dst_ops``.

    :param pages: pages of low memory, which fix the table's size.
    :ivar gc_total, gc_ignored, gc_goal_miss, gc_dst_overflow: what /proc/net/stat/rt_cache counts.
    """

    def __init__(self, kernel: Kernel, slub: Slub, pages: int, release: Callable[[Neighbour], None]) -> None:
        super().__init__(kernel, slub, "ip_dst_cache", SIZEOF_RTABLE, release)
        self.rng = kernel.rng
        self.ip_dst_cache = self.cache
        self.buckets = rt_hash_entries(pages)
        self.gc_thresh = self.buckets
        self.max_size = 16 * self.buckets
        self.gc_min_interval = HZ // 2
        self.gc_timeout = 300 * HZ
        self.gc_interval = 60 * HZ
        self.gc_elasticity = 8
        self.secret_interval = FLUSH_INTERVAL
        self.entries: dict[int, Dst] = {}
        self._chains: dict[int, list[Dst]] = {}
        self._secret = self.rng.getrandbits(64)
        self.gc_total = self.gc_ignored = self.gc_goal_miss = self.gc_dst_overflow = 0
        self._last_gc = -self.gc_min_interval
        self._expire = self.gc_timeout
        self._equilibrium = 0
        self._gc_rover = self._expire_rover = 0
        self._expire_timer = Timer("rt_check_expire", self._rt_check_expire)
        self._secret_timer = Timer("rt_secret_rebuild", self._rt_secret_rebuild)
        self._register(kernel)

    def _register(self, kernel: Kernel) -> None:
        """Make the tunables that need nothing of the reserve (net.ipv4.route.max_size does: inet_reserves.py)."""
        register = kernel.sysctl.register
        ticks = {"gc_timeout": HZ, "gc_interval": HZ, "gc_min_interval": HZ, "secret_interval": HZ}
        for name in ("gc_thresh", "gc_elasticity", "gc_timeout", "gc_interval", "gc_min_interval", "secret_interval"):
            unit = ticks.get(name, 1)
            register(
                f"net.ipv4.route.{name}",
                lambda name=name, unit=unit: getattr(self, name) // unit,  # type: ignore[misc]  # defaults bind the loop's values
                lambda value, name=name, unit=unit: setattr(self, name, value * unit),
            )
        register(
            "net.ipv4.route.gc_min_interval_ms",
            lambda: self.gc_min_interval * 1000 // HZ,
            lambda value: setattr(self, "gc_min_interval", value * HZ // 1000),
        )
        register("net.ipv4.route.flush", lambda: 0, lambda _value: self.rt_cache_flush())

    # entering and leaving

    def rt_intern_hash(self, dst: Dst, key: int) -> None:
        """Enter ``dst``; of a chain that is too long the least useful entry goes (``rt_intern_hash()``)."""
        index = ((key ^ self._secret) * _GOLDEN >> 40) % self.buckets
        dst.key = key
        dst.chain = index
        chain = self._chains.setdefault(index, [])
        if len(chain) > self.gc_elasticity:
            self._drop_least_useful(chain)
            chain = self._chains.setdefault(index, chain)
        if not self.entries:
            self._arm(self._expire_timer, self.gc_interval)
            self._arm(self._secret_timer, self.secret_interval)
        chain.append(dst)
        self.entries[key] = dst

    def _drop_least_useful(self, chain: list[Dst]) -> None:
        """Drop the entry of ``rt_score()`` least: local input before others, then the one that was unused longest."""
        least: Dst | None = None
        for dst in chain:
            if not dst.refcnt and (least is None or _score(dst) < _score(least)):
                least = dst
        if least is not None:
            self._remove(least)

    def _remove(self, dst: Dst) -> None:
        """Take an entry out of the cache (``rt_free()``)."""
        del self.entries[dst.key]
        chain = self._chains[dst.chain]
        chain.remove(dst)
        if not chain:
            del self._chains[dst.chain]
        self.dst_free(dst)

    def _arm(self, timer: Timer, interval: int) -> None:
        """Let a timer fire at the next whole interval since boot."""
        if interval > 0:
            now = self.sched.jiffies
            self.timers.mod_timer(timer, (now // interval + 1) * interval)

    # collecting

    def _may_expire(self, dst: Dst, now: int, tmo: int, valuable_tmo: int) -> bool:
        """Tell whether an entry is garbage (``rt_may_expire()``)."""
        if dst.refcnt:
            return False
        if dst.expires and now >= dst.expires:
            return True
        age = now - dst.lastuse
        fast_clean = dst.broadcast and len(self._chains[dst.chain]) > 1 and self._chains[dst.chain][0] is not dst
        return not ((age <= tmo and not fast_clean) or (age <= valuable_tmo and bool(dst.expires)))

    def rt_garbage_collect(self) -> bool:
        """Drop what was long unused (``rt_garbage_collect()``). False: the cache is full."""
        now = self.sched.jiffies
        self.gc_total += 1
        if now - self._last_gc < self.gc_min_interval and self.live < self.max_size:
            self.gc_ignored += 1
            return True
        goal = self._gc_goal()
        if now - self._last_gc >= self.gc_min_interval:
            self._last_gc = now
        if goal <= 0:
            self._equilibrium += goal
            return self._gc_done()
        while True:
            goal -= self._gc_pass(now, goal)
            if goal <= 0:
                return self._gc_done()
            self.gc_goal_miss += 1
            if self._expire == 0:
                break
            self._expire >>= 1
            if self.live < self.max_size:
                return True
            if self.sched.in_softirq():
                break
        if self.live < self.max_size:
            return True
        self.gc_dst_overflow += 1
        return False

    def _gc_goal(self) -> int:
        """Give how many entries shall go."""
        goal = self.live - self.gc_elasticity * self.buckets
        if goal > 0:  # dangerous: the chains are long
            goal = max(goal // 2, self.buckets)
            self._equilibrium = self.live - goal
            return goal
        self._equilibrium = max(self._equilibrium, self.gc_thresh)
        goal = self.live - self._equilibrium
        if goal > 0:
            self._equilibrium += min(goal // 2, self.buckets)
            goal = self.live - self._equilibrium
        return goal

    def _gc_pass(self, now: int, goal: int) -> int:
        """Walk the chains from where the last walk ended until ``goal`` entries went; give how many did."""
        indices = sorted(self._chains)
        start = self._gc_rover
        gone = 0
        for index in [i for i in indices if i > start] + [i for i in indices if i <= start]:
            gone += self._walk(index, now, self._expire, self._expire)
            self._gc_rover = index
            if gone >= goal:
                break
        return gone

    def _walk(self, index: int, now: int, tmo: int, valuable_tmo: int) -> int:
        """Drop the garbage of one chain, newest first; each entry that stays halves the time that the next ones get."""
        gone = 0
        for dst in reversed(list(self._chains.get(index, ()))):
            if self._may_expire(dst, now, tmo, valuable_tmo):
                self._remove(dst)
                gone += 1
            else:
                tmo >>= 1
        return gone

    def _gc_done(self) -> bool:
        self._expire += self.gc_min_interval
        if self._expire > self.gc_timeout or self.live < self.gc_thresh:
            self._expire = self.gc_timeout
        return True

    def _rt_check_expire(self, _data: object) -> None:
        """Look at a part of the chains for what is old, or learnt and forgotten (``rt_check_expire()``)."""
        now = self.sched.jiffies
        goal = min(self.gc_interval * self.buckets // max(self.gc_timeout, 1), self.buckets)
        start = self._expire_rover
        for index in sorted(self._chains):
            if (index - start) % self.buckets < goal:
                for dst in [dst for dst in self._chains.get(index, ()) if dst.expires and now > dst.expires]:
                    self._remove(dst)
                self._walk(index, now, self.gc_timeout, self.gc_timeout)
        self._expire_rover = (start + goal) % self.buckets
        if self.entries:
            self._arm(self._expire_timer, self.gc_interval)

    def _rt_secret_rebuild(self, _data: object) -> None:
        self.rt_cache_flush()

    def rt_cache_flush(self) -> None:
        """Empty the cache, and choose another secret (``rt_run_flush()``)."""
        entries = list(self.entries.values())
        self.entries.clear()
        self._chains.clear()
        self._secret = self.rng.getrandbits(64)
        for dst in entries:
            self.dst_free(dst)
        self.timers.del_timer(self._expire_timer)
        self.timers.del_timer(self._secret_timer)

    def check(self) -> None:
        """Assert that every cached entry is alive and counted by its slab."""
        if any(dst.obsolete for dst in self.entries.values()):
            raise KernelBug("route cache: an obsolete entry is still in the table", state=self.entries)
        if len(self.entries) > self.max_size + 1:
            raise KernelBug(f"route cache: {len(self.entries)} entries, limit {self.max_size}", state=self)
        if self.live != len(self.entries) + len(self.waiting):
            raise KernelBug(f"route cache: {self.live} live, {len(self.entries)} cached, {len(self.waiting)} wait", state=self)
        if sum(map(len, self._chains.values())) != len(self.entries):
            raise KernelBug("route cache: chains and table differ", state=self)


def _score(dst: Dst) -> tuple[bool, bool, int]:
    """Give how useful an entry is (``rt_score()``): what was learnt of a path first, then output, then the time of last use."""
    return bool(dst.expires), dst.neigh is not None, dst.lastuse
