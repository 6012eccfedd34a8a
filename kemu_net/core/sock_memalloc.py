"""A socket that carries swap: patch 16, "netvm: network reserve infrastructure" (v14 net/core/sock.c, include/net/sock.h).

Interface (methods of Socks)
    sk_set_memalloc(sk), sk_clear_memalloc(sk)    mark it, and count it (net_reserve.py)
    sk_allocation(sk, gfp)                        the flags of an allocation for it (patch 15's helper)

Rules
    * Such a socket stays inside the kernel: a program that stopped reading would pin the reserve.
    * Both take the mutex of the reserves and may sleep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.mm.gfp import _GFP_MEMALLOC, gfp_t
from kemu_net.core.sock_struct import SOCK_MEMALLOC, Sock

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.net_reserve import NetReserves


class SockMemalloc:
    """What patch 16 adds to the sockets of one machine."""

    def __init__(self, kernel: Kernel, net_reserves: NetReserves) -> None:
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.net_reserves = net_reserves

    def sk_allocation(self, sk: Sock, gfp: gfp_t) -> gfp_t:
        """Give the flags of an allocation for this socket (patch 15 ``sk_allocation()``); 16 adds the socket's MEMALLOC bit."""
        if self.patched.netvm_reserve:  # [p16]
            return gfp | (sk.sk_allocation & _GFP_MEMALLOC)
        return gfp

    def sk_set_memalloc(self, sk: Sock) -> int:
        """Make the socket one that carries swap (v14 ``sk_set_memalloc()``): 1 if it is new, 0 if it was one, or -ENOMEM."""
        if self.patched.netvm_reserve:  # [p16]
            if sk.sk_flags & SOCK_MEMALLOC:
                return 0
            error = self.net_reserves.sk_adjust_memalloc(1, 0)
            if error:
                return error
            sk.sk_flags |= SOCK_MEMALLOC
            sk.sk_allocation |= _GFP_MEMALLOC
            return 1
        return 0

    def sk_clear_memalloc(self, sk: Sock) -> int:
        """Undo :meth:`sk_set_memalloc` (v14 ``sk_clear_memalloc()``): 1 if the socket carried swap, else 0."""
        if self.patched.netvm_reserve:  # [p16]
            if not sk.sk_flags & SOCK_MEMALLOC:
                return 0
            self.net_reserves.sk_adjust_memalloc(-1, 0)
            sk.sk_flags &= ~SOCK_MEMALLOC
            sk.sk_allocation &= ~_GFP_MEMALLOC
            return 1
        return 0
