"""The buddy system: free memory in aligned blocks of 2**order pages (2.6.23 mm/page_alloc.c: __rmqueue, __free_one_page).

Interface
    * :func:`seed_zone` at boot, :func:`add_frames` when memory is added, :func:`rmqueue` and :func:`free_one_page` otherwise. All
      speak of pfns; the page allocator makes the ``struct page``.

Rules of this file
    * A block is free when its pfn is in ``zone.free_area[order]``; PG_buddy is never set.
    * Lists are dicts in the order of insertion, the newest taken first, as from the head of the kernel's list.
    * Two free buddies never stand beside each other: they are merged when the second one comes.
    * Each call costs at most MAX_ORDER steps.
"""

from __future__ import annotations

from typing import Final

from kemu.errors import KernelBug
from kemu.mm.gfp import MAX_ORDER
from kemu.mm.mmzone import Zone

_TOP: Final = MAX_ORDER - 1
_ORDERS: Final = tuple(tuple(range(order, MAX_ORDER)) for order in range(MAX_ORDER))


def seed_zone(zone: Zone) -> None:
    """Put all frames of a zone on its free lists (free_all_bootmem())."""
    add_frames(zone, zone.start_pfn, zone.end_pfn)


def add_frames(zone: Zone, pfn: int, end: int) -> None:
    """Put frames that were not there before on the free lists, in the largest blocks that fit."""
    while pfn < end:
        order = min(_TOP, (pfn & -pfn).bit_length() - 1) if pfn else _TOP
        while pfn + (1 << order) > end:
            order -= 1
        free_one_page(zone, pfn, order)
        pfn += 1 << order


def rmqueue(zone: Zone, order: int) -> int | None:
    """Take a block off the lists, split from a larger one if need be; None if there is none (__rmqueue, expand)."""
    free_area = zone.free_area
    for current in _ORDERS[order]:
        blocks = free_area[current]
        if blocks:
            pfn = blocks.popitem()[0]
            while current > order:
                current -= 1  # noqa: PLW2901  # the upper halves go back, one order after the other
                free_area[current][pfn + (1 << current)] = None
            zone.free_pages -= 1 << order
            return pfn
    return None


def free_one_page(zone: Zone, pfn: int, order: int) -> None:
    """Put a block back and merge it with its buddy as long as that one is free (__free_one_page)."""
    zone.free_pages += 1 << order
    free_area = zone.free_area
    blocks = free_area[order]
    while order < _TOP:
        buddy = pfn ^ (1 << order)
        if buddy not in blocks:
            break
        del blocks[buddy]
        pfn &= buddy
        order += 1
        blocks = free_area[order]
    blocks[pfn] = None


def check_buddies(zone: Zone) -> None:
    """Assert that no block is listed twice or overlaps another, and that free buddies are merged."""
    covered: dict[int, int] = {}  # pfn of every listed block: its order
    for order, blocks in enumerate(zone.free_area):
        for pfn in blocks:
            if pfn in covered:
                raise KernelBug(f"zone {zone.name}: {pfn:#x} is on the lists of orders {covered[pfn]} and {order}", zone)
            covered[pfn] = order
            if order < _TOP and pfn ^ (1 << order) in blocks:
                raise KernelBug(
                    f"zone {zone.name}: buddies {pfn:#x} and {pfn ^ (1 << order):#x} of order {order} are both free", zone
                )
    end = 0
    for pfn in sorted(covered):
        if pfn < end:
            raise KernelBug(f"zone {zone.name}: block {pfn:#x} lies inside the one before", zone)
        end = pfn + (1 << covered[pfn])
