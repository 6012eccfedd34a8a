"""The network's part of the memory reserve: patch 16, "netvm: network reserve infrastructure".

Links three things that know nothing of each other (v14 net/core/sock.c): a socket that carries swap, the size of the reserve, and
the global knowledge "do we swap over the network at all" that the receive path needs before it may use reserves.

The tree, made at boot; its top hangs on the root only while there is a socket that carries swap::

    total network reserve            net_reserve
      network TX reserve             net_tx_reserve
        protocol TX pages            net_tx_pages        unit pages, never charged: bounded by construction
      network RX reserve             net_rx_reserve      parent of patch 18's route caches
        SKB data reserve             net_skb_reserve     unit bytes, the only one charged; parent of patch 18's fragment caches

Interface
    NetReserves(kernel, reserves)                     built before the skb allocator and before the sockets, which both get it
    memalloc_socks, sk_memalloc_socks()               how many sockets (and extra references of xs_swapper()) carry swap
    sk_adjust_memalloc(socks, tx_reserve_pages)       0 or -ENOMEM
    rx_emergency_get / _get_overcommit / _put(bytes)  charge and uncharge the SKB data reserve, rounded to powers of two there

Rules
    * Without patch 16 the tree exists and is never connected; memalloc_socks stays 0.
    * sk_adjust_memalloc() may sleep: the tree is under a mutex.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.reserve import MemReserve, Reserves

TX_RESERVE_PAGES = 32  # one request of 64 KiB that might have to be bounced, doubled: ceil(2 * 65536 / 4096)


class NetReserves:
    """The tree, the count of sockets that carry swap, and the charging of receive buffers.

    :param reserves: the machine's reserves (patch 11).
    """

    def __init__(self, kernel: Kernel, reserves: Reserves) -> None:
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.reserves = reserves
        self.memalloc_socks = 0  # [p16] added
        self.peak_usage = 0
        init = reserves.mem_reserve_init
        self.net_reserve: MemReserve = init("total network reserve", None)
        self.net_tx_reserve: MemReserve = init("network TX reserve", self.net_reserve)
        self.net_tx_pages: MemReserve = init("protocol TX pages", self.net_tx_reserve)
        self.net_rx_reserve: MemReserve = init("network RX reserve", self.net_reserve)
        self.net_skb_reserve: MemReserve = init("SKB data reserve", self.net_rx_reserve)

    def sk_memalloc_socks(self) -> int:
        """Tell how many sockets carry swap (v14 ``sk_memalloc_socks``); hot code reads :attr:`memalloc_socks`."""
        return self.memalloc_socks

    def rx_emergency_get(self, bytes: int) -> int:
        """Charge a receive buffer (v14 ``rx_emergency_get``): 1, or 0 when the SKB data reserve is used up."""
        got = self.reserves.mem_reserve_kmalloc_charge(self.net_skb_reserve, bytes, 0)
        usage = self.net_skb_reserve.usage
        self.peak_usage = max(self.peak_usage, usage)
        return got

    def rx_emergency_get_overcommit(self, bytes: int) -> int:
        """Charge memory that is already in hand, whatever the limit (v14 ``rx_emergency_get_overcommit``)."""
        got = self.reserves.mem_reserve_kmalloc_charge(self.net_skb_reserve, bytes, 1)
        usage = self.net_skb_reserve.usage
        self.peak_usage = max(self.peak_usage, usage)
        return got

    def rx_emergency_put(self, bytes: int) -> None:
        """Take a charge back (v14 ``rx_emergency_put``)."""
        self.reserves.mem_reserve_kmalloc_charge(self.net_skb_reserve, -bytes, 0)

    def sk_adjust_memalloc(self, socks: int, tx_reserve_pages: int) -> int:
        """Change the number of sockets that carry swap, and what they may transmit from (v14 ``sk_adjust_memalloc``).

        The receive reserve is added once, by the first socket, however many follow. v14 counts the socket before it knows whether
        the connection of the tree succeeded, and does not take the count back: from then on everybody believes in a reserve that is
        not there (b16).
        """
        if self.patched.netvm_reserve:  # [p16]
            reserves = self.reserves
            error = reserves.mem_reserve_pages_add(self.net_tx_pages, tx_reserve_pages)
            if error:
                return error
            first = not self.memalloc_socks and socks > 0
            if first:
                error = reserves.mem_reserve_connect(self.net_reserve, reserves.root)
            counted = socks
            if self.fixed.b16:  # [b16]
                counted = 0 if error else socks
            self.memalloc_socks += counted
            if counted and not self.memalloc_socks:
                error = reserves.mem_reserve_disconnect(self.net_reserve)
            if error:
                reserves.mem_reserve_pages_add(self.net_tx_pages, -tx_reserve_pages)
            return error
        return 0

    def check(self) -> None:
        """Assert that the tree hangs on the root exactly while there are sockets that carry swap (not after b16 happened)."""
        connected = self.net_reserve.parent is not None
        if not self.patched.mem_reserve:  # [p11]
            connected = self.memalloc_socks > 0  # no tree that counts
        if connected != (self.memalloc_socks > 0):
            raise KernelBug(
                f"{self.memalloc_socks} memalloc sockets, but the network reserve is connected: {connected}", state=self
            )
        if self.net_skb_reserve.usage < 0:
            raise KernelBug(f"SKB data reserve: usage {self.net_skb_reserve.usage}", state=self)
