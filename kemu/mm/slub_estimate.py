"""How many pages a number of objects or bytes can cost at most (patch 05: mm: kmem_estimate_pages()).

Interface
    * :class:`SlubEstimates`, the part of ``Slub`` that the reserves (mm/reserve.py) ask: ``kmem_estimate_pages``,
      ``kestimate_single``, ``kestimate``.

Rules
    * An upper bound for a fresh cache, on the CPUs that are there now: each may hold one slab that is not full.
    * The arithmetic is C's: sizes are a size_t of 64 bits, counts an int, answers an unsigned int. So a negative number is one of
      three things: nothing (-1 byte: the sum overflows), a number just below 2**32, or what the CPUs' slabs may hold (b18b).
    * With the patch off all three answer ceil(bytes / 4096).
    * With __GFP_DMA the DMA caches count; v14 makes all of them in order to ask.
"""

from __future__ import annotations

from abc import abstractmethod

from kemu.errors import KernelBug
from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE, get_order, gfp_t
from kemu.mm.slub_cache import KmemCache
from kemu.mm.slub_caches import SlubCaches
from kemu.mm.slub_geometry import KMALLOC_MAX_CACHED, KMALLOC_SIZES

_SIZE_T = (1 << 64) - 1
_UINT = (1 << 32) - 1


class SlubEstimates(SlubCaches):
    """The estimates.

    :ivar kmalloc_caches: by index, 1 to 11; index 0 is None.
    """

    kmalloc_caches: list[KmemCache | None]

    @abstractmethod
    def kmalloc_slab(self, size: int, gfp: gfp_t) -> KmemCache | None:
        """Return the cache that serves a size."""

    def kmem_estimate_pages(self, cache: KmemCache | None, gfp: gfp_t, objects: int) -> int:
        """Return the pages that ``objects`` objects of a cache need at most; 0 objects: what the CPUs' slabs alone may hold.

        A slab of one object is never shared, so it costs no CPU anything.
        """
        if cache is None:
            self.kernel.printk("kmem_estimate_pages: no cache", "warning")
            return 0
        if not self.patched.kmem_estimate_pages:  # [p05]
            return _pages(objects * cache.objsize)
        slabs = _div(objects + cache.objects - 1, cache.objects)
        if cache.objects > 1:
            slabs += len(self.kernel.cpus)
        return slabs << cache.order & _UINT

    def kestimate_single(self, size: int, gfp: gfp_t, count: int) -> int:
        """Return the pages that ``count`` kmallocs of one size need at most.

        v14 indexes past its table for a size above 2048; here such objects count as the pages that they are. kmalloc(0) has no
        cache, but an address that v14 takes for one: an oops.
        """
        if not size:
            raise KernelBug("kestimate_single(0): NULL pointer dereference at ZERO_SIZE_PTR")
        if not self.patched.kmem_estimate_pages:  # [p05]
            return _pages(count * size)
        if size > KMALLOC_MAX_CACHED:
            return count << get_order(size) & _UINT
        return self.kmem_estimate_pages(self.kmalloc_slab(size, gfp), gfp, count)

    def kestimate(self, gfp: gfp_t, nbytes: int) -> int:
        """Return the pages that kmallocs of any sizes up to 2048 and of ``nbytes`` in all need at most.

        Rounding to a power of two at most doubles; then each class may hold one open slab per CPU.
        """
        if not self.patched.kmem_estimate_pages:  # [p05]
            return _pages(nbytes)
        pages = _pages(2 * nbytes)
        for size in KMALLOC_SIZES[1:]:
            pages += self.kmem_estimate_pages(self.kmalloc_slab(size, gfp), gfp, 0)
        return pages & _UINT


def _pages(nbytes: int) -> int:
    """``DIV_ROUND_UP(nbytes, PAGE_SIZE)`` of a size_t, as an unsigned int."""
    return (((nbytes + PAGE_SIZE - 1) & _SIZE_T) >> PAGE_SHIFT) & _UINT


def _div(dividend: int, divisor: int) -> int:
    """Divide as C does, towards nothing."""
    return dividend // divisor if dividend >= 0 else -(-dividend // divisor)
