"""sysctl(2) changes the variable, not the reserve."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b18a",
    patch=18,
    title="sysctl(2) changes the variable, not the reserve",
    mended_in="v15",
)
