"""Zones of page frames, and the node that holds them (include/linux/mmzone.h, 2.6.23 mm/page_alloc.c: zone_watermark_ok()).

Interface
    * :class:`Zone`: free lists, marks, per-CPU lists, what reclaim keeps per zone. :class:`PerCpuPages`.
    * :class:`Node`: the zones of one node, lowest first, and one zonelist per zone modifier (of all nodes: nodes.py fills them).
    * :func:`zone_layout`: which zones an amount of memory makes; :func:`node_zones`: which of them a range of frames has.

Rules of this file
    * What is constant between two changes of the marks is computed then: who writes a mark calls :meth:`Zone.recompute_floor`.
      zone_watermark_ok() is on every allocation.
    * All counts are pages. Free lists hold pfns, newest last (the head of the kernel's list).
    * No zone->lock: nothing switches tasks while the lists are changed.
    * Zones are cut by address alone, as free_area_init_nodes() does: only the node with the lowest addresses has DMA, and on i386
      what lies above 896 MiB is HIGHMEM whichever node has it.
    * Left out: ZONE_MOVABLE, mobility grouping, zone_reclaim.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from kemu.errors import ConfigError, KernelBug
from kemu.mm.gfp import (
    _GFP_DMA,
    _GFP_DMA32,
    _GFP_HIGHMEM,
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_WMARK_HIGH,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MIN,
    GFP_ZONEMASK,
    MAX_ORDER,
    PAGE_SHIFT,
    alloc_flags_t,
    gfp_t,
)
from kemu.mm.page import Page
from kemu.patches import PatchSet

WMARK_FLAGS: Final = ALLOC_HARDER | ALLOC_HIGH | ALLOC_WMARK_MIN | ALLOC_WMARK_LOW | ALLOC_WMARK_HIGH  # what a threshold depends on
_MIB: Final = 1 << (20 - PAGE_SHIFT)  # pages in a MiB

# Per architecture: zone, the MiB where it ends (None: at the end of memory), divisor of lowmem_reserve, is it highmem
_LAYOUTS: Final[dict[str, tuple[tuple[str, int | None, int, bool], ...]]] = {
    "x86_64": (("DMA", 16, 256, False), ("DMA32", 4096, 256, False), ("NORMAL", None, 32, False)),
    "i386": (("DMA", 16, 256, False), ("NORMAL", 896, 32, False), ("HIGHMEM", None, 32, True)),
}


class PerCpuPages:
    """``struct per_cpu_pages``: order-0 pages that one CPU keeps for itself; not counted as free.

    :ivar pages: the list, newest last.
    :ivar high: at this length ``batch`` pages go back to the buddy lists.
    """

    __slots__ = ("batch", "high", "pages")

    def __init__(self, high: int, batch: int) -> None:
        self.high = high
        self.batch = batch
        self.pages: list[Page] = []


@attrs.define(eq=False)
class Zone:
    """``struct zone``: the free pages of one address range, and how low they may fall.

    :param zone_idx: its place among the node's zones, lowest addresses first.
    :param start_pfn: the first frame.
    :param present_pages: frames in the zone, without holes.
    :param lowmem_reserve_ratio: divisor for what the zone keeps from requests that could go higher.
    :param highmem: pages without a kernel address.
    :param nr_zones: zones of the node.
    :param node: the node's number (``zone_pgdat->node_id``).
    :ivar spanned_pages: frames from the first to the last, with the holes that memory hotplug leaves.
    """

    name: str
    zone_idx: int
    start_pfn: int
    present_pages: int
    lowmem_reserve_ratio: int
    highmem: bool
    patched: PatchSet = attrs.field(repr=False)
    nr_zones: int = attrs.field(repr=False)
    node: int = 0
    spanned_pages: int = attrs.field(init=False)

    # under zone->lock:
    free_pages: int = 0  # NR_FREE_PAGES: what the buddy lists hold
    free_area: list[dict[int, None]] = attrs.field(init=False, repr=False)  # per order: pfns of the blocks

    # per CPU, irqs off:
    hot: list[PerCpuPages] = attrs.field(factory=list, repr=False)
    cold: list[PerCpuPages] = attrs.field(factory=list, repr=False)

    # under min_free_lock, written by setup_per_zone_pages_min() only:
    pages_min: int = 0
    pages_low: int = 0
    pages_high: int = 0
    pages_emerg: int = 0  # [p08] added
    lowmem_reserve: list[int] = attrs.field(init=False)  # kept from requests of each higher class zone
    _floor: list[int] = attrs.field(init=False, repr=False)  # per class zone: what must stay whatever the mark
    thresholds: list[list[int]] = attrs.field(
        init=False, repr=False
    )  # [alloc_flags & WMARK_FLAGS][class zone]: order 0 needs more free
    low_threshold: int = attrs.field(init=False, repr=False)  # the one that the fast path asks for

    # under zone->lru_lock, kept by reclaim:
    active: Any = attrs.field(default=None, repr=False)
    inactive: Any = attrs.field(default=None, repr=False)
    nr_scan_active: int = 0
    nr_scan_inactive: int = 0
    pages_scanned: int = 0  # since the last page was freed
    all_unreclaimable: bool = False
    temp_priority: int = 12
    prev_priority: int = 12
    reclaim_in_progress: int = 0

    def __attrs_post_init__(self) -> None:
        self.spanned_pages = self.present_pages
        self.free_area = [{} for _ in range(MAX_ORDER)]
        self.lowmem_reserve = [0] * self.nr_zones
        self.recompute_floor()

    @property
    def end_pfn(self) -> int:
        """The first frame behind the zone."""
        return self.start_pfn + self.spanned_pages

    @property
    def nr_free(self) -> list[int]:
        """Free blocks per order."""
        return [len(blocks) for blocks in self.free_area]

    @property
    def pcp_pages(self) -> int:
        """Pages on the per-CPU lists: free, but in no count."""
        return sum(len(pcp.pages) for pcp in self.hot) + sum(len(pcp.pages) for pcp in self.cold)

    def recompute_floor(self) -> None:
        """Fold into one number per class zone what no ALLOC_* discount erodes, and fill the tables that order-0 requests ask."""
        self._floor = list(self.lowmem_reserve)
        if self.patched.emergency_pool:  # [p08]
            self._floor = [reserve + self.pages_emerg for reserve in self._floor]
        minima = [self._discounted(self._mark(alloc_flags), alloc_flags) for alloc_flags in range(WMARK_FLAGS + 1)]
        self.thresholds = [[minimum + floor for floor in self._floor] for minimum in minima]
        self.low_threshold = self.thresholds[ALLOC_WMARK_LOW][self.zone_idx]

    def _mark(self, alloc_flags: alloc_flags_t) -> int:
        """Return the mark that a request is tested against (2.6.23 mm/page_alloc.c: get_page_from_freelist)."""
        if alloc_flags & ALLOC_WMARK_MIN:
            return self.pages_min
        return self.pages_low if alloc_flags & ALLOC_WMARK_LOW else self.pages_high

    @staticmethod
    def _discounted(mark: int, alloc_flags: alloc_flags_t) -> int:
        """Halve a mark for ALLOC_HIGH, and then take a quarter of what is left for ALLOC_HARDER."""
        if alloc_flags & ALLOC_HIGH:
            mark -= mark // 2
        if alloc_flags & ALLOC_HARDER:
            mark -= mark // 4
        return mark

    def zone_watermark_ok(self, order: int, mark: int, classzone_idx: int, alloc_flags: alloc_flags_t) -> bool:
        """Tell whether a block of 2**order pages may be taken at ``mark`` (2.6.23 mm/page_alloc.c: zone_watermark_ok).

        ALLOC_HIGH halves the mark; ALLOC_HARDER then takes a quarter of what is left. The comparison is strict, with the block's
        other pages already counted as gone; for each order below the wanted one, smaller blocks do not count and the mark halves.
        """
        minimum = self._discounted(mark, alloc_flags)
        free = self.free_pages - (1 << order) + 1
        if free <= minimum + self._floor[classzone_idx]:
            return False
        for smaller in range(order):
            free -= len(self.free_area[smaller]) << smaller
            minimum >>= 1
            if free <= minimum:
                return False
        return True

    def atomic_floor(self, classzone_idx: int) -> int:
        """Return the free pages at which GFP_ATOMIC, order 0, gets nothing more."""
        return self.thresholds[ALLOC_WMARK_MIN | ALLOC_HIGH | ALLOC_HARDER][classzone_idx]

    def allows(self, order: int, classzone_idx: int, alloc_flags: alloc_flags_t) -> bool:
        """Tell whether a request may take a block here: zone_watermark_ok() at the mark that its flags name."""
        if not order:
            return self.free_pages > self.thresholds[alloc_flags & WMARK_FLAGS][classzone_idx]
        return self.zone_watermark_ok(order, self._mark(alloc_flags), classzone_idx, alloc_flags)

    def check(self) -> None:
        """Assert the zone's invariants; on failure raise :exc:`KernelBug` with the whole state."""
        listed = sum(blocks << order for order, blocks in enumerate(self.nr_free))
        if listed != self.free_pages:
            raise KernelBug(f"zone {self.name}: free_pages {self.free_pages}, but the lists hold {listed}", state=self)
        if not 0 <= self.pages_min <= self.pages_low <= self.pages_high:
            raise KernelBug(f"zone {self.name}: marks out of order", state=self)
        if self.pages_emerg < 0 or any(reserve < 0 for reserve in self.lowmem_reserve):
            raise KernelBug(f"zone {self.name}: a negative reserve", state=self)
        for order, blocks in enumerate(self.free_area):
            for pfn in blocks:
                if pfn & ((1 << order) - 1):
                    raise KernelBug(f"zone {self.name}: block {pfn:#x} of order {order} is not aligned", state=self)
                if not self.start_pfn <= pfn <= self.end_pfn - (1 << order):
                    raise KernelBug(f"zone {self.name}: block {pfn:#x} of order {order} lies outside", state=self)


