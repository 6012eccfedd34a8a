"""mm: memory reserve management.

Problem
    Many independent demands, for routes, fragments, sending, have to become one number for patch 08.
    It must follow when a tunable changes, it should be reserved only while somebody swaps over the
    network, and what is really used must be bounded. Without such bookkeeping memory is either wasted
    for ever or short when it matters.

Change
    A tree of reserves. A node has pages (what it needs, with all below it), limit and usage.

    * set and add change a node's demand and carry the difference up. Only if the node is connected
      with the root does it reach adjust_memalloc_reserve(). Pages come first, the limit follows only
      once the pages are there; a failure leaves both as they were.
    * connect and disconnect join a whole subtree to the root, at the cost of one adjustment.
    * charge asks before memory is used: granted if usage + n < limit. Kmalloc charges are rounded up
      to a power of two. Giving back is a negative charge.

What to watch
    * Strictly less: a limit of 262144 bytes grants 127 buffers of 2048, not 128. A limit of one page
      grants nothing, and a limit of 0 refuses all.
    * The pages of the root are the sum over the connected leaves, and var_free_kbytes / 4.
    * usage never falls below 0: giving back too much is silently clamped.
    * Charges are not carried up. Only "SKB data reserve" is ever charged; sending, routes and the
      objects of NFS and RPC are bounded by construction.
    * The unit of a limit is whatever its setter used, so sums over different children mean nothing.
    * set is for leaves: on an inner node it would count the children as its own.
    * b11: connecting what is connected already. Off: one constant reserve, and every charge succeeds.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=11,
    name="mem_reserve",
    subject="mm: memory reserve management",
    part=1,
    message_id="20071030160912.873260000@chello.nl",
    needs=(),
    wants=("kmem_estimate_pages", "emergency_pool"),
    touches=(
        "kemu.fs.proc.Proc.__init__",
        "kemu.mm.reserve",
        "kemu.mm.reserve.Reserves.__init__",
        "kemu.mm.reserve.Reserves._charge",
        "kemu.mm.reserve.Reserves._set",
        "kemu.mm.reserve.Reserves.check",
        "kemu.mm.reserve.Reserves.mem_reserve_connect",
        "kemu.mm.reserve.Reserves.mem_reserve_disconnect",
        "kemu.mm.reserve.Reserves.mem_reserve_pages_add",
        "kemu.mm.reserve_tree",
        "kemu_net.core.net_reserve.NetReserves.check",
    ),
    fate=(
        "v17 added waiting, wrappers that allocate and charge in one, and byte units. SUSE shipped it in SLE "
        "11. Not merged: 3.6 neither sizes nor charges."
    ),
)
