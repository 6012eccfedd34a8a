"""A negative value becomes an absurd estimate.

Trigger
    A negative value is written to one of the tunables of 18.

Consequence
    It reaches kestimate() as a size_t and comes back as an unsigned int. A small one reserves the
    overhead of the caches alone; a large one is 2**32 pages less some in the tree, of which the
    emergency pool hears an int: it shrinks by what others count on, or below nothing, an oops. The
    write succeeds, and with a limit below 0 no charge is granted.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b18b",
    patch=18,
    title="a negative value becomes an absurd estimate",
    mended_in="v15",
    expect="counter: nearly 2**32 pages in the reserve tree and fewer than before in the pool; check() of the tree fails",
    touches=(
        "kemu.mm.reserve.Reserves._adjust",
        "kemu.mm.reserve.Reserves.mem_reserve_kmalloc_set",
        "kemu.mm.reserve.Reserves.mem_reserve_kmem_cache_set",
    ),
)
