"""The receive path's part of the reserve: patch 18, "netvm: INET reserves".

Two consumers hold memory of the receive path for long: route cache entries and half assembled fragments. Each family gets a leaf
for either, and the fragment leaves together are the budget of all emergency receive buffers.

Interface
    InetReserves(kernel, reserves, net_reserves, route, ip6)    ip6: (cache, routes, bytes), or None if IPv6 is not built in
    bind(inet.tunables)                                         who lives by a tunable hears of every change
    sysctls net.ipv4.route.max_size, net.ipv4.ipfrag_high_thresh, net.ipv6.route.max_size, net.ipv6.ip6frag_high_thresh
    sysctl_binary(name, value)                                  sysctl(2), the binary call

Rules
    * The evictor of fragments counts truesize, the reserve counts powers of two: with one family, a flood of fragments meets the
      end of the budget before it meets the evictor.
    * A tunable is stored only after its reserve has changed; a reserve that cannot grow refuses the write (the errno arrives with
      patch 17). sysctl(2) does not go that way in v14: the variable changes and the reserve does not (b18a).
    * A negative value reaches the size arithmetic in v14 (b18b, in mm/reserve.py).
    * Without the patch there are no leaves and the budget is 0. For a machine that shall run without it but with a budget,
      ``constant_budget`` is a limit of the SKB data reserve set by hand.
    * Every stored value reaches who lives by it: the caches and the evictors of both families (``bind()``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import ENOENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.reserve import MemReserve, Reserves
    from kemu.mm.slub import KmemCache
    from kemu_net.core.net_reserve import NetReserves
    from kemu_net.ipv4.route import RouteCache

IPFRAG_HIGH_THRESH = 262144


class InetReserves:
    """The four tunables and, with patch 18, their leaves.

    :param constant_budget: bytes of emergency receive buffers if patch 18 is off.
    :ivar values: the tunables by sysctl name, except net.ipv4.route.max_size, which is ``route.max_size``.
    """

    def __init__(
        self,
        kernel: Kernel,
        reserves: Reserves,
        net_reserves: NetReserves,
        route: RouteCache,
        ip6: tuple[KmemCache, int, int] | None = None,
        constant_budget: int = 0,
    ) -> None:
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.reserves = reserves
        self.sysctl = kernel.sysctl
        self.leaves: dict[str, MemReserve] = {}
        self._setters: dict[str, Callable[[int], int]] = {}
        self.values: dict[str, int] = {}
        self.bounds: dict[str, Callable[[int], object]] = {
            "net.ipv4.route.max_size": lambda value: setattr(route, "max_size", value)
        }
        rx, skb = net_reserves.net_rx_reserve, net_reserves.net_skb_reserve
        self._add("net.ipv4.route.max_size", "IPv4 route cache", rx, route.max_size, route.ip_dst_cache)
        self._add("net.ipv4.ipfrag_high_thresh", "IPv4 fragment cache", skb, IPFRAG_HIGH_THRESH, None)
        if ip6 is not None:
            cache, max_size, high_thresh = ip6
            self._add("net.ipv6.route.max_size", "IPv6 route cache", rx, max_size, cache)
            self._add("net.ipv6.ip6frag_high_thresh", "IPv6 fragment cache", skb, high_thresh, None)
        if not self.patched.inet_reserves:  # [p18]
            reserves.mem_reserve_kmalloc_set(skb, constant_budget)

    def _add(self, name: str, title: str, parent: MemReserve, value: int, cache: KmemCache | None) -> None:
        """Make one tunable and its leaf (``ip_rt_init()``, ``ipfrag_init()``); nothing is connected yet, so it fits."""
        self.values[name] = value
        if self.patched.inet_reserves:  # [p18]
            leaf = self.leaves[name] = self.reserves.mem_reserve_init(title, parent)
            self._setters[name] = self._setter(leaf, cache)
            self._setters[name](value)
        self.sysctl.register(name, lambda: self.values[name], lambda new: self._write(name, new))

    def bind(self, tunables: dict[str, Callable[[int], object]]) -> None:
        """Tell everybody in ``tunables``, by sysctl name, of the value, now and with every change."""
        for name, hear in tunables.items():
            if name in self.values:
                self.bounds[name] = hear
                hear(self.values[name])

    def _setter(self, leaf: MemReserve, cache: KmemCache | None) -> Callable[[int], int]:
        reserves = self.reserves
        if cache is None:
            return lambda value: reserves.mem_reserve_kmalloc_set(leaf, value)
        return lambda value: reserves.mem_reserve_kmem_cache_set(leaf, cache, value)

    def _write(self, name: str, value: int) -> int:
        """Change a tunable through /proc/sys: first the reserve, then the variable (``do_proc_dointvec_fragment()``)."""
        if self.patched.inet_reserves:  # [p18]
            error = self._setters[name](value)
            if error:
                return error
        self._store(name, value)
        return 0

    def _store(self, name: str, value: int) -> None:
        self.values[name] = value
        bound = self.bounds.get(name)
        if bound is not None:
            bound(value)

    def sysctl_binary(self, name: str, value: int) -> int:
        """Change a tunable through sysctl(2): 0 or a negative errno."""
        if name not in self.values:
            return -ENOENT
        if self.patched.inet_reserves:  # [p18]
            if self.fixed.b18a:  # [b18a]
                return self._write(name, value)
            self._store(name, value)
        else:
            self._store(name, value)
        return 0
