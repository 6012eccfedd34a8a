"""xs_swapper(): a transport begins or ceases to carry swap (patch 31: nfs: enable swap on NFS; v14 net/sunrpc/xprtsock.c).

Interface
    * :class:`XsSwapper`: ``xs_swapper(enable)`` -> 0 or -errno, called through nfs_swapfile().

Rules of this file
    * On: one reference more for the network reserve, which keeps it connected while the socket is replaced, and RPC_RESERVE_PAGES
      of transmit pages; then the socket gets SOCK_MEMALLOC; from then on every task of the transport is a swapper.
    * Off undoes it, if it was on.
    * v14 keeps one bit: of two swap files on one mount the first swapoff ends the protection of both, and the second undoes
      nothing, so one socket reference and 49 pages stay (b31a). It also estimates the pages anew at swapoff, with the CPUs of that
      moment (b31b).
    * A transport without a socket just now gets its flag when it connects. (v14 took the socket for granted.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import EINVAL
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.net_reserve import TX_RESERVE_PAGES
from kemu_nfs.sunrpc.xprt import RPC_MAX_SLOT_TABLE, SIZEOF_RPC_RQST

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.sock import Socks
    from kemu_nfs.sunrpc.xprtsock import TcpXprt, UdpXprt


class XsSwapper:
    """Patch 31's switch of one transport.

    :ivar pages: what the last "on" reserved.
    """

    def __init__(self, kernel: Kernel, slub: Slub, socks: Socks, xprt: TcpXprt | UdpXprt) -> None:
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.sched = kernel.sched
        self.slub = slub
        self.socks = socks
        self.xprt = xprt
        self.pages = 0

    def rpc_reserve_pages(self) -> int:
        """Return RPC_RESERVE_PAGES: the largest slot table and one request of 64 KiB twice; 49 on one CPU."""
        return self.slub.kestimate_single(SIZEOF_RPC_RQST, GFP_ATOMIC, RPC_MAX_SLOT_TABLE) + TX_RESERVE_PAGES

    def xs_swapper(self, enable: int) -> int:
        """Begin or cease to carry swap."""
        if self.patched.nfs_enable_swap:  # [p31]
            return self._on() if enable else self._off()
        return -EINVAL

    def _on(self) -> int:
        """Reserve, then mark the socket; -ENOMEM goes to swapon."""
        xprt = self.xprt
        if self.patched.nfs_enable_swap and xprt.swapper:  # [p31]
            if self.fixed.b31a:  # [b31a]
                xprt.swapper += 1
                return 0
        pages = self.rpc_reserve_pages()
        error = self.socks.net_reserves.sk_adjust_memalloc(1, pages)
        if error:
            return error
        self.pages = pages
        sk = xprt.inet
        if sk is not None:
            self.socks.sk_set_memalloc(sk)
        xprt.swapper = 1
        return 0

    def _off(self) -> int:
        """Undo it, if it was on."""
        xprt = self.xprt
        if not xprt.swapper:
            return 0
        xprt.swapper -= 1
        if xprt.swapper:
            return 0
        sk = xprt.inet
        if sk is not None:
            self.socks.sk_clear_memalloc(sk)
        pages = self.rpc_reserve_pages()
        if self.patched.nfs_enable_swap:  # [p31]
            pages = self.pages if self.fixed.b31b else pages  # [b31b]
        return self.socks.net_reserves.sk_adjust_memalloc(-1, -pages)
