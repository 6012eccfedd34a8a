"""mm: allow PF_MEMALLOC from softirq context.

Problem
    Packets are processed in softirqs, and there the allocator ignores PF_MEMALLOC: in_interrupt() is
    true. Setting the flag around an important packet (23) would have no effect. Simply honouring it
    would be wrong as well: a softirq borrows the stack and the `current` of whatever it interrupted,
    and whenever that is kswapd, every packet and every driver would be served from the reserve.

Change
    Two halves that need each other.

    * The test is relaxed: PF_MEMALLOC counts wherever not in_irq(), so in softirqs as well.
    * __do_softirq() saves and clears the flag on entry and puts that one bit back on exit.
      A handler begins unentitled, and is entitled only if it says so itself.

    Hard interrupts never gain anything from the flag. TIF_MEMDIE keeps its old rule.

What to watch
    * After __do_softirq() the bit is as it was before, whatever the handlers did; other flags that
      they changed stay changed. So the restore goes by bit, not by word.
    * in_interrupt() is also true for a task that has bottom halves disabled. kswapd used to lose its
      entitlement there, inside the socket lock for example, and now keeps it.
    * A hard interrupt within a softirq that has set the flag is not entitled.
    * Off: an emergency packet that misses the route cache, an ARP request of the server, the first
      fragment of a datagram: NULL at the floor, and the packet is lost after all. The ACK of the swap
      socket is not among them: it carries its own flag (10, 15).
    * Half of it, the relaxed test without the clearing, lets a flood that happens to interrupt kswapd
      drain the reserve.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=6,
    name="softirq_memalloc",
    subject="mm: allow PF_MEMALLOC from softirq context",
    part=1,
    message_id="20071030160911.540148000@chello.nl",
    needs=(),
    wants=("gfp_to_alloc_flags", "skb_processing"),
    touches=(
        "kemu.kernel.softirq.Softirq._do_softirq",
        "kemu.mm.alloc_flags.AllocFlags._reserves_by_context",
    ),
    fate=(
        "Merged in 3.6 (commit 907aed48f65e), both halves. tsk_restore_flags() lived until 4.12, when "
        "memalloc_noreclaim_save() and its like replaced open coding."
    ),
)
