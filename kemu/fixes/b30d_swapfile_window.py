"""Reclaim between WRITEOK and S_SWAPFILE loses the page.

Trigger
    Reclaim swaps a page out between the moment when swapon makes the area usable (WRITEOK) and the
    moment when it sets S_SWAPFILE.

Consequence
    30 asks whether the inode is a swap file. It is not yet, so no request is made, ->writepage
    succeeds without a WRITE, and the page is lost.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b30d",
    patch=30,
    title="reclaim between WRITEOK and S_SWAPFILE loses the page",
    mended_in="v15: swap has its own operation",
    expect="outcome: data_loss, if reclaim runs during swapon",
    touches=("kemu.mm.swapfile.Swapfile._enable",),
)
