"""cpu page NULL with a stale c.reserve."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b03b",
    patch=3,
    title="cpu page NULL with a stale c.reserve",
    mended_in="v15",
)
