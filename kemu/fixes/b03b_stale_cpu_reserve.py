"""cpu page NULL with a stale c.reserve.

Trigger
    The cpu slab is gone (page NULL) and its slot still says c->reserve = 1.

Consequence
    The test for entitlement stands on the path where a cpu slab is present, so it is passed over; the
    stale value then decides how the next slab is used.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b03b",
    patch=3,
    title="cpu page NULL with a stale c.reserve",
    mended_in="v15: tests c->reserve first",
    expect="counter: an unentitled allocation succeeds that the tag should have refused",
    touches=(
        "kemu.mm.slub.Slub._slab_alloc",
        "kemu.mm.slub.Slub.check",
    ),
)
