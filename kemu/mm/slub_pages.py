"""Slab pages: how they come, where they wait, how they go (2.6.23-mm1 mm/slub.c: new_slab() to deactivate_slab()).

Interface
    * :class:`SlubPages`, the lower half of ``Slub``: ``_new_slab``, ``_discard_slab``, ``_get_partial``, ``_deactivate_slab``,
      ``flush_cpu_slab``; ``virt_to_page``; for reports ``is_reserve_backed`` and ``reserve_pages_by_holder``.

Rules
    * ``page.reserve`` (patch 02) is read straight after the page was allocated: its slot is the freelist's too.
    * A slab is frozen (held by a CPU), partial (on the cache's list of the page's node), or full (in no list).
    * A node's list serves that node. Slabs of other nodes are filled up only now and then (defrag_ratio; the clock's nanoseconds
      are the dice, as get_cycles() is), and only from lists that are longer than the minimum.
    * Left out: slab_lock and list_lock: nothing switches tasks while lists are changed. The slabs of SLAB_DESTROY_BY_RCU go
      at once: there are no RCU readers. The struct of a node (kmem_cache_node) costs no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.mm.cpuset import cpuset_zone_allowed_hardwall
from kemu.mm.geometry_2_6_23 import Geometry2623
from kemu.mm.gfp import (
    _GFP_THISNODE,
    GFP_CONSTRAINT_MASK,
    GFP_RECLAIM_MASK,
    GFP_RECLAIM_MASK_BASE,
    GFP_SLAB_BUG_MASK,
    GFP_ZONEMASK,
    PAGE_SHIFT,
    gfp_t,
)
from kemu.mm.mempolicy import MPOL_INTERLEAVE, Mempolicy
from kemu.mm.page import PAGE_OFFSET, Page, PG_slab, PG_tail
from kemu.mm.slub_cache import NO_PFN, KmemCache, KmemCacheCpu, PG_frozen, PG_slab_debug, PG_slab_reserve
from kemu.mm.slub_debug import SlubDebug, has_debugging
from kemu.mm.slub_geometry import SLAB_RECLAIM_ACCOUNT

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.geometry import Geometry
    from kemu.mm.page_alloc import PageAllocator


class SlubPages:
    """The slab pages of all caches of a machine.

    :param slub_debug: the boot word (slub_debug.py).
    :param geometry: how many objects share a slab; 2.6.23's unless told otherwise.
    :ivar caches: every cache by name.
    """

    def __init__(self, kernel: Kernel, page_alloc: PageAllocator, slub_debug: str = "", geometry: Geometry | None = None) -> None:
        self.kernel = kernel
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.page_alloc = page_alloc
        self.sched = kernel.sched
        self.vmstat = page_alloc.vmstat
        self.debug = SlubDebug(kernel, slub_debug)
        self.geometry = Geometry2623(len(kernel.cpus)) if geometry is None else geometry
        self.caches: dict[str, KmemCache] = {}
        self.mem_map = page_alloc.mem_map
        self._cache_of: dict[int, KmemCache] = {}  # page->slab of every slab's pages, for kfree() in one step
        # What of a caller's flags reaches the page allocator; any other flag is silently dropped.
        self._page_mask = GFP_RECLAIM_MASK_BASE | GFP_CONSTRAINT_MASK
        if self.patched.gfp_memalloc:  # [p10]
            self._page_mask = GFP_RECLAIM_MASK | GFP_CONSTRAINT_MASK

    def virt_to_page(self, address: int) -> Page | None:
        """Return the frame that an address lies in; None if no frame there was ever used."""
        return self.mem_map.get((address - PAGE_OFFSET) >> PAGE_SHIFT)

    def virt_to_head_page(self, address: int) -> Page | None:
        """Return the first frame of the block that an address lies in."""
        page = self.mem_map.get((address - PAGE_OFFSET) >> PAGE_SHIFT)
        if page is not None and page.flags & PG_tail == PG_tail:
            head: Page = page.private
            return head
        return page

    def is_reserve_backed(self, address: int) -> bool:
        """Tell whether the page of an object was allocated without watermarks; for reports, nothing decides by it."""
        return (address - PAGE_OFFSET) >> PAGE_SHIFT in self.page_alloc.reserve_pfns

    def _leave_reserve(self, page: Page) -> None:
        """Count a slab page as ordinary from now on: an ordinary one was given back in its place."""
        taken = self.page_alloc.reserve_pfns
        for pfn in range(page.pfn, page.pfn + (1 << page.order)):
            taken.pop(pfn, None)

    def reserve_pages_by_holder(self) -> dict[str, int]:
        """Count the pages that were allocated without watermarks and are in use, per cache; "pages" is what is no slab."""
        holders: dict[str, int] = {}
        for pfn in self.page_alloc.reserve_pfns:
            cache = self._cache_of.get(pfn)
            name = "pages" if cache is None else cache.name
            holders[name] = holders.get(name, 0) + 1
        return holders

    def _new_slab(self, cache: KmemCache, gfp: gfp_t, node: int = -1) -> tuple[Page | None, int]:
        """Get a page and lay out its objects (``new_slab()``); return it and, with patch 03, its reserve tag."""
        if gfp & GFP_SLAB_BUG_MASK:  # objects have an address always
            raise KernelBug(f"slub {cache.name}: BUG_ON(flags & GFP_SLAB_BUG_MASK): {gfp:#x} asks for memory without an address")
        asked = (gfp & self._page_mask) | cache.allocflags
        if node < 0:
            page = self.page_alloc.alloc_pages(asked, cache.order)
        else:
            page = self.page_alloc.alloc_pages_node(node, asked, cache.order)
        if page is None:
            return None, 0
        reserve = 0
        if self.patched.slub_reserve:  # [p03]
            reserve = 1 if page.word_d else 0
            if self.fixed.b03a and reserve:  # [b03a]
                page.flags |= PG_slab_reserve

        page.flags |= PG_slab
        page.private = cache
        page.mapcount = 0
        size = cache.size
        start = PAGE_OFFSET + (page.pfn << PAGE_SHIFT)
        # the last item goes out first: a fresh slab hands out ascending addresses
        page.word_d = list(range(start + (cache.objects - 1) * size, start - 1, -size))
        cache.slabs[page.pfn] = page
        for pfn in range(page.pfn, page.pfn + (1 << cache.order)):
            self._cache_of[pfn] = cache
        self._account(cache, 1 << cache.order)
        if has_debugging(cache.flags):
            page.flags |= PG_slab_debug
            self.debug.setup_slab(cache, page)
        if cache.ctor is not None:
            for address in reversed(page.word_d):
                cache.ctor(address)
        return page, reserve

    def _discard_slab(self, cache: KmemCache, page: Page) -> None:
        """Give an empty slab back to the page allocator (``discard_slab()``)."""
        if page.mapcount:
            raise KernelBug(f"slub {cache.name}: discarding a slab with {page.mapcount} objects in use", page)
        error = self.debug.free_slab(cache, page) if page.flags & PG_slab_debug else None
        del cache.slabs[page.pfn]
        for pfn in range(page.pfn, page.pfn + (1 << cache.order)):
            del self._cache_of[pfn]
        self._account(cache, -(1 << cache.order))
        page.flags &= ~(PG_slab | PG_slab_debug | PG_frozen | PG_slab_reserve)
        page.word_d = page.word_d[-1]  # what the slot of a free page would show
        self.page_alloc.free_pages(page, cache.order)
        if error is not None:
            raise error

    def _account(self, cache: KmemCache, pages: int) -> None:
        """Count slab pages (NR_SLAB_RECLAIMABLE, NR_SLAB_UNRECLAIMABLE)."""
        self.vmstat.nr_slab += pages
        if cache.flags & SLAB_RECLAIM_ACCOUNT:
            self.vmstat.nr_slab_reclaimable += pages

    def _get_partial(self, cache: KmemCache, gfp: gfp_t, node: int = -1) -> Page | None:
        """Take a partial slab and freeze it: of the wanted node, else perhaps of another (``get_partial()``); there are several."""
        page = self._get_partial_node(cache, gfp, self.page_alloc.numa_node_id() if node < 0 else node)
        if page is not None or gfp & _GFP_THISNODE:
            return page
        return self._get_any_partial(cache, gfp)

    def _get_partial_node(self, cache: KmemCache, gfp: gfp_t, node: int) -> Page | None:
        """Take the first partial slab of a node and freeze it (``get_partial_node()``)."""
        partial = cache.partials[node]
        if not partial:
            return None
        if self.patched.slub_reserve:  # [p03]
            if self.fixed.b03a:  # [b03a]
                page = next(iter(partial.values()))
                if page.flags & PG_slab_reserve:
                    allowed = self._first_allowed(cache, gfp, node)
                    if allowed is None:
                        return None
                    page = allowed
                del partial[page.pfn]
                page.flags |= PG_frozen
                return page
        _, page = partial.popitem(last=False)
        page.flags |= PG_frozen
        return page

    def _first_allowed(self, cache: KmemCache, gfp: gfp_t, node: int) -> Page | None:
        """Return the first partial slab that the caller may use: one from the reserve only if he is entitled to it."""
        entitled = None
        for page in cache.partials[node].values():
            if not page.flags & PG_slab_reserve:
                return page
            if entitled is None:
                entitled = self.page_alloc.entitled(gfp)
            if entitled:
                return page
        return None

    def _get_any_partial(self, cache: KmemCache, gfp: gfp_t) -> Page | None:
        """Take a partial slab of the nearest node that has more than the minimum (``get_any_partial()``)."""
        if not cache.defrag_ratio or self.sched.now % 1024 > cache.defrag_ratio:
            return None
        for zone in self.page_alloc.nodes[self._slab_node()].zonelists[gfp & GFP_ZONEMASK]:
            allowed = cpuset_zone_allowed_hardwall(self.sched, zone.node, gfp)
            if allowed and len(cache.partials[zone.node]) > cache.min_partial:
                page = self._get_partial_node(cache, gfp, zone.node)
                if page is not None:
                    return page
        return None

    def _slab_node(self) -> int:
        """Return the node where the running task's policy begins to look; the local one without a policy (``slab_node()``)."""
        policy: Mempolicy | None = self.sched.current.mempolicy
        if policy is not None:
            if policy.mode == MPOL_INTERLEAVE:
                return policy.interleave_nodes()
            if policy.nodes:
                return policy.nodes[0]
        return self.page_alloc.numa_node_id()

    def _deactivate_slab(self, cache: KmemCache, c: KmemCacheCpu) -> None:
        """Take the cpu slab away from its CPU (``deactivate_slab()``); what the CPU still had of it goes back to the page."""
        page = c.page
        assert page is not None
        self._return_freelist(c, page)
        c.page = None
        c.fast_pfn = NO_PFN
        page.flags &= ~PG_frozen
        partial = cache.partials[page.zone.node]
        if page.mapcount:
            if page.word_d:
                partial[page.pfn] = page
                partial.move_to_end(page.pfn, last=False)
        elif len(partial) < cache.min_partial:
            # kept to spare the page allocator; at the end, so that it is used last
            partial[page.pfn] = page
        else:
            self._discard_slab(cache, page)

    @staticmethod
    def _return_freelist(c: KmemCacheCpu, page: Page) -> None:
        """Put the CPU's free objects back on its page."""
        if not c.freelist:
            return
        freelist = page.word_d or []
        while c.freelist:
            freelist.append(c.freelist.pop())
            page.mapcount -= 1
        page.word_d = freelist

    def flush_cpu_slab(self, cache: KmemCache, cpu: int) -> None:
        """Make a CPU give up its slab (``__flush_cpu_slab()``); its reserve tag stays as it is."""
        if not 0 <= cpu < len(cache.cpu_slab):
            raise KernelBug(f"slub {cache.name}: flush of CPU {cpu}: there are {len(cache.cpu_slab)}", cache)
        c = cache.cpu_slab[cpu]
        if c.page is not None:
            self._deactivate_slab(cache, c)
