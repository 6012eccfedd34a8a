"""swapoff with an emergency skb in the backlog hits a BUG."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b23",
    patch=23,
    title="swapoff with an emergency skb in the backlog hits a BUG",
    mended_in="-",
)
