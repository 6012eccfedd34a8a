"""nfs: teach the NFS client how to treat PG_swapcache pages.

Problem
    NFS is full of page->mapping->host and page->index. A swap page breaks it in this order:
    nfs_writepage() follows the mapping to an inode: oops. If it survived, nfs_create_request() insists
    on the inode: BUG. The index is that of the process, so the WRITE goes to a wrong place, and
    nfs_page_length() compares it with the file's size and may find that there is nothing to write.

Change
    About twenty places in the paths of writepage and readpage ask page_file_mapping(),
    page_file_index() and page_offset() (26) instead: finding and creating requests, page lengths,
    writeback accounting, error marks. Paths that only ever see the page cache stay as they are.

What to watch
    * The WRITE for slot k has offset 4096k and count 4096, the READ likewise.
    * N random slots written and read again give the same bytes.
    * Traffic of ordinary files is identical with and without.
    * Swap I/O never lets the file grow.
    * The server's writeback counter returns to 0.
    * Hellwig objected in the review: swap pages should not come through ->writepage at all.
    * Off: an oops at the first swap page. It is the loudest patch to leave out.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=28,
    name="nfs_swapcache",
    subject="nfs: teach the NFS client how to treat PG_swapcache pages",
    part=5,
    message_id="20071030160915.377778000@chello.nl",
    needs=(),
    wants=("page_file_methods",),
    touches=(
        "kemu_nfs.nfs.inode.NfsInodes.page_index",
        "kemu_nfs.nfs.inode.NfsInodes.page_mapping",
    ),
    fate=("Merged in 3.6 in a reduced form (commit d56b4ddf7781); the places went away when swap got its own operation."),
)
