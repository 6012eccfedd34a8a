"""highmem zones get pages_emerg without a reserve."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b08",
    patch=8,
    title="highmem zones get pages_emerg without a reserve",
    mended_in="2009 text: 0",
)
