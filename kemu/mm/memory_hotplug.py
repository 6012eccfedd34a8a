"""More memory while the machine runs (2.6.23-mm1 mm/memory_hotplug.c: online_pages()).

Interface
    * :class:`MemoryHotplug`: ``online_pages(nid, start_pfn, nr_pages)``.

Rules of this file
    * Memory comes in whole sections: 128 MiB on x86_64, 64 MiB on i386. It goes to one zone whatever its address: NORMAL on x86_64,
      HIGHMEM on i386 (arch_add_memory()). What lies between it and the zone's other frames is a hole.
    * Marks are recomputed by setup_per_zone_pages_min(), the same function that the sysctl calls: patch 07's other caller.
    * 2.6.23 recomputes marks alone. lowmem_reserve, min_free_kbytes and the per-CPU lists keep the size that they had; a zone that
      was empty has lists of one page. So does this.
    * Left out: offline_pages(), a new node, the memory that the new ``struct page`` need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.kernel.errno import EEXIST, EINVAL
from kemu.mm.buddy import add_frames
from kemu.mm.gfp import PAGE_SHIFT
from kemu.mm.mmzone import Zone
from kemu.mm.nodes import build_all_zonelists

if TYPE_CHECKING:
    from kemu.mm.page_alloc import PageAllocator

# Per architecture: pages of a section (1 << (SECTION_SIZE_BITS - PAGE_SHIFT)), and the zone that gets it
_SECTIONS: Final[dict[str, tuple[int, str]]] = {
    "x86_64": (1 << (27 - PAGE_SHIFT), "NORMAL"),
    "i386": (1 << (26 - PAGE_SHIFT), "HIGHMEM"),
}


class MemoryHotplug:
    """Adds memory to a page allocator."""

    def __init__(self, page_alloc: PageAllocator) -> None:
        self.page_alloc = page_alloc
        self.section_pages, self._zone_name = _SECTIONS[page_alloc.arch]

    def online_pages(self, nid: int, start_pfn: int, nr_pages: int) -> int:
        """Make whole sections usable: 0, -EINVAL for what is no section or no node, -EEXIST for memory that is there already."""
        page_alloc = self.page_alloc
        if nr_pages <= 0 or start_pfn < 0 or (start_pfn | nr_pages) % self.section_pages or not 0 <= nid < len(page_alloc.nodes):
            return -EINVAL
        end_pfn = start_pfn + nr_pages
        if any(first < end_pfn and start_pfn < end for first, end, _ in page_alloc.frames):
            return -EEXIST
        zone = next(zone for zone in page_alloc.nodes[nid].zones if zone.name == self._zone_name)
        was_empty = not zone.present_pages
        self._grow_zone_span(zone, start_pfn, end_pfn)
        page_alloc.frames.append((start_pfn, end_pfn, zone))
        add_frames(zone, start_pfn, end_pfn)
        zone.present_pages += nr_pages
        page_alloc.total_pages += nr_pages
        page_alloc.setup_per_zone_pages_min()
        if was_empty:
            build_all_zonelists(page_alloc.nodes, page_alloc.topology)
        return 0

    @staticmethod
    def _grow_zone_span(zone: Zone, start_pfn: int, end_pfn: int) -> None:
        """Let a zone reach from its first frame to its last (grow_zone_span)."""
        if zone.spanned_pages:
            start_pfn, end_pfn = min(start_pfn, zone.start_pfn), max(end_pfn, zone.end_pfn)
        zone.start_pfn = start_pfn
        zone.spanned_pages = end_pfn - start_pfn
