"""TIF_MEMDIE set while looping at rebalance."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b01",
    patch=1,
    title="TIF_MEMDIE set while looping at rebalance",
    mended_in="later mainline",
)
