"""THISNODE request served from the local node.

Trigger
    An entitled request with __GFP_THISNODE for a node other than the local one.

Consequence
    09 starts the zonelist at the local node, and THISNODE stops where the node changes. The request is
    served from the local node, which is the one thing that it forbade.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b09",
    patch=9,
    title="THISNODE request served from the local node",
    mended_in="-",
    expect="counter: a page of the wrong node; no outcome",
    touches=("kemu.mm.slow_path.SlowPath._alloc_no_watermarks",),
)
