"""nfs: disable data cache revalidation for swapfiles.

Problem
    NFS and the swap code both want page->private. For each page with a pending request NFS sets
    PG_private and stores the address of its nfs_page there. For a swap page that overwrites the swap
    entry. Later the wrong slot is freed and the right one leaks, or swap code stumbles over PG_private
    with a BUG. Second, every write changes the file's times on the server; NFS concludes that somebody
    else changed the file, and throws its pages away under the feet of swap I/O.

Change
    * For swap pages the request is found through the inode's radix tree, by page_file_index(), under
      the lock. PG_private and page->private are left alone.
    * Revalidation of the data returns at once for a file that is a swap file.

What to watch
    * page->private of a swap page is its entry, at all times, and PG_private is never set on it.
    * Finding a request gives the same one for both kinds of page.
    * When the WRITE is done, the tree has no entry for the slot.
    * The reference counts of a request balance: added, found, removed.
    * A time that moves on the server invalidates nothing while the file is a swap file. Nobody else may
      write to it, of course.
    * Off: swap out a page, free its slot, and look at the counts in swap_map.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=29,
    name="nfs_no_revalidate",
    subject="nfs: disable data cache revalidation for swapfiles",
    part=5,
    message_id=None,
    needs=(),
    wants=("page_file_methods", "nfs_swapcache"),
    touches=(
        "kemu_nfs.nfs.attr_cache.AttrCache.nfs_revalidate_mapping",
        "kemu_nfs.nfs.inode.NfsInodes.nfs_inode_add_request",
        "kemu_nfs.nfs.inode.NfsInodes.nfs_inode_remove_request",
        "kemu_nfs.nfs.inode.NfsInodes.nfs_page_find_request_locked",
    ),
    fate=("Merged in 3.6 (commit 29418aa4bd48)."),
)
