"""A failed preload on the second lap leaks an nfs_page.

Trigger
    nfs_update_request() has made a request, goes round its loop, and the preload of the second lap
    fails, which takes a reclaimer and an empty reserve.

Consequence
    It returns the error without giving the request back: the nfs_page, its reference on the page and
    the open context stay. The swap page has a count of 3 and can never be reclaimed.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b33",
    patch=33,
    title="a failed preload on the second lap leaks an nfs_page",
    mended_in="v15 drops the patch",
    expect="leak: one nfs_page, one page and one context reference each time",
    touches=("kemu_nfs.nfs.write.NfsWrite.nfs_update_request",),
)
