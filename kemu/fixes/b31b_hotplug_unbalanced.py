"""CPU hotplug between on and off unbalances the TX pages.

Trigger
    A CPU comes online, or goes, between swapon and swapoff.

Consequence
    RPC_RESERVE_PAGES is computed anew by each call and depends on the number of CPUs (05). What
    swapoff takes away is not what swapon added.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b31b",
    patch=31,
    title="CPU hotplug between on and off unbalances the TX pages",
    mended_in="-",
    expect="leak: protocol TX pages are left over, or taken from somebody else",
    touches=("kemu_nfs.sunrpc.xs_swapper.XsSwapper._off",),
)
