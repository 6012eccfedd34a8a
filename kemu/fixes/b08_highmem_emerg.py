"""Highmem zones get pages_emerg without a reserve.

Trigger
    A machine with highmem (i386), in the text of August 2007; whether v14 still had it is not known.

Consequence
    The highmem zone gets pages_emerg equal to its pages_min although nobody reserved anything. Its
    lowest mark is twice as high for user pages.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b08",
    patch=8,
    title="highmem zones get pages_emerg without a reserve",
    mended_in="the posting of 2009: 0 for highmem",
    expect="counter: pages_emerg above 0 in a highmem zone with var_free_kbytes 0",
    touches=("kemu.mm.min_free.MinFree._setup_per_zone_pages_min",),
)
