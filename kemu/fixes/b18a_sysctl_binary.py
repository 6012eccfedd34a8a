"""sysctl(2) changes the variable, not the reserve.

Trigger
    ipfrag_high_thresh or ip_rt_max_size is changed through sysctl(2) instead of the file.

Consequence
    The binary interface does not call the conversion function. The variable changes, the reserve does
    not: fragments may then hold more than the budget that 19 has for all packets.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b18a",
    patch=18,
    title="sysctl(2) changes the variable, not the reserve",
    mended_in="v15: strategy handlers",
    expect="counter: the limit of a leaf differs from its tunable; then drops at the charge",
    touches=("kemu_net.ipv4.inet_reserves.InetReserves.sysctl_binary",),
)
