"""any error before the flush loses the page."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b30c",
    patch=30,
    title="any error before the flush loses the page",
    mended_in="3.6 re-dirties",
)
