"""Two swap files on one transport lose their protection early.

Trigger
    Two swap files on one mount, and swapoff of one of them. They share the transport.

Consequence
    The transport has one bit. The first swapoff clears it and the socket's flag, and the second area
    goes on over an unprotected socket. The second swapoff finds the bit clear and undoes nothing.
"""

from __future__ import annotations

from kemu.fixes.card import Fix

FIX = Fix(
    id="b31a",
    patch=31,
    title="two swap files on one transport lose their protection early",
    mended_in="3.6: a counter",
    expect=("leak: memalloc_socks 1 and 49 TX pages for ever; outcome: deadlock under load after the first swapoff"),
    touches=("kemu_nfs.sunrpc.xs_swapper.XsSwapper._on",),
)
