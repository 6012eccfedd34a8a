"""Marks of Linux 4.6 and newer (mm/page_alloc.c: __setup_per_zone_wmarks(), setup_per_zone_lowmem_reserve()).

Interface: ``MARKS_6_1``, also of 6.18.

Rules of this file
    * The marks lie a quarter of min apart, or the share of the zone that vm.watermark_scale_factor names, if that is more.
    * Pages are the zone's ``managed`` ones: without holes, and without what booting took. A ratio below 1 keeps nothing.
    * ``boost`` is added to all three where zoneinfo prints them; who compares takes it off.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Final

from kemu.mm.watermark import Marks, MarksPolicy, highmem_min, share

MIN_FREE_KBYTES_MAX: Final = 262144  # since 5.2; 65536 before
SCALE_FACTOR: Final = 10  # of 10000


def boot_min_free_kbytes(lowmem_kbytes: int) -> int:
    """Return vm.min_free_kbytes at boot; transparent huge pages raise it later.

    >>> boot_min_free_kbytes(24 << 20)
    20066
    """
    return min(max(isqrt(lowmem_kbytes * 16), 128), MIN_FREE_KBYTES_MAX)


def zone_marks(managed: int, lowmem_pages: int, min_free_kbytes: int, scale: int = SCALE_FACTOR, highmem: bool = False) -> Marks:
    """Return the marks of one zone.

    >>> zone_marks(242096, 245936, 4096)
    Marks(pages_min=1008, pages_low=1260, pages_high=1512)
    """
    portion = share(min_free_kbytes, managed, lowmem_pages)
    pages_min = highmem_min(managed) if highmem else portion
    gap = max(portion >> 2, managed * scale // 10000)
    return Marks(pages_min, pages_min + gap, pages_min + 2 * gap)


def lowmem_reserve_table(managed: Sequence[int], ratios: Sequence[int]) -> list[list[int]]:
    """Return, per zone, what it keeps from requests of each class zone; nothing with a ratio below 1, and if it is empty."""
    zones = range(len(managed))
    return [
        [sum(managed[i + 1 : j + 1]) // ratios[i] if j > i and managed[i] and ratios[i] > 0 else 0 for j in zones] for i in zones
    ]


MARKS_6_1: Final = MarksPolicy("6.1", SCALE_FACTOR, 0, boot_min_free_kbytes, zone_marks, lowmem_reserve_table)
