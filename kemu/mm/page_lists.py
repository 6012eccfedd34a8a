"""Frames on their way from the buddy lists to their users and back: per-CPU lists, freeing (2.6.23 mm/page_alloc.c).

Interface
    * :class:`PageLists`, the lower half of the page allocator: ``mem_map``, ``pfn_to_page``, ``buffered_rmqueue``, ``free_pages``,
      ``put_page``, ``drain_pages``, ``reserve_pfns``.

Rules of this file
    * A ``struct page`` is made when its frame is first taken off the buddy lists, and kept: what a former user left there stays.
    * Pages on per-CPU lists are counted nowhere: not as free, not as allocated.
    * A page that comes back with somebody's flag, mapping or map count on it is an oops; its contents are dropped. So is a block
      that comes back with another order than it had (the kernel notices that of compound pages only). After the oops the lists are
      sound: what could not be freed stays allocated for good.
    * Nobody can interrupt these functions: they never call ``spend``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.mm.buddy import free_one_page, rmqueue, seed_zone
from kemu.mm.gfp import _GFP_COLD, _GFP_COMP, _GFP_ZERO, gfp_t
from kemu.mm.mmzone import PerCpuPages, Zone
from kemu.mm.page import (
    PAGE_OFFSET,
    ZERO_PAGE,
    Page,
    PG_compound,
    PG_lru,
    PG_tail,
)
from kemu.mm.page_check import FREE_FORBIDS, bad_page, check_pages
from kemu.mm.vmstat import VmStat
from kemu.mm.watermark import zone_batchsize

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel


class PageLists:
    """Free lists of all zones, seen as pages.

    :ivar zones: of all nodes, those of a node lowest first.
    :ivar frames: ranges of frames that exist, first and end, and their zone.
    :ivar mem_map: the frames that were ever touched, by pfn.
    :ivar reserve_pfns: frames that were handed out without watermarks and are not yet back: for invariants and reports. The kernel
        knows only ``page.reserve``, which the next user of word D overwrites.
    :ivar page_cache_release: handed over by the LRU: takes a page off its list when its last reference goes.
    """

    def __init__(self, kernel: Kernel, zones: list[Zone]) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.zones = zones
        self.frames = [(zone.start_pfn, zone.end_pfn, zone) for zone in zones if zone.present_pages]
        self.vmstat = VmStat()
        self.mem_map: dict[int, Page] = {}
        self.reserve_pfns: dict[int, None] = {}
        self.page_cache_release: Callable[[Page], None] | None = None
        self._tp_free = kernel.trace.point("kmem:mm_page_free", ("page", "pfn", "order"))
        for zone in zones:
            seed_zone(zone)
            batch = zone_batchsize(zone.present_pages)
            zone.hot = [PerCpuPages(6 * batch, max(1, batch)) for _ in kernel.cpus]
            zone.cold = [PerCpuPages(2 * batch, max(1, batch // 2)) for _ in kernel.cpus]

    # frames

    def page_zone(self, pfn: int) -> Zone:
        """Return the zone of a frame."""
        for start, end, zone in self.frames:
            if start <= pfn < end:
                return zone
        raise KernelBug(f"pfn {pfn:#x} is not in memory: it ends at {self.frames[-1][1]:#x}")

    def pfn_to_page(self, pfn: int) -> Page:
        """Return the ``struct page`` of a frame, made now if it was never touched."""
        page = self.mem_map.get(pfn)
        if page is None:
            page = self.mem_map[pfn] = Page(pfn, self.page_zone(pfn))
        return page

    def virt_to_page(self, address: int) -> Page:
        """Return the page that a kernel address lies in (it may be a compound page's tail)."""
        return self.pfn_to_page((address - PAGE_OFFSET) >> 12)

    # out

    def buffered_rmqueue(self, zone: Zone, order: int, gfp: gfp_t) -> Page | None:
        """Take pages off a zone's lists, whatever its marks say, and make them new (buffered_rmqueue, prep_new_page)."""
        if order:
            pfn = rmqueue(zone, order)
            if pfn is None:
                return None
            page = self._touch(zone, pfn)
            page.order = order
            if gfp & _GFP_COMP:
                self._prep_compound_page(page, order)
        else:
            pcp = (zone.cold if gfp & _GFP_COLD else zone.hot)[self.sched.cpu.id]
            if not pcp.pages and not self._rmqueue_bulk(zone, pcp):
                return None
            page = pcp.pages.pop()
            page.flags = 0
        page.count = 1
        page.private = 0  # word D is left as it is
        self.vmstat.pgalloc += 1 << order
        if gfp & _GFP_ZERO:
            for each in range(page.pfn, page.pfn + (1 << order)):
                self._touch(zone, each).contents = ZERO_PAGE
        return page

    def _touch(self, zone: Zone, pfn: int) -> Page:
        page = self.mem_map.get(pfn)
        if page is None:
            page = self.mem_map[pfn] = Page(pfn, zone)
        return page

    def _rmqueue_bulk(self, zone: Zone, pcp: PerCpuPages) -> bool:
        """Fill an empty per-CPU list with a batch of single pages; the first one that came is handed out first (rmqueue_bulk)."""
        mem_map = self.mem_map
        pages = pcp.pages
        for _ in range(pcp.batch):
            pfn = rmqueue(zone, 0)
            if pfn is None:
                break
            page = mem_map.get(pfn)
            if page is None:
                page = mem_map[pfn] = Page(pfn, zone)
            pages.append(page)
        pages.reverse()
        return bool(pages)

    def _prep_compound_page(self, head: Page, order: int) -> None:
        """Let every tail of a block point to its head (prep_compound_page)."""
        head.flags = PG_compound
        head.order = order
        for pfn in range(head.pfn + 1, head.pfn + (1 << order)):
            tail = self._touch(head.zone, pfn)
            tail.flags = PG_tail
            tail.private = head

    # back

    def free_pages(self, page: Page, order: int = 0) -> None:
        """Drop a reference of a block that was allocated with this order; free it with the last one (__free_pages)."""
        page.count = count = page.count - 1
        if count:
            if count < 0:
                bad_page(page, "freed twice")
            return
        if order:
            self._free_pages_ok(page, order)
            return
        # free_hot_cold_page(), written out: every packet and every slab page comes by here
        if page.flags & FREE_FORBIDS or page.mapping is not None or page.mapcount:
            bad_page(page, "freed in use")
        page.contents = None
        if self._tp_free.enabled:
            self._tp_free(page.address, page.pfn, 0)
        if self.reserve_pfns:
            self.reserve_pfns.pop(page.pfn, None)
        self.vmstat.pgfree += 1
        zone = page.zone
        pcp = zone.hot[self.sched.cpu.id]
        pages = pcp.pages
        pages.append(page)
        if len(pages) >= pcp.high:
            self._free_pages_bulk(zone, pcp, pcp.batch)

    def put_page(self, page: Page) -> None:
        """Drop a reference, whatever the page is: single, on the LRU, or part of a compound page (mm/swap.c: put_page)."""
        if page.flags & PG_compound:
            if page.flags & PG_tail == PG_tail:
                page = page.private
            self.free_pages(page, page.order)
            return
        page.count = count = page.count - 1
        if count:
            if count < 0:
                bad_page(page, "put_page() of a free page")
            return
        if page.flags & PG_lru and self.page_cache_release is not None:
            self.page_cache_release(page)
        self.free_hot_cold_page(page)

    def free_hot_cold_page(self, page: Page, *, cold: bool = False) -> None:
        """Put a single page that nobody refers to on this CPU's list (free_hot_cold_page)."""
        if page.flags & FREE_FORBIDS or page.mapping is not None or page.mapcount:
            bad_page(page, "freed in use")
        page.contents = None
        if self._tp_free.enabled:
            self._tp_free(page.address, page.pfn, 0)
        if self.reserve_pfns:
            self.reserve_pfns.pop(page.pfn, None)
        self.vmstat.pgfree += 1
        zone = page.zone
        pcp = (zone.cold if cold else zone.hot)[self.sched.cpu.id]
        pcp.pages.append(page)
        if len(pcp.pages) >= pcp.high:
            self._free_pages_bulk(zone, pcp, pcp.batch)

    def _free_pages_bulk(self, zone: Zone, pcp: PerCpuPages, count: int) -> None:
        """Give the oldest pages of a per-CPU list back to the buddy lists (free_pages_bulk)."""
        zone.all_unreclaimable = False
        zone.pages_scanned = 0
        pages = pcp.pages
        if len(pages) == 1 and count:  # a zone too small for lists
            free_one_page(zone, pages.pop().pfn, 0)
            return
        for page in pages[:count]:
            free_one_page(zone, page.pfn, 0)
        del pages[:count]

    def _free_pages_ok(self, page: Page, order: int) -> None:
        """Check all pages of a block and give it back to the buddy lists (__free_pages_ok, destroy_compound_page)."""
        if page.order != order:
            bad_page(page, f"a block of order {page.order} is freed with order {order}")
        if page.flags & PG_compound:
            self._destroy_compound_page(page, order)
        page.order = 0
        zone = page.zone
        for pfn in range(page.pfn, page.pfn + (1 << order)):
            if self.reserve_pfns:
                self.reserve_pfns.pop(pfn, None)
            each = self.mem_map.get(pfn)
            if each is None:
                continue  # never touched, so nothing is on it
            if each.flags & FREE_FORBIDS or each.mapping is not None or each.mapcount or each.count:
                bad_page(each, "freed in use")
            each.flags = 0
            each.contents = None
        if self._tp_free.enabled:
            self._tp_free(page.address, page.pfn, order)
        self.vmstat.pgfree += 1 << order
        zone.all_unreclaimable = False
        zone.pages_scanned = 0
        free_one_page(zone, page.pfn, order)

    def _destroy_compound_page(self, head: Page, order: int) -> None:
        head.flags &= ~PG_compound
        for pfn in range(head.pfn + 1, head.pfn + (1 << order)):
            tail = self.mem_map[pfn]
            if tail.private is not head or tail.flags & PG_tail != PG_tail:
                bad_page(tail, f"a tail that does not belong to pfn {head.pfn:#x}")
            tail.flags = 0

    def drain_pages(self, cpu_id: int) -> None:
        """Give all pages of one CPU's lists back to the buddy lists (drain_pages)."""
        if not 0 <= cpu_id < len(self.kernel.cpus):
            raise KernelBug(f"drain_pages({cpu_id}): there are {len(self.kernel.cpus)} CPUs")
        for zone in self.zones:
            for pcp in (zone.hot[cpu_id], zone.cold[cpu_id]):
                self._free_pages_bulk(zone, pcp, len(pcp.pages))

    # counting

    def nr_free_pages(self) -> int:
        """Return the sum of NR_FREE_PAGES."""
        return sum(zone.free_pages for zone in self.zones)

    def allocated_pages(self) -> int:
        """Return how many pages somebody holds."""
        return sum(zone.present_pages - zone.free_pages - zone.pcp_pages for zone in self.zones)

    def check(self) -> None:
        """Assert the invariants of all zones, and that no free page bears a trace of use."""
        check_pages(self)
