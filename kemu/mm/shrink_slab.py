"""Caches that give back memory when asked (2.6.23 mm/vmscan.c: register_shrinker(), shrink_slab()).

Interface
    * :class:`ShrinkSlab`: ``register_shrinker(fn, seeks=2)``; called as ``shrink_slab(scanned, gfp, lru_pages)``.

Rules of this file
    * ``fn(0, gfp)`` tells how many objects there are; ``fn(n, gfp)`` frees up to n and tells how many are left, -1: not now.
    * Caches feel the pressure that the LRU lists feel: as large a share of their objects is scanned, twice that for cheap ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from kemu.mm.gfp import gfp_t

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.vmstat import VmStat

SHRINK_BATCH: Final = 128
DEFAULT_SEEKS: Final = 2

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
            freed += self._shrink(shrinker, scanned or 32, gfp, lru_pages)
        return freed

    def _shrink(self, shrinker: Shrinker, scanned: int, gfp: gfp_t, lru_pages: int) -> int:
        objects = shrinker.fn(0, gfp)
        shrinker.nr += 4 * scanned // shrinker.seeks * objects // (lru_pages + 1)
        shrinker.nr = min(shrinker.nr, objects * 2)
        freed = 0
        while shrinker.nr >= SHRINK_BATCH:
            before = shrinker.fn(0, gfp)
            left = shrinker.fn(SHRINK_BATCH, gfp)
            if left == -1:
                break
            freed += max(0, before - left)
            self.vmstat.slabs_scanned += SHRINK_BATCH
            shrinker.nr -= SHRINK_BATCH
            self.sched.cond_resched()
        return freed
