"""How caches are made, shrunk and removed (2.6.23 mm/slub.c: kmem_cache_create() to kmem_cache_shrink()).

Interface
    * :class:`SlubCaches`, a part of ``Slub``: ``kmem_cache_create``, ``kmem_cache_shrink``, ``kmem_cache_destroy``, ``shrink_all``.

Rules
    * A cache itself costs the machine no memory.
    * Left out: merging of like caches (``find_mergeable()``), sysfs.
"""

from __future__ import annotations

from collections.abc import Callable

from kemu.errors import KernelBug
from kemu.mm import slub_debug
from kemu.mm.gfp import _GFP_COMP, _GFP_DMA, _GFP_RECLAIMABLE
from kemu.mm.slub_cache import KmemCache
from kemu.mm.slub_geometry import SLAB_CACHE_DMA, SLAB_RECLAIM_ACCOUNT, calculate_sizes
from kemu.mm.slub_pages import SlubPages


class SlubCaches(SlubPages):
    """The caches of a machine, by name in ``caches``."""

    def kmem_cache_create(
        self, name: str, size: int, align: int = 0, flags: int = 0, ctor: Callable[[int], None] | None = None
    ) -> KmemCache:
        """Make a cache of objects of ``size`` bytes; the cache itself costs the machine nothing."""
        if name in self.caches or size <= 0:
            raise KernelBug(f"kmem_cache_create: {name!r} of {size} bytes: the name is taken or the size is none")
        geometry = calculate_sizes(size, align, flags, has_ctor=ctor is not None)
        allocflags = _GFP_COMP if geometry[1] else 0
        if flags & SLAB_CACHE_DMA:
            allocflags |= _GFP_DMA
        if flags & SLAB_RECLAIM_ACCOUNT:
            allocflags |= _GFP_RECLAIMABLE
        cache = KmemCache(name, size, flags, geometry, len(self.kernel.cpus), allocflags, align, ctor)
        self.caches[name] = cache
        return cache

    def kmem_cache_shrink(self, cache: KmemCache) -> int:
        """Give all empty slabs back and sort the others, the fullest first; return 0."""
        for cpu in range(len(cache.cpu_slab)):
            self.flush_cpu_slab(cache, cpu)
        for page in [page for page in cache.partial.values() if not page.mapcount]:
            del cache.partial[page.pfn]
            self._discard_slab(cache, page)
        by_use = sorted((-page.mapcount, place, pfn) for place, (pfn, page) in enumerate(cache.partial.items()))
        for _, _, pfn in by_use:
            cache.partial.move_to_end(pfn)
        return 0

    def kmem_cache_destroy(self, cache: KmemCache) -> int:
        """Remove a cache; return the objects that are still in use: then it stays."""
        self.kmem_cache_shrink(cache)
        left = slub_debug.objects_in_use(cache)
        if left:
            self.kernel.printk(f"SLUB {cache.name}: kmem_cache_destroy() called for cache that still has {left} objects.", "err")
            return left
        del self.caches[cache.name]
        return 0

    def shrink_all(self) -> None:
        """Shrink every cache: what is left then is in use, or leaked."""
        for cache in self.caches.values():
            self.kmem_cache_shrink(cache)
