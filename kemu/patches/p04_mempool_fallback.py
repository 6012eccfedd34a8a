"""mm: allow mempool to fall back to memalloc reserves.

Problem
    mempool_alloc() forbids itself the reserve (__GFP_NOMEMALLOC). When its pool is empty, a caller
    who may sleep sleeps, up to five seconds at a time, until an element comes back. If the caller is
    reclaim itself, and the elements come back only with replies that need reclaim's progress, then a
    reserve that was made for exactly this case lies idle while the machine waits.

Change
    Allocator failed and pool empty: if the request as it was passed is entitled (01), the allocator
    is tried once more without NOMEMALLOC and NOWARN, still without waiting, before the caller sleeps.
    The order for such a caller becomes: allocator, pool, reserve, pool again, then sleep (or NULL if
    it may not sleep). After a sleep the cycle starts again.

What to watch
    * Pool elements come before the reserve: it is not touched while the pool has any.
    * There is at most one attempt at the reserve between two sleeps.
    * A caller who passes NOMEMALLOC himself is never entitled, and sees no change.
    * A caller who is not entitled makes the same calls with the same flags as in 2.6.23.
    * The attempt at the reserve may print a failure warning: NOWARN was removed for it.
    * Off: let eight foreign RPC tasks hold the eight rpc_buffers; the ninth, of a swap WRITE, waits
      in slices of 5 s. Or let the bio pool run empty on a disk that completes late:
      kemu run late-disk --patches all,-4.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=4,
    name="mempool_fallback",
    subject="mm: allow mempool to fall back to memalloc reserves",
    part=1,
    message_id="20071030160911.031845000@chello.nl",
    needs=(),
    wants=("gfp_to_alloc_flags", "emergency_pool"),
    touches=("kemu.mm.mempool.Mempool.alloc",),
    fate=("Dropped after v14; v15 no longer has it. Mainline's mempools never touch reserves."),
)