@attrs.define(eq=False)
class Node:
    """``struct pglist_data``: one node's zones, and the order in which each kind of request tries those of all nodes.

    :param cpus: ids of the node's processors.
    :ivar zonelists: per value of the gfp zone modifiers: populated zones, the first to be tried first. Alone, the node's own.
    """

    node_id: int
    zones: list[Zone]
    cpus: tuple[int, ...] = ()
    zonelists: list[list[Zone]] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.zonelists = [self.populated(self.gfp_zone(modifiers)) for modifiers in range(GFP_ZONEMASK + 1)]

    def populated(self, highest: int) -> list[Zone]:
        """Return the zones that have pages, from the one with index ``highest`` downwards (build_zonelists_node)."""
        return [zone for zone in reversed(self.zones[: highest + 1]) if zone.present_pages]

    def gfp_zone(self, gfp: gfp_t) -> int:
        """Return the index of the highest zone that a request may have (include/linux/gfp.h: gfp_zone).

        The first modifier that is set counts; DMA with HIGHMEM is DMA.
        """
        index = {zone.name: zone.zone_idx for zone in self.zones}
        if gfp & _GFP_DMA:
            return index["DMA"]
        if gfp & _GFP_DMA32 and "DMA32" in index:
            return index["DMA32"]
        if gfp & _GFP_HIGHMEM and "HIGHMEM" in index:
            return index["HIGHMEM"]
        return index["NORMAL"]


def zone_layout(mem_bytes: int, arch: str, patched: PatchSet) -> list[Zone]:
    """Cut memory into an architecture's zones; a zone that memory does not reach is there and empty.

    :param mem_bytes: all of RAM, from frame 0, without holes; whole pages.
    """
    pages = mem_bytes >> PAGE_SHIFT
    if pages < 1:
        raise ConfigError(f"memory of {mem_bytes} bytes: at least one page of {1 << PAGE_SHIFT} is needed")
    return node_zones(0, 0, pages, arch, patched)


def node_zones(node: int, start_pfn: int, end_pfn: int, arch: str, patched: PatchSet) -> list[Zone]:
    """Cut one node's frames into zones."""
    if arch not in _LAYOUTS:
        raise ConfigError(f"arch {arch!r}: there are {', '.join(_LAYOUTS)}")
    layout = _LAYOUTS[arch]
    zones = []
    start = start_pfn
    for zone_idx, (name, end_mib, ratio, highmem) in enumerate(layout):
        end = end_pfn if end_mib is None else max(start, min(end_pfn, end_mib * _MIB))
        zones.append(Zone(name, zone_idx, start, end - start, ratio, highmem, patched, len(layout), node))
        start = end
    return zones
