"""The swap areas of a machine: their slots, and which area and file a page belongs to (2.6.23 mm/swapfile.c, first half).

Interface
    * :class:`SwapInfo`, one area. :class:`SwapAreas`: ``get_swap_page``, ``swap_free``, ``swap_duplicate``, ``swap_count``,
      ``valid_swaphandles``, ``vm_swap_full``.
    * ``page_swap_info(page)`` [24]; ``page_file_mapping``, ``page_file_index``, ``page_offset`` [26]: for file systems that are
      handed pages of the swap cache.
    * :class:`SwapDevice`: what a block device under an area offers.

Rules of this file
    * page_swap_info() and the page_file methods take no lock: the caller holds the page lock, which pins PG_swapcache.
    * Areas are used in order of priority; areas of equal priority take turns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, Protocol

import attrs

from kemu.errors import KernelBug
from kemu.kernel.core import Kernel
from kemu.mm.address_space import AddressSpace, File
from kemu.mm.gfp import PAGE_SHIFT
from kemu.mm.page import Page, PG_swapcache
from kemu.mm.swap_map import SWAP_MAP_BAD, SwapMap
from kemu.mm.swapops import SWP_OFFSET_MASK, SWP_TYPE_SHIFT, swp_entry_t

SWP_USED: Final = 1
SWP_WRITEOK: Final = 2
SWP_ACTIVE: Final = SWP_USED | SWP_WRITEOK
SWP_FILE: Final = 4  # [p25] added

PAGE_CLUSTER: Final = 3  # swap-in reads 2**3 slots at once


class SwapDevice(Protocol):
    """A block device that an area lies on."""

    def unplug(self) -> None:
        """Start what waits for company: somebody waits for a page."""


@attrs.define(eq=False)
class SwapInfo:
    """``struct swap_info_struct``: one swap area.

    :ivar extents: (first slot, slots, first block on the device), ascending.
    """

    type: int
    flags: int = SWP_USED
    prio: int = 0
    swap_file: File | None = attrs.field(default=None, repr=False)
    bdev: SwapDevice | None = attrs.field(default=None, repr=False)
    map: SwapMap | None = attrs.field(default=None, repr=False)
    extents: list[tuple[int, int, int]] = attrs.field(factory=list, repr=False)
    _starts: list[int] = attrs.field(factory=list, repr=False)

    @property
    def max(self) -> int:
        """Slots with the header."""
        return self.map.max if self.map is not None else 0

    @property
    def pages(self) -> int:
        """Slots that can be used."""
        return self.map.pages if self.map is not None else 0

    @property
    def inuse_pages(self) -> int:
        """Slots in use."""
        return self.map.inuse_pages if self.map is not None else 0

    @property
    def swap_map(self) -> Sequence[int]:
        """The u16 use counts, one per slot."""
        return self.map.counts if self.map is not None else []

    def add_swap_extent(self, start_page: int, nr_pages: int, start_block: int) -> int:
        """Say where slots lie; return 1 if that took a new extent, 0 if it made the last one longer."""
        if self.extents:
            first, length, block = self.extents[-1]
            if start_page == first + length and block + length == start_block:
                self.extents[-1] = (first, length + nr_pages, block)
                return 0
        self.extents.append((start_page, nr_pages, start_block))
        self._starts.append(start_page)
        return 1

    def map_swap_page(self, offset: int) -> int:
        """Return the device's block of a slot."""
        first, length, block = self.extents[bisect_right(self._starts, offset) - 1]
        if not first <= offset < first + length:
            raise KernelBug(f"swap slot {offset} has no extent", state=self)
        return block + offset - first


