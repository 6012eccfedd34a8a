"""THISNODE request served from the local node."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b09",
    patch=9,
    title="THISNODE request served from the local node",
    mended_in="-",
    built=False,
)
