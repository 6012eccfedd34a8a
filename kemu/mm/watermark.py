"""How large marks, reserves and per-CPU batches are: arithmetic alone (2.6.23 mm/page_alloc.c).

Interface
    * :func:`boot_min_free_kbytes`, :func:`zone_marks`, :func:`zone_emerg`, :func:`lowmem_reserve_table`, :func:`total_reserve`,
      :func:`zone_batchsize`.
    * :class:`MarksPolicy`: those of them that other kernels compute otherwise; ``MARKS_2_6_23``. watermark_4_6.py has the others.

Rules of this file
    * Pure functions of ints; min_free.py writes the results into zones.
    * Pages in, pages out, except what is called kbytes. All divisions round down, as the kernel's do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Final, NamedTuple

import attrs

from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE

MIN_FREE_KBYTES_DEFAULT: Final = 1024  # before init_per_zone_pages_min()
_KBYTES_SHIFT: Final = PAGE_SHIFT - 10
_HIGHMEM_MIN: Final = 32  # SWAP_CLUSTER_MAX
_HIGHMEM_MAX: Final = 128
_BATCH_BYTES: Final = 512 * 1024


class Marks(NamedTuple):
    """The three watermarks of one zone, in pages."""

    pages_min: int
    pages_low: int
    pages_high: int


@attrs.frozen
class MarksPolicy:
    """One kernel's formulas for marks.

    :ivar scale_factor: vm.watermark_scale_factor at boot; None: this kernel has no such sysctl.
    :ivar min_ratio: the least that lowmem_reserve_ratio can be; 0 stands for "keep nothing".
    :ivar boot_min_free_kbytes: kbytes of the zones that GFP_USER may have -> vm.min_free_kbytes.
    :ivar zone_marks: (pages, lowmem_pages, min_free_kbytes, scale factor or 0, is it highmem) -> the marks.
    :ivar lowmem_reserve_table: (pages of each zone, ratios) -> per zone, what it keeps from requests of each class zone.
    """

    name: str
    scale_factor: int | None
    min_ratio: int
    boot_min_free_kbytes: Callable[[int], int]
    zone_marks: Callable[[int, int, int, int, bool], Marks]
    lowmem_reserve_table: Callable[[Sequence[int], Sequence[int]], list[list[int]]]


def boot_min_free_kbytes(lowmem_kbytes: int) -> int:
    """Return min_free_kbytes of a machine at boot (init_per_zone_pages_min()).

    >>> [boot_min_free_kbytes(mib << 10) for mib in (16, 128, 1024)]
    [512, 1448, 4096]
    """
    return min(max(isqrt(lowmem_kbytes * 16), 128), 65536)


def share(kbytes: int, present: int, lowmem_pages: int) -> int:
    """Return one zone's share, in pages, of an amount that all lowmem zones carry together."""
    return (kbytes >> _KBYTES_SHIFT) * present // lowmem_pages if lowmem_pages else 0


def highmem_min(present: int) -> int:
    """Return pages_min of a highmem zone: enough for page migration, nothing for atomic users."""
    return min(max(present // 1024, _HIGHMEM_MIN), _HIGHMEM_MAX)


def zone_marks(present: int, lowmem_pages: int, min_free_kbytes: int, _scale: int = 0, highmem: bool = False) -> Marks:
    """Return the marks of one zone (__setup_per_zone_pages_min()).

    :param lowmem_pages: present pages of all zones that are not highmem.

    >>> zone_marks(32768, 32768, 1448)
    Marks(pages_min=362, pages_low=452, pages_high=543)
    """
    portion = share(min_free_kbytes, present, lowmem_pages)
    pages_min = highmem_min(present) if highmem else portion
    # of the portion, not of pages_min: a highmem zone keeps its distance for reclaim
    return Marks(pages_min, pages_min + (portion >> 2), pages_min + (portion >> 1))


def zone_emerg(present: int, lowmem_pages: int, var_free_kbytes: int) -> int:
    """Return a lowmem zone's share of the emergency pool (patch 08). Rounded down: a pool of one page on two zones is nothing."""
    return share(var_free_kbytes, present, lowmem_pages)


def lowmem_reserve_table(present: Sequence[int], ratios: Sequence[int]) -> list[list[int]]:
    """Return, per zone, what it keeps from requests of each class zone (setup_per_zone_lowmem_reserve()).

    :param present: pages per zone, lowest zone first.
    :param ratios: lowmem_reserve_ratio, one per zone; a zone that a request names as its own class keeps nothing.

    >>> lowmem_reserve_table([4096, 28672, 0], [256, 256, 32])
    [[0, 112, 112], [0, 0, 0], [0, 0, 0]]
    """
    zones = range(len(present))
    return [
        [
            sum(present[i + 1 : j + 1]) // max(ratios[i], 1) if j > i and present[i] else 0 for j in zones
        ]  # 0 for a zone without pages
        for i in zones
    ]


def total_reserve(present: int, lowmem_reserve: Sequence[int], pages_high: int) -> int:
    """Return one zone's part of totalreserve_pages: what overcommit must not promise (calculate_totalreserve_pages())."""
    return min(present, max(lowmem_reserve) + pages_high)


def zone_batchsize(present: int) -> int:
    """Return how many pages go to or from a per-CPU list at once (zone_batchsize()). Zones below 32 MiB have 0: no list at all.

    >>> [zone_batchsize(mib << 8) for mib in (16, 32, 128, 1024)]
    [0, 1, 7, 31]
    """
    batch = present // 1024
    if batch * PAGE_SIZE > _BATCH_BYTES:
        batch = _BATCH_BYTES // PAGE_SIZE
    batch = max(batch // 4, 1)
    return (1 << ((batch + batch // 2).bit_length() - 1)) - 1


MARKS_2_6_23: Final = MarksPolicy("2.6.23", None, 1, boot_min_free_kbytes, zone_marks, lowmem_reserve_table)
