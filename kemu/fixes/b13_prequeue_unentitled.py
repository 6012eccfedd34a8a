"""tcp_prequeue overflow handles an emergency skb unentitled."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b13",
    patch=13,
    title="tcp_prequeue overflow handles an emergency skb unentitled",
    mended_in="-",
    built=False,
)
