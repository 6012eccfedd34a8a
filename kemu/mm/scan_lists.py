"""From the old end of a zone's lists: isolate pages, look at them, free them or put them back (2.6.23 mm/vmscan.c).

Interface
    * :class:`ScanLists`, the part of ``Reclaim`` that scans one cluster: ``shrink_inactive_list``, ``shrink_active_list``,
      ``isolate_lru_pages``.

Rules of this file
    * Pages are isolated in clusters of 32: off the list, one more reference, looked at, put back. The cost is per page looked at.
    * Lumpy reclaim: for a request of a larger order, a page brings along the others of its aligned block that are on the same list,
      above order 3 also those on the active list. Each counts as scanned. Pages of another zone are left alone.
    * Above order 3 a direct reclaimer that could not free all it isolated naps, and looks a second time; then it waits for writes
      (PAGEOUT_IO_SYNC). kswapd never does.
    * Whether mapped pages leave the active list is asked once a cluster: distress (how hard the zone was scanned), half the share
      of mapped memory, swappiness, and how much longer the active list is.
    * Left out: pages that are being freed elsewhere while they are isolated (nothing comes between), memory controllers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.task import PF_KSWAPD
from kemu.kernel.timer import HZ
from kemu.mm.gfp import PAGE_ALLOC_COSTLY_ORDER
from kemu.mm.mmzone import Zone
from kemu.mm.page import Page, PG_active, PG_lru
from kemu.mm.rmap import page_referenced
from kemu.mm.shrink_list import ScanControl, ShrinkList

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.swap_state import SwapState


class ScanLists(ABC):
    """Scanning of one machine's lists.

    :param swap_state: where anonymous pages go.
    :ivar swappiness: vm.swappiness.
    """

    def __init__(self, kernel: Kernel, swap_state: SwapState) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.filemap = swap_state.filemap
        self.page_alloc = swap_state.page_alloc
        self.vmstat = swap_state.vmstat
        self.areas = swap_state.areas
        self.shrink_list = ShrinkList(kernel, self.filemap, swap_state)
        self.swappiness = 60

    @abstractmethod
    def congestion_wait(self, jiffies: int) -> None:
        """Nap, as one that waits for memory; in vmscan.py."""

    # on and off the lists

    def isolate_lru_pages(
        self, zone: Zone, active: bool, nr_to_scan: int, order: int = 0, *, both: bool = False
    ) -> tuple[list[Page], int]:
        """Take pages off the old end of a list, with a reference each; return them, and how many were scanned.

        :param order: of the block that the caller wants; above 0 each page brings its neighbours along.
        :param both: neighbours may be on the other list.
        """
        pages = zone.active if active else zone.inactive
        taken: list[Page] = []
        scanned = nr_active = 0
        while scanned < nr_to_scan and pages:
            page = pages.popitem(last=False)[0]
            if not page.flags & PG_lru or bool(page.flags & PG_active) is not active:
                raise KernelBug("a page on an LRU list has the wrong flags", page)
            page.flags &= ~PG_lru
            page.count += 1
            taken.append(page)
            scanned += 1
            if order:
                neighbours = self._isolate_block(zone, page, order, active, both)
                taken += neighbours
                scanned += len(neighbours)
        nr_active = sum(1 for page in taken if page.flags & PG_active) if both else len(taken) if active else 0
        self.vmstat.nr_active -= nr_active
        self.vmstat.nr_inactive -= len(taken) - nr_active
        zone.pages_scanned += scanned
        return taken, scanned

    def _isolate_block(self, zone: Zone, tag: Page, order: int, active: bool, both: bool) -> list[Page]:
        """Take what else of a page's aligned block is on a list."""
        taken = []
        first = tag.pfn >> order << order
        mem_map = self.page_alloc.mem_map
        for pfn in range(first, first + (1 << order)):
            page = mem_map.get(pfn)
            if page is None or page.zone is not zone or not page.flags & PG_lru:
                continue  # free, or somebody else's; the tag page is off its list already
            is_active = bool(page.flags & PG_active)
            if is_active is not active and not both:
                continue
            del (zone.active if is_active else zone.inactive)[page]
            page.flags &= ~PG_lru
            page.count += 1
            taken.append(page)
        return taken

    def _put_back(self, pages: Sequence[Page]) -> None:
        """Put isolated pages to the new end of the list that PG_active says, and drop the isolator's reference."""
        vmstat = self.vmstat
        put_page = self.page_alloc.put_page
        nr_active = 0
        for page in pages:
            page.flags |= PG_lru
            if page.flags & PG_active:
                page.zone.active[page] = None
                nr_active += 1
            else:
                page.zone.inactive[page] = None
        vmstat.nr_active += nr_active
        vmstat.nr_inactive += len(pages) - nr_active
        for page in pages:
            if page.count > 1:
                page.count -= 1
            else:
                put_page(page)  # its owner has let go of it meanwhile

    # the inactive list

    def shrink_inactive_list(self, max_scan: int, zone: Zone, sc: ScanControl) -> int:
        """Try to free pages from the old end of the inactive list; return how many went."""
        vmstat = self.vmstat
        kswapd = self.sched.current.flags & PF_KSWAPD
        costly = sc.order > PAGE_ALLOC_COSTLY_ORDER
        nr_scanned = nr_reclaimed = 0
        while nr_scanned < max_scan:
            pages, scanned = self.isolate_lru_pages(zone, False, sc.swap_cluster_max, sc.order, both=costly)
            if costly:
                self._clear_active_flags(pages)
            nr_scanned += scanned
            nr_freed, rest = self.shrink_list.shrink_page_list(pages, sc)
            if rest and costly and not kswapd:
                self.congestion_wait(HZ // 10)
                self._clear_active_flags(rest)  # those that the first look has made active
                more, rest = self.shrink_list.shrink_page_list(rest, sc, sync=True)
                nr_freed += more
            if kswapd:
                vmstat.pgscan_kswapd += scanned
                vmstat.kswapd_steal += nr_freed
            else:
                vmstat.pgscan_direct += scanned
            vmstat.pgsteal += nr_freed
            nr_reclaimed += nr_freed
            self._put_back(rest)
            if not pages:
                break
        return nr_reclaimed

    def _clear_active_flags(self, pages: Sequence[Page]) -> None:
        """Take PG_active off isolated pages (clear_active_flags())."""
        for page in pages:
            if page.flags & PG_active:
                page.flags &= ~PG_active
                self.vmstat.pgdeactivate += 1

    # the active list

    def shrink_active_list(self, nr_pages: int, zone: Zone, sc: ScanControl, priority: int) -> None:
        """Move pages that were not used from the old end of the active list to the inactive list."""
        sched = self.sched
        reclaim_mapped = sc.may_swap and self.reclaim_mapped(zone, sc, priority)
        no_swap = not self.areas.total_swap_pages
        pages, scanned = self.isolate_lru_pages(zone, True, nr_pages, sc.order)
        for page in pages:
            sched.cond_resched()
            sched.spend(costs.SCAN_PAGE)
            if page.mapcount:
                anon = page.mapping is not None and page.mapping.is_anon
                if not reclaim_mapped or (no_swap and anon) or page_referenced(page):
                    continue
            page.flags &= ~PG_active
            self.vmstat.pgdeactivate += 1
        self.vmstat.pgrefill += scanned
        self._put_back(pages)

    def reclaim_mapped(self, zone: Zone, sc: ScanControl, priority: int) -> bool:
        """Decide whether mapped pages may leave the active list; always, if the zone was scanned three times over."""
        active, inactive = len(zone.active), len(zone.inactive)
        if zone.pages_scanned >= (active + inactive) * 3:
            return True  # zone_is_near_oom()
        distress = 100 >> min(zone.prev_priority, priority)
        mapped_ratio = (self.vmstat.nr_file_mapped + self.vmstat.nr_anon_pages) * 100 // self.page_alloc.total_pages
        # the sysctl's value here, the reclaimer's own in the sum
        imbalance = active // (inactive + 1) * (self.swappiness + 1) // 100 * mapped_ratio // 100
        return mapped_ratio // 2 + distress + sc.swappiness + imbalance >= 100
