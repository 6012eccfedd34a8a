"""netvm: filter emergency skbs.

Problem
    An emergency packet that is queued on an ordinary socket stays there until a process reads it. That
    process may itself wait for a page to be swapped in. The reserve is then occupied by the very thing
    that it was made to prevent.

Change
    sk_filter() begins with a question: is this an emergency packet, and does the socket lack
    SOCK_MEMALLOC? Then -ENOMEM, before security hooks and packet filters are asked, and the packet is
    dropped. This is the third of the three gates that a foreign packet meets: allocation (19),
    protocol (23), socket (20).

What to watch
    * No ordinary socket has an emergency packet in its receive queue, its backlog or its prequeue.
    * The drop is silent on the wire: no ACK, no reset, no ICMP. The peer takes it for loss, which the
      network is allowed to have, and sends again later. Everything rests on this.
    * Usage of the reserve after the drop is what it was before the packet came.
    * A swap socket never loses a packet here, and ordinary packets are not affected.
    * Not covered: what is answered without a full socket. TIME_WAIT, resets, ICMP echo and ARP replies
      for foreigners are still made from reserve memory, uncharged but short-lived. A ping flood shows.
    * Off: usage rises with foreign traffic to a sleeping reader until it meets the limit. From then on
      the server's replies are refused as well.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=20,
    name="sk_filter_emergency",
    subject="netvm: filter emergency skbs.",
    part=3,
    message_id="20071030160914.329519000@chello.nl",
    needs=(),
    wants=("netvm_reserve", "skb_alloc_reserve"),
    touches=("kemu_net.core.sock_receive.SockReceive.sk_filter",),
    fate=(
        "Merged in 3.6 with the allocation patch (commit c93bdd0e03e8), at the same place; later kernels "
        "count it as PFMEMALLOCDROP."
    ),
)
