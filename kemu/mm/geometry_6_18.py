"""Slab geometry of Linux 6.18, and of 6.7 and newer (mm/slub.c: calc_slab_order() to calculate_sizes()).

Rules of this file
    * The order where the search begins is fixed once, by the wanted objects; then only the waste that is allowed grows, up to half.
    * What the limit order cannot hold gets the smallest order that can.
    * Left out: ``freeptr_offset``. A cache with RCU or a constructor may say where in its object the free pointer may lie, as
      vm_area_struct does; then it needs no word of its own. ``pointer_may_be_inside`` says that this kernel can.
"""

from __future__ import annotations

from typing import ClassVar

from kemu.mm.geometry import BootWords
from kemu.mm.geometry_6_1 import Geometry61
from kemu.mm.gfp import get_order
from kemu.mm.slub_geometry import SLAB_KMALLOC, SLAB_RED_ZONE, SLAB_STORE_USER


class Geometry618(Geometry61):
    """The formulas, where they differ from 6.1's."""

    name: ClassVar[str] = "6.18"

    def __init__(self, ncpus: int = 1, word: int = 8, boot: BootWords | None = None) -> None:
        super().__init__(ncpus, word, boot)
        # the kernel keeps its two words in order; of two that contradict each other the limit wins here, as if it came last
        if self.boot.slub_max_order is None:
            self.max_order = max(self.max_order, self.min_order)
        else:
            self.min_order = min(self.min_order, self.max_order)

    def pointer_outside(self, objsize: int, flags: int, *, has_ctor: bool) -> bool:
        """Move the pointer out too where a red zone covers what kmalloc() was not asked for."""
        tracked = SLAB_KMALLOC | SLAB_STORE_USER
        if flags & SLAB_RED_ZONE and flags & tracked == tracked:
            return True
        return super().pointer_outside(objsize, flags, has_ctor=has_ctor)

    def find_order(self, size: int) -> int:
        """Fix where the search begins, and allow more and more waste."""
        min_objects = min(self.wanted_objects(), max(self.order_objects(self.max_order, size), 1))
        min_order = max(self.min_order, get_order(min_objects * size))
        if self.order_objects(min_order, size) > self.max_objects:
            return get_order(size * self.max_objects) - 1
        for frac in (16, 8, 4, 2):
            order = self.calc_slab_order(size, min_order, self.max_order, frac)
            if order <= self.max_order:
                return order
        return get_order(size)
