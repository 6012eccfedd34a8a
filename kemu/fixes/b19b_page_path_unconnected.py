"""The page path uses reserves that are not connected.

Trigger
    A packet-split driver asks for a receive page at the floor while nobody swaps over the network.

Consequence
    The path for pages does not ask sk_memalloc_socks(). The charge succeeds, because the leaves have
    limits although the tree is not connected, and a page goes below marks that no reserve has raised.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b19b",
    patch=19,
    title="the page path uses reserves that are not connected",
    mended_in="v16",
    expect="counter: usage of the SKB data reserve above 0 with memalloc_socks 0; free memory below the marks",
    touches=("kemu_net.core.skb_frags.SkbFrags._netdev_alloc_page",),
)
