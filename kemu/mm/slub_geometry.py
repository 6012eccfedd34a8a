"""How many objects fit where: the arithmetic of SLUB (2.6.23 mm/slub.c: slab_order() to calculate_sizes()).

Interface
    slab_order, calculate_order    which order of page a slab of a cache gets
    calculate_alignment, calculate_sizes
    kmalloc_index                  which kmalloc cache serves a size

Rules
    * Pure functions of integers: nothing here knows a cache or a page.
    * Defaults of 4 KB pages: at most order 1 and at least 4 objects, as long as both can be had.
    * Left out: the limit of 65535 objects as a reason to stop at an order (2.6.23 proper), room for tracks of SLAB_STORE_USER.
"""

from __future__ import annotations

from kemu.errors import KernelBug
from kemu.mm.gfp import MAX_ORDER, PAGE_SHIFT, PAGE_SIZE

SLUB_MIN_ORDER = 0
SLUB_MAX_ORDER = 1  # DEFAULT_MAX_ORDER of 4 KB pages
SLUB_MIN_OBJECTS = 4  # DEFAULT_MIN_OBJECTS of 4 KB pages
MAX_OBJECTS = 65535  # page->inuse is 16 bits wide
WORD = 8  # sizeof(void *)
CACHE_LINE = 64

SLAB_DEBUG_FREE = 0x00000100
SLAB_RED_ZONE = 0x00000400
SLAB_POISON = 0x00000800
SLAB_HWCACHE_ALIGN = 0x00002000
SLAB_CACHE_DMA = 0x00004000
SLAB_STORE_USER = 0x00010000
SLAB_RECLAIM_ACCOUNT = 0x00020000
SLAB_PANIC = 0x00040000
SLAB_DESTROY_BY_RCU = 0x00080000
SLAB_MEM_SPREAD = 0x00100000
DEBUG_FLAGS = SLAB_DEBUG_FREE | SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER

KMALLOC_SIZES = (0, 96, 192, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Object size per kmalloc index; index 0 is none, 1 and 2 are the two sizes that are no power of two."""

KMALLOC_MAX_CACHED = PAGE_SIZE // 2
"""What is larger goes straight to the page allocator (-mm1 and 2.6.24; 2.6.23 had slab caches up to 32 MB)."""

fls = int.bit_length


def slab_order(size: int, min_objects: int, max_order: int, frac: int) -> int:
    """Return the first order that holds ``min_objects`` and wastes at most 1/``frac``; more than ``max_order`` if none does."""
    start = max(SLUB_MIN_ORDER, fls(min_objects * size - 1) - PAGE_SHIFT)
    for order in range(start, max_order + 1):
        slab = PAGE_SIZE << order
        if slab >= min_objects * size and slab % size <= slab // frac:
            return order
    return max(start, max_order + 1)


def calculate_order(size: int) -> int:
    """Return the order of the slabs of objects of ``size`` bytes.

    Many objects are wanted first and little waste second; then anything that fits in the default order, then anything that fits.
    """
    min_objects = SLUB_MIN_OBJECTS
    while min_objects > 1:
        for frac in (8, 4):
            order = slab_order(size, min_objects, SLUB_MAX_ORDER, frac)
            if order <= SLUB_MAX_ORDER:
                return order
        min_objects //= 2
    order = slab_order(size, 1, SLUB_MAX_ORDER, 1)
    if order <= SLUB_MAX_ORDER:
        return order
    order = slab_order(size, 1, MAX_ORDER, 1)
    if order > MAX_ORDER:
        raise KernelBug(f"slub: an object of {size} bytes fits no slab")
    return order


def calculate_alignment(flags: int, align: int, size: int) -> int:
    """Return the alignment of the objects: the cache line if that is asked for and at least half of one is used."""
    if flags & SLAB_HWCACHE_ALIGN and size > CACHE_LINE // 2:
        align = max(align, CACHE_LINE)
    return _align(max(align, WORD), WORD)


def calculate_sizes(objsize: int, align: int, flags: int, *, has_ctor: bool) -> tuple[int, int, int]:
    """Return size, order and objects per slab (``calculate_sizes()``).

    The free pointer lies inside a free object, except where its contents must survive: then it has a word of its own.
    """
    size = _align(objsize, WORD)
    if flags & SLAB_RED_ZONE and size == objsize:
        size += WORD
    if has_ctor or flags & (SLAB_DESTROY_BY_RCU | SLAB_POISON):
        size += WORD
    size = _align(size, calculate_alignment(flags, align, objsize))
    order = calculate_order(size)
    return size, order, min((PAGE_SIZE << order) // size, MAX_OBJECTS)


def kmalloc_index(size: int) -> int:
    """Return the index of the kmalloc cache for 1 <= ``size`` <= 2048, and 0 for 0."""
    if size <= 0:
        return 0
    if size <= 8:
        return 3
    if 64 < size <= 96:
        return 1
    if 128 < size <= 192:
        return 2
    return fls(size - 1)


def _align(value: int, to: int) -> int:
    """``ALIGN()``."""
    return (value + to - 1) & -to
