"""a non-numeric write succeeds and stores nothing."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b17",
    patch=17,
    title="a non-numeric write succeeds and stores nothing",
    mended_in="v15 drops the patch",
)
