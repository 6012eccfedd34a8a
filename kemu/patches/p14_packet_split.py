"""net: packet split receive api.

Problem
    Some drivers receive into pages: the headers go into a small buffer and the payload into pages
    that are attached to the packet. They called alloc_page() and filled in the fragments by hand, so
    there was no place where pages could be charged or tagged. Under pressure the header would come
    from the reserve and its payload would not: such a card starves, or drains the reserve unseen.

Change
    netdev_alloc_page() and netdev_free_page() for drivers, and skb_add_rx_frag(), which attaches a
    page and keeps len, data_len and truesize in step. The drivers e1000 and sky2 use them. Pages are
    taken on the node of the device.

What to watch
    * len - data_len is the linear part, always.
    * truesize grows by the size of the fragment, not by the page.
    * Each page is attached once or given back once.
    * By itself it changes nothing but the node. The fallback and the charge come with 19, which finds
      here the one place that it needs.
    * It matters only for a card with packet split. A linear ring does not notice.
    * Off: the driver takes alloc_page(GFP_ATOMIC). At the floor the ring of a packet-split card is dry
      and stays dry; watch the drops counted at the card.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=14,
    name="packet_split",
    subject="net: packet split receive api",
    part=2,
    message_id="20071030160913.541974000@chello.nl",
    needs=(),
    wants=("skb_alloc_reserve",),
    touches=(
        "kemu_net.core.skb_frags",
        "kemu_net.core.skb_frags.SkbFrags.netdev_alloc_page",
        "kemu_net.core.skb_frags.SkbFrags.netdev_free_page",
        "kemu_net.core.skb_frags.SkbFrags.skb_add_rx_frag",
        "kemu_net.core.skb_frags.SkbFrags.skb_get_page",
        "kemu_net.core.skb_frags.SkbFrags.skb_put_page",
    ),
    fate=(
        "Merged for 2.6.28. netdev_alloc_page() went away around 3.2; skb_add_rx_frag() lives on, and hands "
        "the page's mark to the packet."
    ),
)
