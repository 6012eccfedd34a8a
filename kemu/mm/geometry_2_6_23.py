"""Slab geometry of 2.6.23-mm1 with 4 KB pages (mm/slub.c: slab_order() to calculate_sizes()).

Rules of this file
    * At most order 1 and at least 4 objects, as long as both can be had; both are boot words.
    * The wanted number of objects is halved where the limit order does not do; waste of an eighth, then of a quarter, is allowed.
    * The free pointer lies in a free object's first word, except where its contents must survive.
"""

from __future__ import annotations

from typing import ClassVar

from kemu.mm.geometry import CACHE_LINE, Geometry, align_up
from kemu.mm.gfp import MAX_ORDER, PAGE_SHIFT, PAGE_SIZE
from kemu.mm.slub_geometry import (
    SLAB_DESTROY_BY_RCU,
    SLAB_HWCACHE_ALIGN,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    fls,
)


class Geometry2623(Geometry):
    """The formulas."""

    name: ClassVar[str] = "2.6.23"
    max_page_order: ClassVar[int] = MAX_ORDER  # one more than the page allocator has; such a cache can be made, and stays empty
    max_objects: ClassVar[int] = 65535  # page->inuse is 16 bits wide
    default_max_order: ClassVar[int] = 1  # DEFAULT_MAX_ORDER
    default_min_objects: ClassVar[int] = 4  # DEFAULT_MIN_OBJECTS

    def alignment(self, flags: int, align: int, objsize: int) -> int:
        """Take the cache line, if that is asked for and an object fills more than half of one."""
        if flags & SLAB_HWCACHE_ALIGN and objsize > CACHE_LINE // 2:
            return max(align, CACHE_LINE)
        return align_up(max(align, 8), self.word)  # ARCH_SLAB_MINALIGN: __alignof__(unsigned long long)

    def slab_size(self, objsize: int, align: int, flags: int, *, has_ctor: bool) -> int:
        """Add red zone, free pointer, two tracks and padding to an object."""
        word = self.word
        size = align_up(objsize, word)
        if flags & SLAB_RED_ZONE and size == objsize:
            size += word
        if has_ctor or flags & (SLAB_DESTROY_BY_RCU | SLAB_POISON):
            size += word
        if flags & SLAB_STORE_USER:
            size += 2 * (2 * word + 8)  # struct track: addr, cpu, pid, when
        if flags & SLAB_RED_ZONE:
            size += word
        return align_up(size, align)

    def slab_order(self, size: int, min_objects: int, max_order: int, frac: int) -> int:
        """Return the first order that holds ``min_objects`` and wastes at most 1/``frac``; above ``max_order`` if none does."""
        min_order = self.min_order
        while min_order > 0 and PAGE_SIZE << min_order >= self.max_objects * size:
            min_order -= 1  # more than can be counted: go even below slub_min_order
        start = max(min_order, fls(min_objects * size - 1) - PAGE_SHIFT)
        for order in range(start, max_order + 1):
            slab = PAGE_SIZE << order
            if slab >= min_objects * size and slab % size <= slab // frac:
                return order
        return max(start, max_order + 1)

    def find_order(self, size: int) -> int:
        """Want many objects first and little waste second; then anything that fits in the limit order; then anything that fits."""
        min_objects = self.default_min_objects if self.boot.slub_min_objects is None else self.boot.slub_min_objects
        while min_objects > 1:
            for frac in (8, 4):
                order = self.slab_order(size, min_objects, self.max_order, frac)
                if order <= self.max_order:
                    return order
            min_objects //= 2
        order = self.slab_order(size, 1, self.max_order, 1)
        if order <= self.max_order:
            return order
        return self.slab_order(size, 1, self.max_page_order, 1)

    def min_partial(self, size: int) -> int:
        """Keep two empty slabs (2.6.24 keeps five)."""
        return 2

    def cpu_partial(self, size: int, flags: int) -> None:
        """Say that CPUs have no partial slabs of their own: they came in 3.2."""
        return
