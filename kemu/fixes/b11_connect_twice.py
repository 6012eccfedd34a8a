"""connecting a connected child."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b11",
    patch=11,
    title="connecting a connected child",
    mended_in="v17: -EEXIST",
)
