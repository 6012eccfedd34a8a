"""reclaim between WRITEOK and S_SWAPFILE loses the page."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b30d",
    patch=30,
    title="reclaim between WRITEOK and S_SWAPFILE loses the page",
    mended_in="v15",
)
