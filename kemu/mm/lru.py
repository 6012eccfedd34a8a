"""The two LRU lists of each zone, and how pages move between them (2.6.23 mm/swap.c, include/linux/mm_inline.h).

Interface
    * ``lru_cache_add(page)`` to the inactive list, ``lru_cache_add_active(page)`` to the active one; ``del_page_from_lru(page)``.
    * ``mark_page_accessed(page)``, ``activate_page(page)``, ``rotate_reclaimable_page(page)``.
    * ``put_page(page)`` is the page allocator's; with the last reference the page also leaves its list.

Rules of this file
    * A list is an OrderedDict whose front is the kernel's tail: what has been there longest, and is scanned first. So adding,
      leaving and rotating are O(1), as with the kernel's list_head.
    * PG_lru says that the page is on a list, PG_active on which. Isolated pages have PG_lru clear and hold a reference.
    * Left out: pagevecs. In the kernel up to 14 new pages per CPU wait in a vector with one more reference before they reach the
      list; here they reach it at once.
"""

from __future__ import annotations

from collections import OrderedDict

from kemu.errors import KernelBug
from kemu.mm.mmzone import Zone
from kemu.mm.page import Page, PG_active, PG_dirty, PG_locked, PG_lru, PG_referenced
from kemu.mm.page_alloc import PageAllocator


class Lru:
    """The LRU lists of a machine.

    :param page_alloc: gives every zone its two lists here, and takes pages whose last reference goes.
    """

    def __init__(self, page_alloc: PageAllocator) -> None:
        self.page_alloc = page_alloc
        self.vmstat = page_alloc.vmstat
        self.zones: list[Zone] = list(page_alloc.zones)
        for zone in self.zones:
            zone.active = OrderedDict()
            zone.inactive = OrderedDict()
        self.put_page = page_alloc.put_page
        page_alloc.page_cache_release = self._page_cache_release

    # -- lists -----------------------------------------------------------------------------------------------------------------

    def lru_cache_add(self, page: Page) -> None:
        """Put a page that is on no list at the head of its zone's inactive list."""
        if page.flags & (PG_lru | PG_active):
            raise KernelBug("lru_cache_add() of a page that is on a list", state=page)
        page.flags |= PG_lru
        page.zone.inactive[page] = None
        self.vmstat.nr_inactive += 1

    def lru_cache_add_active(self, page: Page) -> None:
        """Put a page that is on no list at the head of its zone's active list."""
        if page.flags & (PG_lru | PG_active):
            raise KernelBug("lru_cache_add_active() of a page that is on a list", state=page)
        page.flags |= PG_lru | PG_active
        page.zone.active[page] = None
        self.vmstat.nr_active += 1

    def del_page_from_lru(self, page: Page) -> None:
        """Take a page off its list; PG_active goes with it."""
        if page.flags & PG_active:
            del page.zone.active[page]
            self.vmstat.nr_active -= 1
        else:
            del page.zone.inactive[page]
            self.vmstat.nr_inactive -= 1
        page.flags &= ~(PG_lru | PG_active)

    def _page_cache_release(self, page: Page) -> None:
        """Let go of a page whose last reference has just gone: off its list, and no longer anybody's anonymous page."""
        self.del_page_from_lru(page)
        if page.mapping is not None and page.mapping.is_anon:
            page.mapping = None

    # -- use -------------------------------------------------------------------------------------------------------------------

    def activate_page(self, page: Page) -> None:
        """Move a page from the inactive list to the active one."""
        if page.flags & (PG_lru | PG_active) == PG_lru:
            del page.zone.inactive[page]
            page.flags |= PG_active
            page.zone.active[page] = None
            self.vmstat.nr_inactive -= 1
            self.vmstat.nr_active += 1

    def mark_page_accessed(self, page: Page) -> None:
        """Note a use: inactive, unreferenced -> inactive, referenced -> active, unreferenced -> active, referenced."""
        flags = page.flags
        if flags & (PG_active | PG_referenced | PG_lru) == PG_referenced | PG_lru:
            self.activate_page(page)
            page.flags &= ~PG_referenced
        elif not flags & PG_referenced:
            page.flags |= PG_referenced

    def rotate_reclaimable_page(self, page: Page) -> bool:
        """Make a page whose writeback ends the next one to be scanned; tell whether it moved.

        A page that is locked, dirty again, active or just now isolated stays where it is.
        """
        if page.flags & (PG_locked | PG_dirty | PG_active | PG_lru) != PG_lru:
            return False
        page.zone.inactive.move_to_end(page, last=False)
        self.vmstat.pgrotated += 1
        return True

    def check(self) -> None:
        """Assert that flags, lists and counts agree."""
        active = inactive = 0
        for zone in self.zones:
            active += len(zone.active)
            inactive += len(zone.inactive)
            for page in zone.active:
                if page.flags & (PG_lru | PG_active) != PG_lru | PG_active or page.zone is not zone or page.count < 1:
                    raise KernelBug("a page on the active list has wrong flags, zone or count", state=page)
            for page in zone.inactive:
                if page.flags & (PG_lru | PG_active) != PG_lru or page.zone is not zone or page.count < 1:
                    raise KernelBug("a page on the inactive list has wrong flags, zone or count", state=page)
        if (active, inactive) != (self.vmstat.nr_active, self.vmstat.nr_inactive):
            raise KernelBug(
                f"vmstat counts {self.vmstat.nr_active} active and {self.vmstat.nr_inactive} inactive pages, "
                f"but the lists hold {active} and {inactive}"
            )
