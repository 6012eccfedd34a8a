"""Reclaim by a task of another uid loses the page.

Trigger
    A task whose user is not the one that called swapon reclaims memory and swaps a page out.

Consequence
    The open context is searched with the credentials of the current task. None matches: -EBADF, nobody
    dirties the page again, and pageout() takes it for written. kswapd runs as root and finds the
    context; direct reclaim of an ordinary process does not.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b30b",
    patch=30,
    title="reclaim by a task of another uid loses the page",
    mended_in="v15: uses the file's context",
    expect="outcome: data_loss as soon as an unprivileged process reclaims",
    touches=("kemu_nfs.nfs.write.NfsWrite.nfs_do_writepage",),
)
