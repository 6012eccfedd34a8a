"""nfs: do not warn on radix tree node allocation failures.

Problem
    Requests are entered into a radix tree under a spin lock, with GFP_ATOMIC. Under pressure a tree
    node cannot be had: a warning with a stack dump for each, and -ENOMEM, which patch 30 turns into a
    lost swap page.

Change
    The tree's own requests get __GFP_NOWARN, and nfs_update_request() fills the CPU's stock of nodes
    with radix_tree_preload(GFP_NOIO) before it takes the lock, at the top of each lap of its loop.
    After that an insertion takes a node from the slab, or else from the stock, and cannot fail for
    memory.

What to watch
    * Preload and preload_end are balanced on every path: preemption is off in between.
    * After a successful preload an insertion never returns -ENOMEM.
    * No warning is logged for tree nodes.
    * The stock holds at most RADIX_TREE_MAX_PATH nodes, 12 on a 64-bit machine.
    * kswapd's own insertions are entitled and succeed anyway. The one who is helped is an ordinary
      write to a file on NFS at the floor: its preload may wait and reclaim, where the insertion may not.
    * b33: if the preload fails on a second lap, the new request is forgotten, with its references.
    * Off: the warning, and -ENOMEM from write(2).
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=33,
    name="nfs_radix_nowarn",
    subject="nfs: do not warn on radix tree node allocation failures",
    part=5,
    message_id="20071030160916.021029000@chello.nl",
    needs=(),
    wants=("nfs_noio",),
    touches=(
        "kemu_nfs.nfs.inode.NfsInodes.__init__",
        "kemu_nfs.nfs.write.NfsWrite.nfs_update_request",
    ),
    fate=(
        "Dropped as a patch of its own in v15: NFS had been restructured, and mainline preloads since 2.6.26. "
        "The tree itself is gone since the years 2010 to 2014."
    ),
)
