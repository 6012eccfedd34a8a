"""A negative value becomes an absurd estimate.

Trigger
    A negative value is written to one of the tunables of 18.

Consequence
    It reaches kestimate() as an unsigned size: a demand of astronomically many pages, cut off to an
    unsigned int, of which nobody can say what it will be.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b18b",
    patch=18,
    title="a negative value becomes an absurd estimate",
    mended_in="v15",
    expect="counter: an absurd demand of pages in the reserve tree, or -ENOMEM for the wrong reason",
    touches=(
        "kemu.mm.reserve.Reserves.mem_reserve_kmalloc_set",
        "kemu.mm.reserve.Reserves.mem_reserve_kmem_cache_set",
    ),
)
