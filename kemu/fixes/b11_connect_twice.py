"""Connecting a connected child.

Trigger
    mem_reserve_connect() for a reserve that has a parent already.

Consequence
    v14 does not look. The child is put on a list while it is on one, and its pages are added twice. A
    later disconnect takes away only half of them, and who reads /proc/reserve_info walks in a circle
    with the mutex held.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b11",
    patch=11,
    title="connecting a connected child",
    mended_in="v17: -EEXIST",
    expect="leak: var_free_kbytes does not return to what it was; check() of the tree fails",
    touches=("kemu.mm.reserve.Reserves._connect",),
)
