"""Swap entries: an area and a slot in one word (include/linux/swap.h since patch 24, before it include/linux/swapops.h).

Interface
    * :func:`swp_entry`, :func:`swp_type`, :func:`swp_offset`; a value of 0 is "no entry" (slot 0 is a header).

Rules of this file
    * val = type << (BITS_PER_LONG - 5) | offset.
"""

from __future__ import annotations

from typing import Final

BITS_PER_LONG: Final = 64
MAX_SWAPFILES_SHIFT: Final = 5
MAX_SWAPFILES: Final = (1 << MAX_SWAPFILES_SHIFT) - 2  # two types mark pages that migrate

SWP_TYPE_SHIFT: Final = BITS_PER_LONG - MAX_SWAPFILES_SHIFT
SWP_OFFSET_MASK: Final = (1 << SWP_TYPE_SHIFT) - 1

swp_entry_t = int


def swp_entry(swp_type_: int, offset: int) -> swp_entry_t:
    """Join an area's number and a slot."""
    return swp_type_ << SWP_TYPE_SHIFT | offset & SWP_OFFSET_MASK


def swp_type(entry: swp_entry_t) -> int:
    """Return the area's number."""
    return entry >> SWP_TYPE_SHIFT


def swp_offset(entry: swp_entry_t) -> int:
    """Return the slot."""
    return entry & SWP_OFFSET_MASK
