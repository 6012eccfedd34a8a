"""A reserve slab returns through the partial list.

Trigger
    A reserve slab that was full, or was put away by another allocation, gets a free object again and
    joins the partial list.

Consequence
    The tag belonged to the slot of a CPU and did not go with the page. Whoever takes the slab from the
    list next takes all its free objects, entitled or not.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b03a",
    patch=3,
    title="a reserve slab returns through the partial list",
    mended_in="v15 in part; 3.6 keeps the mark with the page",
    expect="counter: objects of reserve pages in ordinary hands, while free memory is below the marks",
    touches=(
        "kemu.mm.slub.Slub._prefer_cpu_slab",
        "kemu.mm.slub.Slub._slab_alloc",
        "kemu.mm.slub_pages.SlubPages._get_partial_node",
        "kemu.mm.slub_pages.SlubPages._new_slab",
    ),
)
