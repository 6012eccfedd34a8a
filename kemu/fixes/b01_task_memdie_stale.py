"""TIF_MEMDIE set while looping at rebalance.

Trigger
    The OOM killer chooses a task (TIF_MEMDIE) while that task loops in the slow path of an allocation,
    below the point where its flags were computed (01).

Consequence
    The loop goes on with the old flags. The victim, who is allowed to use the reserve in order to die
    quickly, reclaims instead, until something restarts the slow path. 2.6.23 asked on each lap.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b01",
    patch=1,
    title="TIF_MEMDIE set while looping at rebalance",
    mended_in="later mainline: asks again on each retry",
    expect="counter: allocstall of the victim rises after its TIF_MEMDIE, and the kill frees memory late",
    touches=("kemu.mm.slow_path.SlowPath._alloc_pages",),
)
