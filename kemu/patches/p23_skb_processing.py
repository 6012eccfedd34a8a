"""netvm: skb processing.

Problem
    Receiving an emergency packet is not enough. Processing it allocates: a route, a neighbour, a
    fragment queue, a connection tracking entry, an ACK. These are GFP_ATOMIC requests scattered over
    the stack, most without a socket at hand; under pressure they fail and the packet is lost after
    all. And taps, as tcpdump opens them, would hand a clone of each packet to user space.

Change
    netif_receive_skb() for an emergency packet:

    1. saves current's flags and sets PF_MEMALLOC (which counts in softirqs since 06);
    2. passes over the taps;
    3. lets only ARP, IPv4, IPv6 and 802.1Q go on; other protocols are freed here;
    4. restores that one flag on every way out.

    sk_backlog_rcv() (13) does the same around the handler for an emergency packet that waited in a
    backlog. Such a packet on a socket that carries no swap is a BUG there.

What to watch
    * PF_MEMALLOC is on return as it was on entry, drops included.
    * Every allocation in between is entitled, in every layer: that is the purpose, and also the cost.
      Replies to foreigners come from the reserve too.
    * Taps see all ordinary packets and no emergency packet: a capture made on the machine has gaps
      just when it becomes interesting.
    * A packet of a protocol that is not on the list is freed once and its charge given back. These
      are the drops counted at the protocol gate.
    * Only taps are passed over. Ingress classification, bridge and netfilter still see the packet.
    * b23: swapoff while an emergency packet waits in the backlog.
    * Off: flags untouched, taps fed, no gate. A packet that misses a cache is lost at the floor, and a
      packet socket that nobody reads pins the reserve.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=23,
    name="skb_processing",
    subject="netvm: skb processing",
    part=3,
    message_id="20071030160914.749995000@chello.nl",
    needs=(),
    wants=("softirq_memalloc", "avc_nomemalloc", "sk_backlog_rcv", "skb_alloc_reserve", "sk_filter_emergency"),
    touches=(
        "kemu_net.core.dev_rx.DevReceive.__init__",
        "kemu_net.core.dev_rx.DevReceive._receive_hooked",
        "kemu_net.core.dev_rx.DevReceive._receive_steps",
        "kemu_net.core.dev_rx.DevReceive._show_and_classify",
        "kemu_net.core.dev_rx.DevReceive.netif_receive_skb",
        "kemu_net.core.sock_lock.SockLock._sk_backlog_rcv",
        "kemu_net.core.sock_lock.SockLock.sk_backlog_rcv",
    ),
    fate=(
        "Merged in 3.6 (commit b4b9e3558508) with the same four protocols and the taps passed over; later "
        "kernels wrap the whole receive function instead."
    ),
)
