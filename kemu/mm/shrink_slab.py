"""Caches that give back memory when asked (2.6.23 mm/vmscan.c: register_shrinker(), shrink_slab()).

Interface
    * :class:`ShrinkSlab`: ``register_shrinker(fn, seeks=2)``; called as ``shrink_slab(scanned, gfp, lru_pages)``.

Rules of this file
    * ``fn(0, gfp)`` tells how many objects there are; ``fn(n, gfp)`` frees up to n and tells how many are left, -1: not now.
    * Caches feel the pressure that the LRU lists feel: as large a share of their objects is scanned, twice that for cheap ones.
    * What a shrinker owes is taken from it while it works, and what is left is given back: a reclaimer that comes in meanwhile adds
      to nothing, and does not scan the same share twice.
    * The sums are C's: a long that overflowed is set right, with a line in the log. No shrinker owes more than twice its objects.
    * Left out: shrinker_rwsem (nobody registers while somebody shrinks).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from kemu.mm.gfp import gfp_t
from kemu.mm.shrink_list import SWAP_CLUSTER_MAX

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.vmstat import VmStat

SHRINK_BATCH: Final = 128
DEFAULT_SEEKS: Final = 2
_U64: Final = (1 << 64) - 1
_LONG_MAX: Final = (1 << 63) - 1

ShrinkFn = Callable[[int, gfp_t], int]


@attrs.define(eq=False)
class Shrinker:
    """``struct shrinker``: a cache's callback, and how much scanning it still owes."""

    fn: ShrinkFn
    seeks: int = DEFAULT_SEEKS
    nr: int = 0


class ShrinkSlab:
    """All shrinkers of a machine."""

    def __init__(self, kernel: Kernel, vmstat: VmStat) -> None:
        self.sched = kernel.sched
        self.printk = kernel.printk
        self.vmstat = vmstat
        self.shrinkers: list[Shrinker] = []

    def register_shrinker(self, fn: ShrinkFn, seeks: int = DEFAULT_SEEKS) -> Shrinker:
        """Let a cache be asked; return what unregister_shrinker() wants."""
        shrinker = Shrinker(fn, seeks)
        self.shrinkers.append(shrinker)
        return shrinker

    def unregister_shrinker(self, shrinker: Shrinker) -> None:
        """Ask a cache no more."""
        self.shrinkers.remove(shrinker)

    def __call__(self, scanned: int, gfp: gfp_t, lru_pages: int) -> int:
        """Let every cache free its share; return how many objects went (shrink_slab())."""
        freed = 0
        for shrinker in self.shrinkers:
            freed += self._shrink(shrinker, scanned or SWAP_CLUSTER_MAX, gfp, lru_pages)
        return freed

    def _shrink(self, shrinker: Shrinker, scanned: int, gfp: gfp_t, lru_pages: int) -> int:
        """Add one cache's share to what it owes, and let it free as many whole batches; return how many objects went."""
        max_pass = shrinker.fn(0, gfp) & _U64  # an unsigned long
        delta = (4 * scanned // shrinker.seeks * max_pass & _U64) // (lru_pages + 1)
        owed = shrinker.nr + delta & _U64
        if owed > _LONG_MAX:
            self.printk(f"shrink_slab: nr={owed - (1 << 64)}", "err")
            owed = max_pass
        total_scan = min(owed, max_pass * 2 & _U64)
        shrinker.nr = 0
        freed = 0
        while total_scan >= SHRINK_BATCH:
            before = shrinker.fn(0, gfp)
            left = shrinker.fn(SHRINK_BATCH, gfp)
            if left == -1:
                break
            freed += max(0, before - left)
            self.vmstat.slabs_scanned += SHRINK_BATCH
            total_scan -= SHRINK_BATCH
            self.sched.cond_resched()
        shrinker.nr += total_scan
        return freed
