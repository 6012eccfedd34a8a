"""netvm: hook skb allocation to reserves.

Problem
    A buffer must be allocated before anyone knows for whom the packet is. When free memory is below
    the marks every such allocation fails and the card drops everything, the reply that would end the
    shortage included: the server sends it again and again, and the client drops it again and again.
    Giving all reception plain access to the reserve would be no better: any flood could eat it.

Change
    Receive buffers are asked for in two steps.

    * First politely, with __GFP_NOMEMALLOC and __GFP_NOWARN, even where the context is entitled.
    * If that fails, and only if somebody swaps over the network (16): charge the size, rounded up to a
      power of two, to the SKB data reserve; if it is granted, ask again with __GFP_MEMALLOC. The packet
      is then marked skb->emergency.

    The charge is given back when the last reference to the data goes. Clones share data and mark, and
    cost nothing more. Pages of packet-split drivers (14) are charged one by one, and
    skb_add_rx_frag() sets right what does not match.

What to watch
    * Conservation: the usage of the SKB data reserve is the sum over live emergency buffers, and 0 when
      all are freed. Clone and free in any order gives back exactly once.
    * No swap socket, no emergency packet. Buffers for sending never become one.
    * Once the marks are met again buffers are ordinary again, one by one; emergency buffers rest in the
      ring, charged, until a frame uses them. A frame for an ordinary socket that lands in one is
      dropped although memory may be plentiful by then.
    * With 524288 bytes the budget is 255 buffers of 2048, or 127 pages.
    * b19a: sizes just below a power of two are charged too little. b19b: the path for pages.
    * Off: plain GFP_ATOMIC. Foreign frames that come three times as fast as WRITE replies, into sockets
      that have room and whose readers are swapped out: within a tenth of a second the ring is dry, free
      memory is at the floor, and nothing moves again.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=19,
    name="skb_alloc_reserve",
    subject="netvm: hook skb allocation to reserves",
    part=3,
    message_id=None,
    needs=(),
    wants=("tag_reserve_pages", "slub_reserve", "gfp_memalloc", "packet_split", "netvm_reserve", "inet_reserves"),
    touches=(
        "kemu_net.core.skb_alloc.SkbAlloc.alloc_copy",
        "kemu_net.core.skb_free.SkbFree._charge_of",
        "kemu_net.core.skb_free.SkbFree._release_data",
        "kemu_net.core.skb_alloc.SkbAlloc.alloc_skb",
        "kemu_net.core.skb_alloc.SkbAlloc.pskb_expand_head",
        "kemu_net.core.skb_alloc.SkbAlloc.skb_clone",
        "kemu_net.core.skb_frags.SkbFrags._netdev_alloc_page",
        "kemu_net.core.skb_frags.SkbFrags._reconcile",
        "kemu_net.core.skb_frags.SkbFrags.netdev_free_page",
        "kemu_net.core.skb_frags.SkbFrags.skb_get_page",
        "kemu_net.core.skb_frags.SkbFrags.skb_put_page",
        "kemu_net.core.skb_variants.FixedBuffers.netdev_alloc_skb",
        "kemu_net.core.skb_variants.Recycling._free_emergency",
    ),
    fate=(
        "Rewritten in v17 (byte charges by ksize()). 3.6 (commit c93bdd0e03e8) has the two steps, and "
        "skb->pfmemalloc in place of skb->emergency, without any charging."
    ),
)
