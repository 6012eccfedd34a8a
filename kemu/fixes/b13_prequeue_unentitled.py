"""tcp_prequeue overflow handles an emergency skb unentitled.

Trigger
    A reader waits in recvmsg() on a TCP socket, and the prequeue grows beyond the receive buffer.

Consequence
    tcp_prequeue() still calls the function pointer directly instead of the wrapper of 13. An emergency
    packet on that path is handled without PF_MEMALLOC. Sockets of RPC have no reader, so swap itself is
    not affected.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b13",
    patch=13,
    title="tcp_prequeue overflow handles an emergency skb unentitled",
    mended_in="-",
    expect="counter: an emergency packet handled unentitled; no outcome",
    touches=("kemu_net.ipv4.tcp_prequeue.TcpPrequeue.tcp_prequeue",),
)
