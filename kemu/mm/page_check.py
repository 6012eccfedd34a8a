"""What a free page must look like, and the oops about one that does not (2.6.23 mm/page_alloc.c: bad_page(), free_pages_check()).

Interface
    * ``FREE_FORBIDS``: flags that say that somebody still has the page. :func:`bad_page`.
    * :func:`check_pages`: the invariants of all zones, lists and frames, for tests and for :meth:`Machine.check`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from kemu.errors import KernelBug
from kemu.mm.buddy import check_buddies
from kemu.mm.gfp import MAX_ORDER
from kemu.mm.page import (
    Page,
    PG_active,
    PG_buddy,
    PG_locked,
    PG_lru,
    PG_private,
    PG_reserved,
    PG_slab,
    PG_swapcache,
    PG_writeback,
    decode_page_flags,
)

if TYPE_CHECKING:
    from kemu.mm.page_lists import PageLists

FREE_FORBIDS: Final = PG_lru | PG_private | PG_locked | PG_active | PG_slab | PG_swapcache | PG_writeback | PG_reserved | PG_buddy


def bad_page(page: Page, what: str) -> NoReturn:
    """Say what is wrong with a page. The kernel mends it, prints and goes on; here it is an oops."""
    text = (
        f"Bad page state: pfn {page.pfn:#x} {what}: count {page.count}, mapcount {page.mapcount}, "
        f"flags {decode_page_flags(page.flags)}, mapping {type(page.mapping).__name__}"
    )
    page.count = max(page.count, 0)  # freed twice, it may stand on a free list
    raise KernelBug(text, page)


def check_pages(lists: PageLists) -> None:
    """Assert that every zone is sound, that no free page bears a trace of use, and that no page went astray."""
    for zone in lists.zones:
        zone.check()
        check_buddies(zone)
        for pcp in (*zone.hot, *zone.cold):
            for page in pcp.pages:
                _check_free(lists, page)
    for page in lists.mem_map.values():
        if _is_free(page):
            _check_free(lists, page)
    if lists.vmstat.pgalloc - lists.vmstat.pgfree != lists.allocated_pages():
        raise KernelBug(
            f"{lists.vmstat.pgalloc} pages handed out, {lists.vmstat.pgfree} came back, but {lists.allocated_pages()} are away"
        )


def _is_free(page: Page) -> bool:
    """Tell whether a frame lies in a free block of the buddy lists."""
    free_area = page.zone.free_area
    return any(page.pfn >> order << order in free_area[order] for order in range(MAX_ORDER))


def _check_free(lists: PageLists, page: Page) -> None:
    if page.count or page.mapcount or page.flags & FREE_FORBIDS or page.mapping is not None or page.contents is not None:
        bad_page(page, "used while free")
    if page.pfn in lists.reserve_pfns:
        bad_page(page, "free and in reserve_pfns")
