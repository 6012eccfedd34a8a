"""netvm: prevent a TCP specific deadlock.

Problem
    tcp_mem[2] bounds the receive memory of all TCP sockets together. If ordinary sockets have filled
    it and their readers wait for swap-in, the swap socket cannot queue the reply that would wake them.
    Readers do not run, buffers do not shrink: a deadlock although the reserve has room.

Change
    sk_stream_mem_schedule() is told which packet it is asked for. Above the hard limit memory pressure
    is entered as before, but only packets that are not emergency packets are refused there. The send
    side passes no packet and sees no change.

What to watch
    * For ordinary packets all answers are those of 2.6.23; also for ordinary packets of the swap
      socket itself. The title speaks of sockets, the code tests packets.
    * An emergency packet with less than tcp_rmem[0] (4096 bytes) queued is accepted above the limit.
    * A refusal leaves forward_alloc and the global count as they were; pressure is entered either way.
    * Falling through is not yet success. Under pressure two more tests follow, and the second compares
      the socket's queues with its share: with 1000 sockets and a limit of 12288 pages that is 12
      pages, and the reply to a READ of 32 KiB and more can be refused (b21).
    * sk_rcvbuf of the socket still binds.
    * Off: idle readers fill tcp_mem, a process needs a page, and no progress is made ever. At toy size:
      tcp_mem of 24 32 48, more than 24 sockets with three segments each.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=21,
    name="tcp_deadlock",
    subject="netvm: prevent a TCP specific deadlock",
    part=3,
    message_id="20071030160914.457853000@chello.nl",
    needs=(),
    wants=("skb_alloc_reserve", "sk_filter_emergency"),
    touches=(
        "kemu_net.core.stream.Streams.sk_stream_mem_schedule",
        "kemu_net.core.stream.Streams.sk_stream_rmem_schedule",
    ),
    fate=("v16 accepts an emergency packet whatever the schedule says. 3.6 has that form (commit c76562b6709f)."),
)
