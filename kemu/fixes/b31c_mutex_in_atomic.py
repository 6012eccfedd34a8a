"""UDP reconnect and sk_free in softirq take a mutex in atomic context.

Trigger
    A UDP transport reconnects, or the last reference of a swap socket is dropped by a timer.

Consequence
    Both end in sk_set_memalloc() or sk_clear_memalloc(), which take the mutex of the reserve tree: the
    first inside write_lock_bh(), the second in a softirq. The TCP workers call it outside of locks.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b31c",
    patch=31,
    title="UDP reconnect and sk_free in softirq take a mutex in atomic context",
    mended_in="later: no mutex on this path",
    expect="outcome: oops (sleeping function called from invalid context)",
    touches=(
        "kemu_nfs.sunrpc.xs_connect.XsTcpConnect.xs_close",
        "kemu_nfs.sunrpc.xs_connect.XsUdpConnect._xs_udp_finish_connecting",
        "kemu_nfs.sunrpc.xs_connect.XsUdpConnect.xs_close",
    ),
)
