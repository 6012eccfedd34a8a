"""an RPC that ends in an error loses the page."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b30e",
    patch=30,
    title="an RPC that ends in an error loses the page",
    mended_in="3.6 re-dirties",
)
