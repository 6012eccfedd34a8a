"""swapoff with an emergency skb in the backlog hits a BUG.

Trigger
    swapoff clears SOCK_MEMALLOC while an emergency packet waits in the backlog of that socket.

Consequence
    When the owner lets the lock go, __sk_backlog_rcv() finds an emergency packet on a socket without
    the flag, and that is a BUG.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b23",
    patch=23,
    title="swapoff with an emergency skb in the backlog hits a BUG",
    mended_in="-",
    expect="outcome: oops at swapoff under load",
    touches=("kemu_net.core.sock_lock.SockLock._sk_backlog_rcv",),
)
