"""mm: gfp_to_alloc_flags().

Problem
    Only the slow path of the page allocator knows which requests may go below the watermarks, and
    the knowledge is spread over several statements there. SLUB (03) and mempools (04) need the same
    answer without allocating anything. If each kept a copy of the rule, the copies would drift apart.

Change
    A function of its own, with no side effects: gfp_to_alloc_flags(gfp) looks at the request, at
    current's flags, at the context and at the scheduling class, and gives the deepest flags that
    this request could ever use. Callers mask off what they do not want.

        always                                      WMARK_MIN 0x04, CPUSET 0x40
        __GFP_HIGH                                  + HIGH 0x02
        no __GFP_WAIT                               + HARDER 0x01, - CPUSET
        else a real-time task, not in interrupt     + HARDER
        no __GFP_NOMEMALLOC, not in interrupt,
        and PF_MEMALLOC or TIF_MEMDIE               + NO_WATERMARKS 0x20

    So GFP_KERNEL is 0x44, GFP_ATOMIC 0x07, GFP_NOWAIT 0x05; GFP_KERNEL of a reclaiming task 0x64.
    __alloc_pages() now asks once. Its second attempt masks NO_WATERMARKS off; only the third uses it.
    The last row of the table is refined by 06 (context) and 10 (a flag in the request).

What to watch
    * With no PF_MEMALLOC and no TIF_MEMDIE anywhere, the attempts and their flags are those of 2.6.23.
    * __GFP_NOMEMALLOC means no NO_WATERMARKS, whatever else is set.
    * An entitled request never starts reclaim: it gets a page of the reserve, or NULL, at once. A
      PF_MEMALLOC task therefore never enters try_to_free_pages() a second time.
    * Not quite a refactoring: a task that is chosen as OOM victim while it loops below the restart
      does not notice, because the flags were taken once. See the card b01.
    * Off: SLUB and mempools are told "not entitled", and kswapd's own slab allocations fail at the
      floor although the page allocator would serve it.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=1,
    name="gfp_to_alloc_flags",
    subject="mm: gfp_to_alloc_flags()",
    part=1,
    message_id="20071030160910.248346000@chello.nl",
    needs=(),
    wants=(),
    touches=(
        "kemu.mm.alloc_flags",
        "kemu.mm.alloc_flags.AllocFlags.entitled",
        "kemu.mm.slow_path.SlowPath._alloc_no_watermarks",
        "kemu.mm.slow_path.SlowPath._alloc_pages",
        "kemu.mm.slow_path.SlowPath._nopage",
    ),
    fate=(
        "Merged for 2.6.31 with Mel Gorman's work on the page allocator (commit 341ce06f69ab: flags computed "
        "once per slow path). The stale TIF_MEMDIE was mended much later, by asking again on each retry."
    ),
)