class SwapAreas:
    """The table of swap areas (``swap_info``, ``swap_list``).

    :ivar areas: by type; None where an area was and is no more.
    :ivar nr_swap_pages: free slots of all areas.
    :ivar total_swap_pages: slots of all areas.
    :ivar page_cluster: vm.page-cluster: swap-in reads a window of 2**page_cluster slots.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.areas: list[SwapInfo | None] = []
        self.nr_swap_pages = 0
        self.total_swap_pages = 0
        self._by_prio: list[SwapInfo] = []  # swap_list: highest priority first
        self._next = 0  # swap_list.next: where the next slot is taken
        self.page_cluster = PAGE_CLUSTER
        kernel.sysctl.register("vm.page-cluster", lambda: self.page_cluster, self._set_page_cluster)

    def _set_page_cluster(self, shift: int) -> None:
        self.page_cluster = shift

    # -- slots -----------------------------------------------------------------------------------------------------------------

    def get_swap_page(self) -> swp_entry_t:
        """Take a free slot of the best area; return its entry, or 0 (get_swap_page())."""
        if self.nr_swap_pages <= 0:
            return 0
        order = self._by_prio
        index = min(self._next, len(order) - 1) if order else 0
        wrapped = 0
        while order and wrapped < 2:
            si = order[index]
            following = index + 1
            if following >= len(order) or (not wrapped and order[following].prio != si.prio):
                following = 0
                wrapped += 1
            if si.flags & SWP_WRITEOK and si.map is not None:
                offset = si.map.scan()
                if offset:
                    self._next = following
                    self.nr_swap_pages -= 1
                    return si.type << SWP_TYPE_SHIFT | offset
            index = following
        return 0

    def claim(self, entry: swp_entry_t) -> bool:
        """Take the slot of an entry that another boot has handed out; tell whether there is such a slot and it was free."""
        kind = entry >> SWP_TYPE_SHIFT
        si = self.areas[kind] if kind < len(self.areas) else None
        if si is None or si.map is None or not si.flags & SWP_WRITEOK or not si.map.claim(entry & SWP_OFFSET_MASK):
            return False
        self.nr_swap_pages -= 1
        return True

    def _lookup(self, entry: swp_entry_t) -> SwapInfo:
        """Return the area of an entry that somebody holds (swap_info_get())."""
        kind = entry >> SWP_TYPE_SHIFT
        si = self.areas[kind] if kind < len(self.areas) else None
        if si is None or si.map is None:
            raise KernelBug(f"swap_free: bad swap file entry {entry:#x}")
        return si

    def swap_free(self, entry: swp_entry_t) -> int:
        """Drop one user of a slot; return how many are left."""
        si = self._lookup(entry)
        assert si.map is not None
        left = si.map.free(entry & SWP_OFFSET_MASK)
        if not left:
            self.nr_swap_pages += 1
            if self._next and si.flags & SWP_WRITEOK and si.prio > self._by_prio[min(self._next, len(self._by_prio) - 1)].prio:
                self._next = self._by_prio.index(si)
        return left

    def swap_duplicate(self, entry: swp_entry_t) -> bool:
        """Count one more user of a slot; False if it is free by now."""
        kind = entry >> SWP_TYPE_SHIFT
        si = self.areas[kind] if kind < len(self.areas) else None
        return si is not None and si.map is not None and si.map.duplicate(entry & SWP_OFFSET_MASK)

    def swap_count(self, entry: swp_entry_t) -> int:
        """Return the users of a slot, the swap cache among them."""
        count: int = self._lookup(entry).swap_map[entry & SWP_OFFSET_MASK]
        return count

    def valid_swaphandles(self, entry: swp_entry_t) -> range:
        """Return the slots that are worth reading along with this one: its aligned window, without gaps around it."""
        si = self._lookup(entry)
        counts = si.swap_map
        target = entry & SWP_OFFSET_MASK
        window = 1 << (self.page_cluster & 31)  # as x86 shifts an int
        base = target & -window
        end = min(base + window, si.max)
        first = last = target
        while last + 1 < end and 0 < counts[last + 1] < SWAP_MAP_BAD:
            last += 1
        while first - 1 >= max(base, 1) and 0 < counts[first - 1] < SWAP_MAP_BAD:
            first -= 1
        return range(first, last + 1)

    def vm_swap_full(self) -> bool:
        """Tell whether more than half of the slots are in use, so that a page which came back should give up its slot."""
        return self.nr_swap_pages * 2 < self.total_swap_pages

    def get_swap_info_struct(self, entry: swp_entry_t) -> SwapInfo:
        """Return the area of an entry, as the block path looks it up: base code, which needs no patch 24."""
        return self._lookup(entry)

    # -- which area, which file --------------------------------------------------------------------------------------------------

    def page_swap_info(self, page: Page) -> SwapInfo:
        """Return the area of a swap cache page (patch 24); without the patch nobody can tell, and the first area answers."""
        if self.patched.swap_entry_methods:  # [p24]
            if not page.flags & PG_swapcache:
                raise KernelBug("page_swap_info() of a page that is not in the swap cache", state=page)
            kind: int = page.private >> SWP_TYPE_SHIFT
            si = self.areas[kind] if kind < len(self.areas) else None
        else:
            si = next((area for area in self.areas if area is not None), None)
        if si is None:
            raise KernelBug("page_swap_info(): the page's swap area does not exist", state=page)
        return si

    def page_file_mapping(self, page: Page) -> AddressSpace:
        """Return the file that holds the page: its own, or the swap file that it lies in (patch 26)."""
        if self.patched.page_file_methods and page.flags & PG_swapcache:  # [p26]
            si = self.page_swap_info(page)
            if si.swap_file is None:
                raise KernelBug("page_file_mapping(): the swap area has no file", state=si)
            return si.swap_file.f_mapping
        mapping: AddressSpace = page.mapping
        return mapping

    def page_file_index(self, page: Page) -> int:
        """Return which page of that file it is (patch 26)."""
        if self.patched.page_file_methods and page.flags & PG_swapcache:  # [p26]
            offset: int = page.private & SWP_OFFSET_MASK
            return offset
        index: int = page.word_d
        return index

    def page_offset(self, page: Page) -> int:
        """Return where in that file it begins, in bytes (patch 26 changes the answer for swap cache pages)."""
        if self.patched.page_file_methods and page.flags & PG_swapcache:  # [p26]
            offset: int = (page.private & SWP_OFFSET_MASK) << PAGE_SHIFT
            return offset
        index: int = page.word_d
        return index << PAGE_SHIFT

    # -- invariants ------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that the totals are the sums of the areas."""
        free = total = 0
        for kind, si in enumerate(self.areas):
            if si is None or si.map is None or not si.flags & SWP_WRITEOK:
                continue
            si.map.check()
            if si.type != kind or si not in self._by_prio:
                raise KernelBug(f"swap area {kind} stands in the wrong place", state=si)
            free += si.pages - si.inuse_pages
            total += si.pages
        if (free, total) != (self.nr_swap_pages, self.total_swap_pages):
            raise KernelBug(
                f"swap: {self.nr_swap_pages} of {self.total_swap_pages} slots free, but the areas say {free} of {total}"
            )
