"""kmalloc and its relatives, as far as they are no fast path (2.6.23-mm1 mm/slub.c, include/linux/slab.h, mm/util.c: krealloc()).

Interface
    * :class:`SlubKmalloc`, a part of ``Slub``: ``kzalloc``, ``kcalloc``, ``krealloc``, ``kmalloc_node``, ``ksize``; ``write`` and
      ``read`` for the bytes of objects of caches with debugging.
    * ``kmalloc_caches`` by index, 1 and up; ``kmalloc_caches_dma``: those that were made, as the first request with __GFP_DMA came.

Rules
    * A size is a size_t: a negative one is a huge one, and NULL is the answer, as for anything above the largest block.
    * More than the largest class is whole pages, with __GFP_COMP.
    * __GFP_ZERO means something for objects with bytes only, and for whole pages.
    * Left out: the struct of a DMA cache costs no memory, so making one cannot fail.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from kemu.errors import ConfigError, KernelBug
from kemu.mm.gfp import _GFP_COMP, _GFP_DMA, _GFP_ZERO, MAX_ORDER, PAGE_SHIFT, PAGE_SIZE, get_order, gfp_t
from kemu.mm.page import PAGE_OFFSET, Page, PG_slab
from kemu.mm.slub_cache import KmemCache, KmemCacheCpu
from kemu.mm.slub_estimate import SlubEstimates
from kemu.mm.slub_geometry import (
    KMALLOC_MAX_CACHED,
    KMALLOC_SIZES,
    SLAB_CACHE_DMA,
    SLAB_DESTROY_BY_RCU,
    SLAB_KMALLOC,
    SLAB_PANIC,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    kmalloc_index,
)
from kemu.mm.slub_report import is_object

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.geometry import Geometry
    from kemu.mm.page_alloc import PageAllocator

ZERO_SIZE_PTR: Final = 16
"""What kmalloc(0) gives: no NULL, and no memory either."""

SIZE_MAX: Final = (1 << 64) - 1


_KMALLOC = SLAB_PANIC | SLAB_KMALLOC
_INDEX_BY_SIZE = tuple((size, kmalloc_index(size)) for size in range(1, KMALLOC_MAX_CACHED + 1))


class SlubKmalloc(SlubEstimates):
    """The kmalloc caches of a machine.

    :ivar kmalloc_caches_dma: by index; None where nobody asked yet.
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
        super().__init__(kernel, page_alloc, slub_debug, geometry, merge=merge)
        self._trace_kmalloc = kernel.trace.point("kmem:kmalloc", ("ptr", "bytes_req", "bytes_alloc", "gfp_flags"))
        fields = ("ptr", "cache", "bytes_alloc", "gfp_flags", "node")
        self._trace_alloc_node = kernel.trace.point("kmem:kmem_cache_alloc_node", fields)
        self.kmalloc_caches = [None]
        self.kmalloc_caches += [self.kmem_cache_create(f"kmalloc-{size}", size, flags=_KMALLOC) for size in KMALLOC_SIZES[1:]]
        self.kmalloc_caches_dma: list[KmemCache | None] = [None] * len(self.kmalloc_caches)
        caches = [cache for cache in self.kmalloc_caches if cache is not None]
        self._kmalloc_by_size = {size: caches[index - 1] for size, index in _INDEX_BY_SIZE}

    @abstractmethod
    def kmalloc(self, size: int, gfp: gfp_t) -> int | None:
        """Return ``size`` bytes of memory, or None."""

    @abstractmethod
    def kfree(self, address: int | None) -> None:
        """Give back what kmalloc() gave."""

    @abstractmethod
    def kmem_cache_alloc(self, cache: KmemCache, gfp: gfp_t) -> int | None:
        """Return a free object of a cache, or None."""

    @abstractmethod
    def _slab_alloc(self, cache: KmemCache, gfp: gfp_t, c: KmemCacheCpu, node: int = -1) -> int | None:
        """Find an object where the CPU has none at hand."""

    # by size

    def kzalloc(self, size: int, gfp: gfp_t) -> int | None:
        """Return ``size`` bytes of zeros, or None."""
        return self.kmalloc(size, gfp | _GFP_ZERO)

    def kcalloc(self, n: int, size: int, gfp: gfp_t) -> int | None:
        """Return zeros for ``n`` elements; None also when the product is no size_t."""
        if n < 0 or size < 0 or n * size > SIZE_MAX:
            return None
        return self.kzalloc(n * size, gfp)

    def krealloc(self, address: int | None, new_size: int, gfp: gfp_t) -> int | None:
        """Return memory of another size with the same contents; None leaves the old memory as it was."""
        if new_size == 0:
            self.kfree(address)
            return ZERO_SIZE_PTR
        old_size = self.ksize(address)
        if 0 < new_size <= old_size:
            return address
        new = self.kmalloc(new_size, gfp)
        if new is not None and address is not None:
            if old_size:
                self._copy(new, address, min(new_size, old_size))
            self.kfree(address)
        return new

    def kmalloc_node(self, size: int, gfp: gfp_t, node: int) -> int | None:
        """Return memory of a node if it has some, else of another; above the largest class of any node (``__kmalloc_node()``)."""
        if node < 0 or not 0 < size <= KMALLOC_MAX_CACHED:
            return self.kmalloc(size, gfp)
        cache = self.kmalloc_slab(size, gfp)
        assert cache is not None
        return self.kmem_cache_alloc_node(cache, gfp, node)

    def kmem_cache_alloc_node(self, cache: KmemCache, gfp: gfp_t, node: int) -> int | None:
        """Return an object of a node's memory if it has some, else of another's; any node for a negative one."""
        if node >= len(cache.partials):
            raise KernelBug(f"slub {cache.name}: node {node} of {len(cache.partials)} nodes")
        c = cache.cpu_slab[self.sched.cpu.id]
        at_hand = c.freelist and (node < 0 or c.node == node)
        address = c.freelist.pop() if at_hand else self._slab_alloc(cache, gfp, c, node)
        if self._trace_alloc_node.enabled:
            self._trace_alloc_node(address, cache.name, cache.size, gfp, node)
        return address

    def _kmalloc_unusual(self, size: int, gfp: gfp_t) -> int | None:
        """Serve kmalloc() of nothing, of DMA memory, and of more than half a page: whole pages (``__kmalloc()``)."""
        if size == 0:
            return ZERO_SIZE_PTR
        cache = self.kmalloc_slab(size, gfp)
        if cache is not None:
            return self._kmalloc_dma(cache, size, gfp)
        order = get_order(size)
        if size < 0 or order >= MAX_ORDER:
            return None
        page = self.page_alloc.alloc_pages(gfp | _GFP_COMP, order)
        address = None if page is None else page.address
        if self._trace_kmalloc.enabled:
            self._trace_kmalloc(address, size, PAGE_SIZE << order, gfp)
        return address

    def _kmalloc_dma(self, cache: KmemCache, size: int, gfp: gfp_t) -> int | None:
        """Take an object of a DMA cache."""
        c = cache.cpu_slab[self.sched.cpu.id]
        address = c.freelist.pop() if c.freelist else self._slab_alloc(cache, gfp, c)
        if self._trace_kmalloc.enabled:
            self._trace_kmalloc(address, size, cache.size, gfp)
        return address

    def kmalloc_slab(self, size: int, gfp: gfp_t) -> KmemCache | None:
        """Return the cache that serves a size; None for nothing, and for what is whole pages (``get_slab()``)."""
        if gfp & _GFP_DMA and 0 < size <= KMALLOC_MAX_CACHED:
            return self._dma_kmalloc_cache(kmalloc_index(size))
        return self._kmalloc_by_size.get(size)

    def _dma_kmalloc_cache(self, index: int) -> KmemCache:
        """Return the cache of a class whose pages come from ZONE_DMA; the first request makes it (``dma_kmalloc_cache()``)."""
        cache = self.kmalloc_caches_dma[index]
        if cache is None:
            size = KMALLOC_SIZES[index]
            cache = self.kmalloc_caches_dma[index] = self.kmem_cache_create(f"kmalloc_dma-{size}", size, flags=SLAB_CACHE_DMA)
        return cache

    def _kfree_pages(self, address: int) -> None:
        """Free whole pages."""
        page = self.virt_to_head_page(address)
        if page is None or page.count == 0:
            raise KernelBug(f"kfree: {address:#x} lies in no page that is in use", page)
        self.page_alloc.put_page(page)

    def ksize(self, address: int | None) -> int:
        """Return the bytes behind an address of kmalloc() that its owner may use."""
        if address is None or address == ZERO_SIZE_PTR:
            return 0
        page = self.virt_to_head_page(address)
        if page is None:
            raise KernelBug(f"ksize: {address:#x} is no address of memory")
        if not page.flags & PG_slab:
            return PAGE_SIZE << page.order
        cache: KmemCache = page.private
        if cache.flags & (SLAB_RED_ZONE | SLAB_POISON):
            return cache.objsize
        if cache.flags & (SLAB_DESTROY_BY_RCU | SLAB_STORE_USER):
            return cache.layout.inuse
        return cache.size

    def kmem_ptr_validate(self, cache: KmemCache, address: int) -> bool:
        """Tell whether an address could be an object of a cache; nothing is said of whether it is in use."""
        page = self.virt_to_head_page(address)
        return page is not None and bool(page.flags & PG_slab) and page.private is cache and is_object(cache, page, address)

    # bytes of objects

    def read(self, address: int, offset: int, length: int) -> bytes:
        """Return bytes of an object of a cache with debugging."""
        cache, page = self._slab_at(address)
        return self.debug.read(cache, page, address + offset, length)

    def write(self, address: int, offset: int, data: bytes) -> None:
        """Write bytes to an object of a cache with debugging, or beside it: nobody minds until the object is checked."""
        cache, page = self._slab_at(address)
        self.debug.write(cache, page, address + offset, data)

    def _slab_at(self, address: int) -> tuple[KmemCache, Page]:
        """Return the cache and the slab that an address lies in."""
        cache = self._cache_of.get((address - PAGE_OFFSET) >> PAGE_SHIFT)
        page = self.virt_to_head_page(address)
        if cache is None or page is None:
            raise ConfigError(f"{address:#x} lies in no slab")
        return cache, page

    def _copy(self, to: int, source: int, length: int) -> None:
        """Copy what has bytes on both sides; whole pages keep theirs elsewhere."""
        ends = [self._cache_of.get((address - PAGE_OFFSET) >> PAGE_SHIFT) for address in (to, source)]
        if all(cache is not None and cache.images for cache in ends):
            self.write(to, 0, self.read(source, 0, length))
