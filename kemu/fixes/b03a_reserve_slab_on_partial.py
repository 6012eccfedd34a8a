"""a reserve slab returns through the partial list."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b03a",
    patch=3,
    title="a reserve slab returns through the partial list",
    mended_in="v15 in part, 3.6 tags pages",
)
