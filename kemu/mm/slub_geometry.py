"""What every user of SLUB names: flags of caches, and the classes of kmalloc() (2.6.23 include/linux/slab.h, slub_def.h).

Interface
    * ``SLAB_*``: flags of a cache. ``KMALLOC_SIZES``, :func:`kmalloc_index`: which kmalloc cache serves a size.

Rules
    * Pure facts: nothing here knows a cache or a page. How large an object's place is, and how many share a slab, is a policy
      (geometry.py).
"""

from __future__ import annotations

from typing import Final

from kemu.mm.gfp import PAGE_SIZE

SLAB_DEBUG_FREE: Final = 0x00000100
SLAB_RED_ZONE: Final = 0x00000400
SLAB_POISON: Final = 0x00000800
SLAB_KMALLOC: Final = 0x00001000  # 6.1: of a kmalloc cache, which with owner tracking remembers the size that was asked for
SLAB_HWCACHE_ALIGN: Final = 0x00002000
SLAB_CACHE_DMA: Final = 0x00004000
SLAB_STORE_USER: Final = 0x00010000
SLAB_RECLAIM_ACCOUNT: Final = 0x00020000
SLAB_PANIC: Final = 0x00040000
SLAB_DESTROY_BY_RCU: Final = 0x00080000
SLAB_MEM_SPREAD: Final = 0x00100000
SLAB_TRACE: Final = 0x00200000
DEBUG_FLAGS: Final = SLAB_DEBUG_FREE | SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER
DEBUG_LETTERS: Final = {
    "F": SLAB_DEBUG_FREE,
    "Z": SLAB_RED_ZONE,
    "P": SLAB_POISON,
    "U": SLAB_STORE_USER,
    "T": SLAB_TRACE,
}
"""What the letters of slub_debug= stand for."""

KMALLOC_SIZES: Final = (0, 96, 192, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Object size per kmalloc index; index 0 is none, 1 and 2 are the two sizes that are no power of two."""

KMALLOC_MAX_CACHED: Final = PAGE_SIZE // 2
"""What is larger goes straight to the page allocator (-mm1 and 2.6.24; 2.6.23 had slab caches up to 32 MB)."""

fls = int.bit_length


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
