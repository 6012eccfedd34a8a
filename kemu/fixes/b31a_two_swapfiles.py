"""two swap files on one transport lose their protection early."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b31a",
    patch=31,
    title="two swap files on one transport lose their protection early",
    mended_in="3.6 (counter)",
)
