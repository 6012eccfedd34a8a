"""mm: __GFP_MEMALLOC.

Problem
    PF_MEMALLOC belongs to a whole task. But a driver that refills its ring runs in interrupts, and a
    socket that carries swap sends its ACK from whatever context a packet happens to arrive in. They
    need the right to the reserve per request. Before, the ACK of a swap socket was a GFP_ATOMIC
    request like any other, and competed with all the others.

Change
    A new bit, __GFP_MEMALLOC (0x2000). Who may go without watermarks, first match counts:

        __GFP_NOMEMALLOC                    no
        __GFP_MEMALLOC                      yes, in every context, hard interrupts too
        PF_MEMALLOC and not in_irq()        yes (06)
        TIF_MEMDIE and not in_interrupt()   yes
        otherwise                           no

    The bit also joins GFP_RECLAIM_MASK, so that SLUB passes it on to the page allocator.

What to watch
    * Both halves count: without the mask, kmalloc(..., __GFP_MEMALLOC) behaves as if the bit were not
      there.
    * MEMALLOC together with NOMEMALLOC is NOMEMALLOC. The receive path (19) uses the pair in turn.
    * With enough memory the bit makes no difference, and pages are tagged (02) only if the marks were
      really passed over.
    * An entitled request does not reclaim, even with __GFP_WAIT: it gets a page or NULL at once.
    * Off: the bit is 0. At the floor the swap socket's ACK gets NULL in a softirq, 16's extra flag does
      nothing, and the second try of 19 is as polite as the first.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=10,
    name="gfp_memalloc",
    subject="mm: __GFP_MEMALLOC",
    part=1,
    message_id="20071030160912.533392000@chello.nl",
    needs=(),
    wants=("gfp_to_alloc_flags", "tag_reserve_pages", "slub_reserve"),
    touches=(
        "kemu.mm.alloc_flags.AllocFlags._reserves_by_context",
        "kemu.mm.slub_pages.SlubPages.__init__",
    ),
    fate=(
        "Merged in 3.6 with the same meaning (commit b37f1dd0f543). Later documentation allows it only to "
        "those who free memory very soon. In earlier postings the flag was called __GFP_EMERGENCY."
    ),
)
