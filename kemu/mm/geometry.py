"""How many objects share a slab: what a policy of slab geometry answers.

Interface
    * :class:`Geometry`: the questions. One module per kernel has the formulas: geometry_2_6_23.py, geometry_6_1.py,
      geometry_6_18.py; policies.py knows them by name.
    * :class:`BootWords`: what slub_min_order=, slub_max_order= and slub_min_objects= said.

Rules of this file
    * A policy is pure arithmetic of what the kernel knew at boot: CPUs, word size, boot words.
    * ``size`` is the place of an object with all its metadata (``slab_size`` in /sys); ``objsize`` is what its user asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Final

import attrs

from kemu.errors import KernelBug
from kemu.mm.gfp import PAGE_SIZE

CACHE_LINE: Final = 64  # cache_line_size()


@attrs.frozen
class BootWords:
    """What the kernel's command line said about slabs; None: nothing, the kernel's own value."""

    slub_min_order: int | None = None
    slub_max_order: int | None = None
    slub_min_objects: int | None = None


class Geometry(ABC):
    """One kernel's formulas.

    :param ncpus: present CPUs.
    :param word: sizeof(void *), 8 or 4.
    :cvar name: as people choose it.
    :cvar max_page_order: the largest order that a slab may have.
    :cvar max_objects: no slab has more.
    """

    name: ClassVar[str]
    max_page_order: ClassVar[int]
    max_objects: ClassVar[int]
    default_max_order: ClassVar[int]

    def __init__(self, ncpus: int = 1, word: int = 8, boot: BootWords | None = None) -> None:
        boot = boot or BootWords()
        self.ncpus = ncpus
        self.word = word
        self.boot = boot
        self.max_order = self.default_max_order
        if boot.slub_max_order is not None:
            self.max_order = min(boot.slub_max_order, self.max_page_order)
        self.min_order = boot.slub_min_order or 0

    @abstractmethod
    def alignment(self, flags: int, align: int, objsize: int) -> int:
        """Return the alignment of the objects (calculate_alignment())."""

    @abstractmethod
    def slab_size(self, objsize: int, align: int, flags: int, *, has_ctor: bool) -> int:
        """Return the distance of two objects, for an alignment that alignment() gave (the first half of calculate_sizes())."""

    @abstractmethod
    def find_order(self, size: int) -> int:
        """Return the order of a slab, above ``max_page_order`` if nothing fits (calculate_order())."""

    @abstractmethod
    def min_partial(self, size: int) -> int:
        """Return how many empty slabs a node keeps."""

    @abstractmethod
    def cpu_partial(self, size: int, flags: int) -> int | None:
        """Return how many objects a CPU's partial slabs may hold; None: this kernel has none."""

    def order(self, size: int) -> int:
        """Return the order of the slabs of objects of ``size`` bytes; :exc:`KernelBug` where none can be."""
        order = self.find_order(size) if size > 0 else self.max_page_order + 1
        if order > self.max_page_order or not self.objects(size, order):
            raise KernelBug(f"slub: an object of {size} bytes fits no slab")
        return order

    def objects(self, size: int, order: int) -> int:
        """Return the objects of a slab."""
        return min((PAGE_SIZE << order) // size, self.max_objects)

    def calculate_sizes(self, objsize: int, align: int, flags: int, *, has_ctor: bool) -> tuple[int, int, int]:
        """Return size, order and objects per slab (calculate_sizes())."""
        size = self.slab_size(objsize, self.alignment(flags, align, objsize), flags, has_ctor=has_ctor)
        order = self.order(size)
        return size, order, self.objects(size, order)

    def __repr__(self) -> str:
        """Name the policy and its inputs."""
        return f"<Geometry {self.name} ncpus={self.ncpus} word={self.word} {self.boot}>"


def align_up(value: int, to: int) -> int:
    """``ALIGN()``, for any ``to``."""
    return -(-value // to) * to
