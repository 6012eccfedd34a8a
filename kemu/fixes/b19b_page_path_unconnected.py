"""the page path uses reserves that are not connected."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b19b",
    patch=19,
    title="the page path uses reserves that are not connected",
    mended_in="v16",
)
