"""An aligned size just below a power of two is undercharged.

Trigger
    A receive buffer whose aligned size is just below, or at, a power of two: 2000 bytes become 2048.

Consequence
    2048 is charged, but kmalloc() also has to hold the packet's shared info: 2360 bytes, which is a
    whole page. The budget grants twice what the reserve has.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b19a",
    patch=19,
    title="an aligned size just below a power of two is undercharged",
    mended_in="v17: charges ksize()",
    expect=(
        "counter: reserve pages in use exceed what the charges say, up to twice; under flood the reserve runs out below its limit"
    ),
    touches=("kemu_net.core.skb_free.SkbFree._charge_of",),
)
