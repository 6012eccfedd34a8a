"""a negative value becomes an absurd estimate."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b18b",
    patch=18,
    title="a negative value becomes an absurd estimate",
    mended_in="v15",
)
