"""nfs: fix various memory recursions possible with swap over NFS.

Problem
    The write path of NFS allocates with GFP_NOFS, one place even with GFP_KERNEL. GFP_NOFS still lets
    reclaim start I/O, and swap I/O is NFS now: a write allocates, reclaim swaps out, and nfs_writepage()
    runs a second time on the same stack. PF_MEMALLOC ends it there, but the outer call may hold what
    the inner one waits for: a request, a page lock, a slot. And the stack has 8 KiB.

Change
    GFP_NOIO instead: for nfs_page, for the write data with its page vector, and for commit data. Reads
    keep GFP_NOFS, since reclaim does not read. The rpc_task got the same in 31.

What to watch
    * Nothing below nfs_writepage() asks with __GFP_IO or __GFP_FS.
    * nfs_writepage() stands at most once on the stack of a task.
    * Reclaim that starts from these places frees clean pages and slabs, but starts no I/O and never
      kills: GFP_NOIO loops, with naps, until somebody else has freed memory.
    * With free memory buffered writes are as fast as before.
    * The reason is one line of shrink_page_list(): a dirty page is written if the request allows FS, or
      if the page is in the swap cache and the request allows IO.
    * Off: let a buffered write reclaim while swap pages are dirty, and measure the depth: 2.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=32,
    name="nfs_noio",
    subject="nfs: fix various memory recursions possible with swap over NFS.",
    part=5,
    message_id="20071030160915.886143000@chello.nl",
    needs=(),
    wants=("nfs_no_mempools",),
    touches=(
        "kemu_nfs.nfs.nfs_client.NfsModule.commit_alloc",
        "kemu_nfs.nfs.nfs_client.NfsModule.writedata_alloc",
        "kemu_nfs.nfs.pagelist.NfsPagelist.nfs_page_alloc",
    ),
    fate=(
        "Merged in 3.6 with the same conversions. Today such scopes are marked for a whole task "
        "(memalloc_nofs_save() and the like)."
    ),
)
