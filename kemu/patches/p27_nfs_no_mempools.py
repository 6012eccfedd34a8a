"""nfs: remove mempools.

Problem
    The NFS client keeps private pools: 32 structures for reads, 32 for writes, 4 for commits. An empty
    pool makes the caller sleep until an element comes back, and elements come back only when a server
    replies. With 32 WRITEs under way to a server that is gone, kswapd sleeps for an element although
    the reserve could serve it. And every client pays for the pools, whether it needs them or not.

Change
    The pools go; the structures are taken from their caches, with the same flags. Since 2.6.19 the
    kernel counts dirty shared pages, so NFS can no longer surprise it with a memory full of them, and
    progress no longer depends on pools.

What to watch
    * An allocation may now fail for a reclaimer, when even the reserve is empty. Then the page stays
      dirty, is not under writeback, and -ENOMEM is returned.
    * Nobody sleeps on a pool in this path; the number of WRITEs under way is not bounded by 32.
    * Each structure goes back to its cache exactly once, after a grace period.
    * With enough memory the traffic is the same.
    * To see it: two servers, 32 WRITEs outstanding to the one that is dead, a writer to the one that
      lives. Off, he sleeps. With 04 on kswapd itself is helped by the mempool's fall to the reserve;
      04 off as well shows it for kswapd too.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=27,
    name="nfs_no_mempools",
    subject="nfs: remove mempools",
    part=5,
    message_id="20071030160915.242314000@chello.nl",
    needs=(),
    wants=("mempool_fallback", "emergency_pool"),
    touches=(
        "kemu_nfs.nfs.nfs_client.NfsModule.__init__",
        "kemu_nfs.nfs.nfs_client.NfsModule.commit_alloc",
        "kemu_nfs.nfs.nfs_client.NfsModule.commit_free",
        "kemu_nfs.nfs.nfs_client.NfsModule.readdata_alloc",
        "kemu_nfs.nfs.nfs_client.NfsModule.readdata_free",
        "kemu_nfs.nfs.nfs_client.NfsModule.writedata_alloc",
        "kemu_nfs.nfs.nfs_client.NfsModule.writedata_free",
    ),
    fate=("Posted again up to v19, carried by SUSE, never merged: mainline still has pools for write and commit structures."),
)
