"""An emergency skb is still refused when many sockets hold memory.

Trigger
    TCP memory is above tcp_mem[2], there are many sockets, and the swap socket's own queues hold more
    than its share, as during a long READ reply.

Consequence
    21 lets an emergency packet pass the first test only. The second compares the socket with the
    average and refuses: the reply to a swap-in is dropped although it came from the reserve.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b21",
    patch=21,
    title="an emergency skb is still refused when many sockets hold memory",
    mended_in="v16: accepts any emergency packet",
    expect="outcome: hung_task or deadlock at a swap-in; counter: drops rmem on the swap socket",
    touches=("kemu_net.core.stream.Streams.sk_stream_rmem_schedule",),
)
