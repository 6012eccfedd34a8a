"""A failed connect leaves memalloc_socks at +1.

Trigger
    The first swap socket, and connecting the network reserve to the root fails (-ENOMEM).

Consequence
    The count was raised before, and is not lowered. swapon reports the error, but
    sk_memalloc_socks() is true for ever, and the next swapon finds the count above 0 and does not
    connect: swap then runs with nothing behind its charges.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b16",
    patch=16,
    title="a failed connect leaves memalloc_socks at +1",
    mended_in="v15",
    expect=("leak: memalloc_socks 1 with no swap socket; after the next swapon a reserve of 0 pages, and a deadlock under load"),
    touches=("kemu_net.core.net_reserve.NetReserves.sk_adjust_memalloc",),
)
