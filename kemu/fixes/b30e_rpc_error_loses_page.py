"""An RPC that ends in an error loses the page.

Trigger
    The RPC of a swap WRITE ends in an error on a hard mount: the connect worker fails with anything but
    a refused or reset connection (-ENOMEM, -ENOBUFS, -EHOSTUNREACH become -EIO), or the server answers
    EIO, ENOSPC or ESTALE.

Consequence
    Writeback ends with PG_error and a clean page. Reclaim frees it. No mail says so; it follows from the
    code of 2.6.23 read together with the patch.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b30e",
    patch=30,
    title="an RPC that ends in an error loses the page",
    mended_in="3.6: dirties the page again",
    expect="outcome: data_loss after one error of the server or of a reconnect",
    touches=("kemu_nfs.nfs.flush.NfsFlush.nfs_set_pageerror",),
)
