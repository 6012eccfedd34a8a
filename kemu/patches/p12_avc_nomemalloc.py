"""selinux: tag avc cache alloc as non-critical.

Problem
    SELinux keeps decisions in the access vector cache. A miss in the packet path allocates a node
    with GFP_ATOMIC. While an emergency packet is processed PF_MEMALLOC is set (23), so each miss would
    take reserve memory for an object that lives long and that no estimate knows: a slow leak.

Change
    avc_alloc_node() adds __GFP_NOMEMALLOC. Under pressure it gets NULL; the decision is then computed
    and not remembered.

What to watch
    * Decisions are the same with and without a node: the cache is only a cache.
    * No node lies in reserve memory (given 03).
    * A failure leaves the counters as they were.
    * With enough memory the hit rate is the same.
    * Most packets never get here: the emergency filter (20) comes first. To see it, ask the cache
      directly, from a softirq with PF_MEMALLOC: 600 new pairs pin about ten reserve pages when the
      patch is off.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=12,
    name="avc_nomemalloc",
    subject="selinux: tag avc cache alloc as non-critical",
    part=1,
    message_id="20071030160913.027906000@chello.nl",
    needs=(),
    wants=("skb_processing",),
    touches=("kemu.security.avc.Avc.avc_alloc_node",),
    fate=("Merged in 3.6 (commit 6290c2c43973) as GFP_ATOMIC | __GFP_NOMEMALLOC."),
)
