"""Slab geometry of Linux 6.1, and of 5.13 to 6.6 (mm/slub.c: calc_slab_order() to calculate_sizes(), mm/slab_common.c).

Rules of this file
    * The wanted number of objects grows with the logarithm of the CPUs, and falls one by one where the limit order does not do.
    * A sixteenth of waste, then an eighth, then a quarter is allowed.
    * The free pointer lies in the middle of a free object, except where its contents must survive.
"""

from __future__ import annotations

from typing import ClassVar, Final

from kemu.mm.geometry import CACHE_LINE, Geometry, align_up
from kemu.mm.gfp import PAGE_SIZE, get_order
from kemu.mm.slub_geometry import (
    DEBUG_FLAGS,
    SLAB_DESTROY_BY_RCU,
    SLAB_HWCACHE_ALIGN,
    SLAB_KMALLOC,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
    fls,
)

MIN_PARTIAL: Final = 5
MAX_PARTIAL: Final = 10
_TRACK: Final = {8: 32, 4: 20}  # sizeof(struct track): addr, a handle of the stack, cpu, pid, when


class Geometry61(Geometry):
    """The formulas."""

    name: ClassVar[str] = "6.1"
    max_page_order: ClassVar[int] = 10
    max_objects: ClassVar[int] = 32767  # MAX_OBJS_PER_PAGE: 15 bits
    default_max_order: ClassVar[int] = 3  # PAGE_ALLOC_COSTLY_ORDER

    def alignment(self, flags: int, align: int, objsize: int) -> int:
        """Take the cache line, or the part of it that holds an object, if that is asked for."""
        if flags & SLAB_HWCACHE_ALIGN:
            line = CACHE_LINE
            while objsize <= line // 2:
                line //= 2
            align = max(align, line)
        return align_up(max(align, 8), self.word)  # arch_slab_minalign()

    def slab_size(self, objsize: int, align: int, flags: int, *, has_ctor: bool) -> int:
        """Add red zones, free pointer and two tracks to an object."""
        word = self.word
        size = align_up(objsize, word)
        if flags & SLAB_RED_ZONE and size == objsize:
            size += word
        if self.pointer_outside(objsize, flags, has_ctor=has_ctor):
            size += word
        if flags & SLAB_STORE_USER:
            size += 2 * _TRACK[word]
            if flags & SLAB_KMALLOC:
                size += 4  # the size that was asked for
        if flags & SLAB_RED_ZONE:
            size += word + align_up(word, align)  # padding behind, and the left red zone in front
        return align_up(size, align)

    def pointer_outside(self, objsize: int, flags: int, *, has_ctor: bool) -> bool:
        """Tell whether the free pointer may not lie in the object."""
        if has_ctor or flags & (SLAB_DESTROY_BY_RCU | SLAB_POISON):
            return True
        return bool(flags & SLAB_RED_ZONE and objsize < self.word)

    def wanted_objects(self) -> int:
        """Return how many objects a slab should have at least, by the CPUs or the boot word."""
        return self.boot.slub_min_objects or 4 * (fls(self.ncpus) + 1)

    def order_objects(self, order: int, size: int) -> int:
        """Return how many objects a slab would hold, if their number were not limited."""
        return (PAGE_SIZE << order) // size

    def calc_slab_order(self, size: int, min_order: int, max_order: int, frac: int) -> int:
        """Return the first order from ``min_order`` that wastes at most 1/``frac``; above ``max_order`` if none does."""
        for order in range(min_order, max_order + 1):
            if (PAGE_SIZE << order) % size <= (PAGE_SIZE << order) // frac:
                return order
        return max(min_order, max_order + 1)

    def _order_of(self, size: int, min_objects: int, max_order: int, frac: int) -> int:
        """Start at the order that the objects need, unless that would hold more than can be counted."""
        if self.order_objects(self.min_order, size) > self.max_objects:
            return get_order(size * self.max_objects) - 1
        return self.calc_slab_order(size, max(self.min_order, get_order(min_objects * size)), max_order, frac)

    def find_order(self, size: int) -> int:
        """Want many objects first and little waste second; then one object in the limit order; then one in any."""
        min_objects = min(self.wanted_objects(), self.order_objects(self.max_order, size))
        while min_objects > 1:
            for frac in (16, 8, 4):
                order = self._order_of(size, min_objects, self.max_order, frac)
                if order <= self.max_order:
                    return order
            min_objects -= 1
        order = self._order_of(size, 1, self.max_order, 1)
        if order <= self.max_order:
            return order
        return self._order_of(size, 1, self.max_page_order, 1)

    def min_partial(self, size: int) -> int:
        """Keep more slabs of larger objects, whose pages are dearer to get."""
        return min(max((fls(size) - 1) // 2, MIN_PARTIAL), MAX_PARTIAL)

    def cpu_partial(self, size: int, flags: int) -> int:
        """Keep fewer large objects; none of a cache that is debugged."""
        if flags & (DEBUG_FLAGS | SLAB_TRACE):
            return 0
        if size >= PAGE_SIZE:
            return 6
        if size >= 1024:
            return 24
        return 52 if size >= 256 else 120
