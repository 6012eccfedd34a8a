"""One cred reference leaks per page swapped out.

Trigger
    Every page that is swapped out.

Consequence
    nfs_do_writepage() looks up the credentials and never gives the reference back.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b30a",
    patch=30,
    title="one cred reference leaks per page swapped out",
    mended_in="v15: uses the file's context",
    expect="leak: one reference of a credential per page swapped out; its count grows without end",
    touches=("kemu_nfs.nfs.write.NfsWrite.nfs_do_writepage",),
)
