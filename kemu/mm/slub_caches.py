"""How caches are made, merged, shrunk and removed (2.6.23 mm/slub.c: kmem_cache_create() to kmem_cache_shrink()).

Interface
    * :class:`SlubCaches`, a part of ``Slub``: ``kmem_cache_create``, ``kmem_cache_shrink``, ``kmem_cache_destroy``, ``shrink_all``,
      ``validate_slab_cache``.

Rules
    * A cache itself costs the machine no memory.
    * What the kernel answers with NULL, a caller of kmem_cache_create() here gets as :exc:`KernelBug`, with SLAB_PANIC as
      :exc:`KernelPanic`: nobody goes on without its cache.
    * Caches of like size share one where ``merge`` says so (a machine's ``slub_merge``; the kernel's default, off by slub_nomerge).
      An alias is the same object under another name in ``aliases``. Debugging turns merging off.
    * A cache with objects in use is not destroyed: the kernel warns, frees the struct and loses the slabs.
    * Left out: sysfs; the piles that kmem_cache_shrink() allocates to sort with, so that it cannot fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import attrs

from kemu.errors import KernelBug, KernelPanic
from kemu.mm.gfp import _GFP_COMP, _GFP_DMA, _GFP_RECLAIMABLE
from kemu.mm.slub_cache import KmemCache
from kemu.mm.slub_check import objects_in_use
from kemu.mm.slub_geometry import (
    SLAB_CACHE_DMA,
    SLAB_DEBUG_FREE,
    SLAB_DESTROY_BY_RCU,
    SLAB_PANIC,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
)
from kemu.mm.slub_pages import SlubPages

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.geometry import Geometry
    from kemu.mm.page_alloc import PageAllocator

Ctor = Callable[[int], None]

_NEVER_MERGE = SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER | SLAB_TRACE | SLAB_DESTROY_BY_RCU
_MERGE_SAME = SLAB_DEBUG_FREE | SLAB_RECLAIM_ACCOUNT | SLAB_CACHE_DMA


class SlubCaches(SlubPages):
    """The caches of a machine, by name in ``caches``.

    :param merge: let caches of like size be one.
    :ivar aliases: other names of caches.
    """

    def __init__(
        self,
        kernel: Kernel,
        page_alloc: PageAllocator,
        slub_debug: str = "",
        geometry: Geometry | None = None,
        *,
        merge: bool = False,
    ) -> None:
        super().__init__(kernel, page_alloc, slub_debug, geometry)
        self.aliases: dict[str, KmemCache] = {}
        self._merge = merge and not self.debug.enabled

    def kmem_cache_create(self, name: str, size: int, align: int = 0, flags: int = 0, ctor: Ctor | None = None) -> KmemCache:
        """Make a cache of objects of ``size`` bytes."""
        if size <= 0:
            _refuse(name, flags, f"objects of {size} bytes")
        if align < 0 or align & (align - 1):
            _refuse(name, flags, f"an alignment of {align}: it is a power of two")
        if ctor is None:
            twin = self._find_mergeable(size, align, flags)
            if twin is not None:
                twin.refcount += 1
                twin.objsize = max(twin.objsize, size)
                inuse = max(twin.layout.inuse, -(-size // 8) * 8)
                twin.layout = attrs.evolve(twin.layout, objsize=twin.objsize, inuse=inuse)
                self.aliases[name] = twin
                return twin
        if name in self.caches:
            _refuse(name, flags, "the name is taken")
        flags = self.debug.kmem_cache_flags(name, flags)
        try:
            geometry = self.geometry.calculate_sizes(size, align, flags, has_ctor=ctor is not None)
        except KernelBug as error:
            _refuse(name, flags, str(error))
        allocflags = _GFP_COMP if geometry[1] else 0
        if flags & SLAB_CACHE_DMA:
            allocflags |= _GFP_DMA
        if flags & SLAB_RECLAIM_ACCOUNT:
            allocflags |= _GFP_RECLAIMABLE
        nnodes = len(self.page_alloc.nodes)
        cache = KmemCache(
            name,
            size,
            flags,
            geometry,
            len(self.kernel.cpus),
            allocflags,
            align,
            ctor,
            nnodes=nnodes,
            min_partial=self.geometry.min_partial(geometry[0]),
            word=self.geometry.word,
        )
        self.caches[name] = cache
        return cache

    def _find_mergeable(self, size: int, align: int, flags: int) -> KmemCache | None:
        """Return a cache that can serve objects of this size too, the youngest first (``find_mergeable()``)."""
        if not self._merge or flags & _NEVER_MERGE:
            return None
        size = -(-size // 8) * 8
        align = self.geometry.alignment(flags, align, size)
        size = -(-size // align) * align
        for cache in reversed(self.caches.values()):
            if cache.flags & _NEVER_MERGE or cache.ctor is not None:
                continue
            same = (flags ^ cache.flags) & _MERGE_SAME == 0
            if same and size <= cache.size < size + 8 and cache.size % align == 0:
                return cache
        return None

    def kmem_cache_shrink(self, cache: KmemCache) -> int:
        """Give all empty slabs back and sort the others, the fullest first; return 0."""
        for cpu in range(len(cache.cpu_slab)):
            self.flush_cpu_slab(cache, cpu)
        for partial in cache.partials:
            for page in [page for page in partial.values() if not page.mapcount]:
                del partial[page.pfn]
                self._discard_slab(cache, page)
            # of equally full slabs the last comes first: each is put at the head of its pile
            by_use = sorted((-page.mapcount, -place, pfn) for place, (pfn, page) in enumerate(partial.items()))
            for _, _, pfn in by_use:
                partial.move_to_end(pfn)
        return 0

    def kmem_cache_destroy(self, cache: KmemCache) -> int:
        """Remove a cache, or one user of a merged one; return the objects that are still in use: then it stays."""
        if self.caches.get(cache.name) is not cache:
            raise KernelBug(f"kmem_cache_destroy: {cache.name!r} is no cache of this machine", cache)
        if cache.refcount > 1:
            cache.refcount -= 1
            return 0
        self.kmem_cache_shrink(cache)
        left = objects_in_use(cache)
        if left:
            self.kernel.printk(f"SLUB {cache.name}: kmem_cache_destroy() called for cache that still has {left} objects.", "err")
            return left
        del self.caches[cache.name]
        for name in [name for name, twin in self.aliases.items() if twin is cache]:
            del self.aliases[name]
        return 0

    def shrink_all(self) -> None:
        """Shrink every cache: what is left then is in use, or leaked."""
        for cache in self.caches.values():
            self.kmem_cache_shrink(cache)

    def validate_slab_cache(self, cache: KmemCache) -> int:
        """Check every object of a cache with debugging; return the slabs (/sys/kernel/slab/<cache>/validate)."""
        for cpu in range(len(cache.cpu_slab)):
            self.flush_cpu_slab(cache, cpu)
        if cache.images:
            for page in cache.slabs.values():
                self.debug.validate_slab(cache, page)
        return len(cache.slabs)


def _refuse(name: str, flags: int, why: str) -> NoReturn:
    """Stop a caller that would get no cache."""
    if flags & SLAB_PANIC:
        raise KernelPanic(f"kmem_cache_create: Cannot create slabcache {name}: {why}")
    raise KernelBug(f"kmem_cache_create: {name!r}: {why}")
