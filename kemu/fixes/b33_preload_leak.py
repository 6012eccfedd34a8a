"""a failed preload on the second lap leaks an nfs_page."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b33",
    patch=33,
    title="a failed preload on the second lap leaks an nfs_page",
    mended_in="v15 drops the patch",
)
