"""an emergency skb is still refused when many sockets hold memory."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b21",
    patch=21,
    title="an emergency skb is still refused when many sockets hold memory",
    mended_in="v16",
)
