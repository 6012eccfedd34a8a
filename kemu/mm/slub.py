"""SLUB: objects of equal size, many to a page (2.6.23-mm1 mm/slub.c).

Interface
    * ``kmem_cache_alloc``, ``kmem_cache_free``; ``kmem_cache_create``, ``_destroy``, ``_shrink`` (slub_caches.py).
    * ``kmalloc``, ``kfree``: up to 2048 bytes from a cache, above that whole pages; ``kzalloc``, ``krealloc``, ``ksize``,
      ``kmalloc_node``, ``kmem_cache_alloc_node`` and others (slub_kmalloc.py).
    * ``kmem_estimate_pages``, ``kestimate_single``, ``kestimate`` (slub_estimate.py); ``virt_to_page``, ``is_reserve_backed``,
      ``reserve_pages_by_holder`` (slub_pages.py).
    * An object is its address, an int; None is NULL.

Rules
    * The fast path is a pop from, or an append to, the list of objects that the CPU took from its slab as a whole. It tests nothing
      of the patches: a cpu slab from the reserve has an empty list, so each allocation comes to _slab_alloc() and is asked again.
    * Freeing memory that is none of the cache, an address inside an object, or an object that was freed last, is a
      :exc:`KernelBug` at once, and changes nothing. (2.6.23 without debugging notices neither of the latter; the last question is
      that of CONFIG_SLAB_FREELIST_HARDENED in later kernels. A free on the fast path pays two tests.) An object that was freed
      earlier and once more now damages the free list, as in the kernel: check() finds that, or the free itself if the cache has a
      debug flag or the object's slab is not the CPU's.
    * Time passes only inside the page allocator, for callers that can wait: so the slow path need not turn interrupts off.
    * Left out: CPU hotplug; contents of objects, and so __GFP_ZERO, but for caches with debugging (slub_debug.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from kemu.errors import KernelBug
from kemu.mm import slub_check
from kemu.mm.fault_inject import failslab_point
from kemu.mm.gfp import _GFP_DMA, PAGE_SHIFT, PAGE_SIZE, gfp_t
from kemu.mm.page import PAGE_OFFSET, Page, PG_slab, PG_tail
from kemu.mm.slub_cache import NO_PFN, KmemCache, KmemCacheCpu, PG_frozen, PG_slab_debug, PG_slab_reserve
from kemu.mm.slub_geometry import SLAB_HWCACHE_ALIGN, SLAB_PANIC, SLAB_RECLAIM_ACCOUNT
from kemu.mm.slub_kmalloc import ZERO_SIZE_PTR, SlubKmalloc
from kemu.mm.slub_report import bad_free

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.geometry import Geometry
    from kemu.mm.page_alloc import PageAllocator

__all__ = ["SLAB_HWCACHE_ALIGN", "SLAB_PANIC", "SLAB_RECLAIM_ACCOUNT", "ZERO_SIZE_PTR", "KmemCache", "Slub"]


_IN_PAGE = PAGE_SIZE - 1


class Slub(SlubKmalloc):
    """The slab allocator of a machine.

    :param page_alloc: where slabs come from; also asked who is entitled to the reserve.
    :param slub_debug: the boot word (slub_debug.py); empty: no debugging but what a cache asks for.
    :param merge: let caches of like size be one (slub_caches.py).
    :ivar failslab: injected failures, or None.
    """

    failslab = failslab_point()

    def __init__(
        self,
        kernel: Kernel,
        page_alloc: PageAllocator,
        *,
        slub_debug: str = "",
        geometry: Geometry | None = None,
        merge: bool = False,
    ) -> None:
        super().__init__(kernel, page_alloc, slub_debug, geometry, merge=merge)
        point = kernel.trace.point
        self._trace_kfree = point("kmem:kfree", ("ptr",))
        self._trace_alloc = point("kmem:kmem_cache_alloc", ("ptr", "cache", "bytes_alloc", "gfp_flags"))
        self._trace_free = point("kmem:kmem_cache_free", ("ptr", "cache"))

    # objects

    def kmem_cache_alloc(self, cache: KmemCache, gfp: gfp_t) -> int | None:
        """Return a free object of a cache, or None (``slab_alloc()``)."""
        c = cache.cpu_slab[self.sched.cpu.id]
        address = c.freelist.pop() if c.freelist else self._slab_alloc(cache, gfp, c)
        if self._trace_alloc.enabled:
            self._trace_alloc(address, cache.name, cache.size, gfp)
        return address

    def kmem_cache_free(self, cache: KmemCache, address: int) -> None:
        """Give an object back to its cache (``slab_free()``)."""
        c = cache.cpu_slab[self.sched.cpu.id]
        if (address - PAGE_OFFSET) >> PAGE_SHIFT == c.fast_pfn:
            freelist = c.freelist
            if (freelist and freelist[-1] == address) or (address & _IN_PAGE) % cache.size:
                _bad_object(cache, c.page, address)
            freelist.append(address)
        else:
            self._slab_free(cache, address, c)
        if self._trace_free.enabled:
            self._trace_free(address, cache.name)

    def kmalloc(self, size: int, gfp: gfp_t) -> int | None:
        """Return ``size`` bytes of memory, or None."""
        try:  # the cheapest question: it costs nothing where the answer is yes
            cache = self._kmalloc_by_size[size]
        except KeyError:
            return self._kmalloc_unusual(size, gfp)
        if gfp & _GFP_DMA:
            return self._kmalloc_unusual(size, gfp)
        c = cache.cpu_slab[self.sched.cpu.id]
        address = c.freelist.pop() if c.freelist else self._slab_alloc(cache, gfp, c)
        if self._trace_kmalloc.enabled:
            self._trace_kmalloc(address, size, cache.size, gfp)
        return address

    def kfree(self, address: int | None) -> None:
        """Give back what kmalloc() or, as the kernel allows, kmem_cache_alloc() gave; None and ZERO_SIZE_PTR are nothing."""
        if address is None:
            return
        pfn = (address - PAGE_OFFSET) >> PAGE_SHIFT
        cache = self._cache_of.get(pfn)
        if cache is not None:
            c = cache.cpu_slab[self.sched.cpu.id]
            if pfn == c.fast_pfn:
                freelist = c.freelist
                if (freelist and freelist[-1] == address) or (address & _IN_PAGE) % cache.size:
                    _bad_object(cache, c.page, address)
                freelist.append(address)
            else:
                self._slab_free(cache, address, c)
        elif address != ZERO_SIZE_PTR:
            self._kfree_pages(address)
        if self._trace_kfree.enabled:
            self._trace_kfree(address)

    def objects_in_use(self, cache: KmemCache) -> int:
        """Count the objects of a cache that users hold."""
        return slub_check.objects_in_use(cache)

    def check(self) -> None:
        """Assert all invariants of all caches."""
        for cache in self.caches.values():
            slub_check.check_cache(cache)
            if cache.images:
                for page in cache.slabs.values():
                    self.debug.validate_slab(cache, page)
        if self.patched.slub_reserve:  # [p03]
            if self.fixed.b03b:  # [b03b]
                self._check_rationing()
        pages = sum(len(cache.slabs) << cache.order for cache in self.caches.values())
        if pages != self.vmstat.nr_slab:
            raise KernelBug(f"slub: the caches hold {pages} pages, nr_slab says {self.vmstat.nr_slab}")

    def _check_rationing(self) -> None:
        """Assert that no CPU has objects of a rationed slab at hand."""
        for cache in self.caches.values():
            for cpu, c in enumerate(cache.cpu_slab):
                if c.reserve and c.freelist:
                    raise KernelBug(f"slub {cache.name}: CPU {cpu} has a reserve slab and a lockless freelist", c)

    # slow paths

    def _slab_alloc(self, cache: KmemCache, gfp: gfp_t, c: KmemCacheCpu, node: int = -1) -> int | None:
        """Find an object where the CPU has none at hand, or none of the wanted node (``__slab_alloc()``).

        In turn: what others freed to the cpu slab, the first partial slab, a new one. With patch 03 a cpu slab from the reserve may
        only be used by who is entitled; anybody else must get a page from the page allocator, which proves that there is no need to
        ration any more. The tag belongs to the CPU's place in the cache, not to the page.
        """
        reserve = 0
        force_new = False
        node_count = len(cache.partials)
        tag_counts = c.page is not None  # v14 asks for the tag only where there is a cpu slab
        if self.patched.slub_reserve:  # [p03]
            if self.fixed.b03b:  # [b03b]
                tag_counts = True
            if tag_counts and c.reserve:
                reserve = 1 if self.page_alloc.entitled(gfp) else 0
                force_new = not reserve

        while True:
            if not force_new:
                page = c.page
                if page is not None:
                    if page.word_d and (node < 0 or c.node == node):
                        return self._load_freelist(cache, gfp, c, reserve)
                    if page.word_d or c.freelist:
                        self._deactivate_slab(cache, c)
                    else:  # it is used up, as nearly always: deactivate_slab() written out
                        page.flags &= ~PG_frozen
                        c.page = None
                        c.fast_pfn = NO_PFN
                page = self._get_partial(cache, gfp, node) if node_count > 1 else self._get_partial_node(cache, gfp, 0)
                if page is not None:
                    c.page = page
                    if self.patched.slub_reserve:  # [p03]
                        if self.fixed.b03a:  # [b03a]
                            c.reserve = reserve = 1 if page.flags & PG_slab_reserve else 0
                    return self._load_freelist(cache, gfp, c, reserve)
            force_new = False

            page, reserve = self._new_slab(cache, gfp, node)
            if page is None:
                return None
            c = cache.cpu_slab[self.sched.cpu.id]  # time may have passed
            if self.patched.slub_reserve:  # [p03]
                c.reserve = reserve
            if c.page is not None and node >= 0 and c.node != node:
                self._deactivate_slab(cache, c)  # it is not what the caller wants
            if c.page is None:
                page.flags |= PG_frozen
                c.page = page
                return self._load_freelist(cache, gfp, c, reserve)
            self._prefer_cpu_slab(cache, c, page, reserve)

    def _prefer_cpu_slab(self, cache: KmemCache, c: KmemCacheCpu, new: Page, reserve: int) -> None:
        """Keep the cpu slab that is there, by now, and give the new page back: its objects are in the CPU's cache (-mm1).

        The objects that the CPU holds go back to the page first; 2.6.23 lost them here, which 2.6.24 mended.
        """
        page = c.page
        assert page is not None
        self._return_freelist(c, page)
        if self.patched.slub_reserve and not reserve:  # [p03]
            # an ordinary page could be had: the need is over, the two pages have changed places
            self._leave_reserve(page)
            if self.fixed.b03a:  # [b03a]
                page.flags &= ~PG_slab_reserve
        self._discard_slab(cache, new)

    def _load_freelist(self, cache: KmemCache, gfp: gfp_t, c: KmemCacheCpu, reserve: int) -> int:
        """Take an object of the cpu slab, and all its other free ones for the CPU.

        With patch 03, one object alone if the slab is rationed: so the next caller comes here too.
        """
        page = c.page
        assert page is not None
        freelist: list[int] = page.word_d
        singly = page.flags & PG_slab_debug
        if self.patched.slub_reserve and reserve:  # [p03]
            singly = 1
        if singly:
            address = freelist[-1]
            c.fast_pfn = NO_PFN
            if page.flags & PG_slab_debug:
                self.debug.alloc_debug_processing(cache, page, address, gfp)
            freelist.pop()
            page.mapcount += 1
            c.node = -1
            return address
        page.word_d = None
        page.mapcount = cache.objects
        c.freelist = freelist
        c.fast_pfn = page.pfn
        c.node = page.zone.node
        return freelist.pop()

    def _slab_free(self, cache: KmemCache, address: int, c: KmemCacheCpu) -> None:
        """Free an object that does not lie in the first page of the CPU's slab (``__slab_free()``).

        A full slab becomes partial, an empty one goes.
        """
        # virt_to_head_page(), written out: most objects come by here
        page = self.mem_map.get((address - PAGE_OFFSET) >> PAGE_SHIFT)
        if page is not None and page.flags & PG_tail == PG_tail:
            page = page.private
        if page is None or page.private is not cache or not (flags := page.flags) & PG_slab:
            self._bad_free(cache, page, address)
        pfn = page.pfn
        if flags & PG_slab_debug:
            self.debug.free_debug_processing(cache, page, address)
        prior = page.word_d
        free = c.freelist if pfn == c.fast_pfn else prior
        if (free and address in free) or (address - page.address) % cache.size:
            _bad_object(cache, page, address)
        if pfn == c.fast_pfn:
            c.freelist.append(address)
            return
        used = page.mapcount
        if not used:
            raise KernelBug(f"slub {cache.name}: object {address:#x} freed, but all of its slab is free", page)
        if prior:
            prior.append(address)
        else:
            page.word_d = [address]
        page.mapcount = used = used - 1
        if flags & PG_frozen:
            return
        if not used:
            if prior:
                del cache.partials[page.zone.node][pfn]
            self._discard_slab(cache, page)
        elif not prior:
            partial = cache.partials[page.zone.node]
            partial[pfn] = page
            partial.move_to_end(pfn, last=False)

    def _bad_free(self, cache: KmemCache, page: Page | None, address: int) -> NoReturn:
        """Stop at an address that ``cache`` never handed out."""
        more = []
        if page is not None and page.flags & PG_slab_debug:
            more = self.debug.trailer(page.private, page, address)
        bad_free(cache, page, address, more)


def _bad_object(cache: KmemCache, page: Page | None, address: int) -> NoReturn:
    """Stop at an address that is no object in use."""
    assert page is not None
    if (address - page.address) % cache.size:
        raise KernelBug(f"BUG {cache.name}: {address:#x} lies inside an object of slab {page.address:#x}", page)
    raise KernelBug(f"BUG {cache.name}: object {address:#x} of slab {page.address:#x} is free already", page)
