"""one cred reference leaks per page swapped out."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b30a",
    patch=30,
    title="one cred reference leaks per page swapped out",
    mended_in="v15",
)
