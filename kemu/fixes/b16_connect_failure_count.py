"""a failed connect leaves memalloc_socks at +1."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b16",
    patch=16,
    title="a failed connect leaves memalloc_socks at +1",
    mended_in="v15",
)
