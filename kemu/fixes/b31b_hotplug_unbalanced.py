"""CPU hotplug between on and off unbalances the TX pages."""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b31b",
    patch=31,
    title="CPU hotplug between on and off unbalances the TX pages",
    mended_in="-",
)
