"""netfilter: NF_QUEUE vs emergency skbs.

Problem
    A netfilter rule with the target QUEUE hands packets to a daemon in user space and waits for its
    verdict. The daemon may be swapped out. An emergency packet in its queue pins reserve memory until
    the daemon runs, which it cannot do without the reserve.

Change
    nf_hook_slow() treats the verdict NF_QUEUE for an emergency packet as NF_DROP: the packet is freed
    and -EPERM returned.

What to watch
    * No emergency packet is ever in a queue to user space; its charge is given back on the spot.
    * Ordinary packets are queued as before, and the other verdicts mean what they meant.
    * If the route to the storage itself has such a rule, swap over it stops as soon as packets become
      emergency packets. That is a configuration error by definition.
    * Off: k queued packets keep k * 2048 bytes of the reserve until the daemon answers.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=22,
    name="nf_queue_emergency",
    subject="netfilter: NF_QUEUE vs emergency skbs",
    part=3,
    message_id="20071030160914.593270000@chello.nl",
    needs=(),
    wants=("skb_alloc_reserve",),
    touches=(
        "kemu_net.netfilter.core.NfHooks.nf_iterate",
        "kemu_net.netfilter.nf_queue.NfQueue.check",
    ),
    fate=("Not among the patches that were merged in 3.6. SUSE carried it."),
)
