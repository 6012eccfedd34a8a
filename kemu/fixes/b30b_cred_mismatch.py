"""reclaim by a task of another uid loses the page."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b30b",
    patch=30,
    title="reclaim by a task of another uid loses the page",
    mended_in="v15 (file context)",
)
