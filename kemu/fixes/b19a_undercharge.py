"""an aligned size just below a power of two is undercharged."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b19a",
    patch=19,
    title="an aligned size just below a power of two is undercharged",
    mended_in="v17 (ksize)",
)
