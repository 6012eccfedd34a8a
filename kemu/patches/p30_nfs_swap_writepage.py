"""nfs: swap vs nfs_writepage.

Problem
    In this version of NFS a request is made when a page is dirtied by write(2), and ->writepage only
    flushes requests that exist. A swap page was never dirtied that way. ->writepage finds no request,
    has nothing to do, and returns success. The page looks clean, reclaim frees it, and its contents are
    gone. What comes back later is whatever the file held before.

Change
    nfs_do_writepage() makes the request itself if the inode is a swap file: look up the credentials of
    the current task, find an open context of the file for writing with those credentials, set the
    request up, and go on as usual.

What to watch
    * After each success the page is under writeback, or the data is on the server. Never is a page
      clean without a copy. Every run checks this against a shadow copy.
    * One request, one WRITE, per page that goes out.
    * Ordinary files are not affected.
    * Any error here loses the page: pageout() takes a page that is neither dirty nor under writeback
      for written (b30c). One -ENOMEM is enough. b30e is the same for an RPC that ends in an error.
    * The credentials are those of whoever happens to reclaim, not of who called swapon (b30b), and
      their reference is never given back (b30a). b30d is a window during swapon.
    * Off: swapping out succeeds and swapping in returns old bytes. No other patch of the series is so
      quiet when it is missing.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=30,
    name="nfs_swap_writepage",
    subject="nfs: swap vs nfs_writepage",
    part=5,
    message_id="20071030160915.636328000@chello.nl",
    needs=("swap_file_aops",),
    wants=("nfs_swapcache", "nfs_no_revalidate"),
    touches=(
        "kemu.mm.swapfile.Swapfile._enable",
        "kemu_nfs.nfs.commit.NfsCommit.nfs_mark_request_dirty",
        "kemu_nfs.nfs.flush.NfsFlush.nfs_set_pageerror",
        "kemu_nfs.nfs.write.NfsWrite.nfs_do_writepage",
        "kemu_nfs.nfs.write.NfsWrite.swap_page_not_written",
    ),
    fate=(
        "Dropped in v15, where nfs_swap_out() uses the context with which swapon opened the file. 3.6 writes "
        "by direct I/O, 5.19 has nfs_swap_rw()."
    ),
)
