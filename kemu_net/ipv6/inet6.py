"""The IPv6 host: neighbours, routes, input, output and ICMPv6 of one interface, put together (2.6.23 net/ipv6/af_inet6.c).

Interface
    Inet6(kernel, dev, slub, nic, address=None)
        addresses     the link-local one, made from the hardware address, and ``address``
        tunables      what patch 18's tunables change here (InetReserves.bind())
        check(), close()
    Parts: ndisc, route, frags, output, icmpv6, input.

Left out: sockets, TCP and UDP: IPv6 is here for its two leaves of the reserve, and what fills them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu_net.ipv6.addr import NEXTHDR_ICMP, link_local
from kemu_net.ipv6.icmpv6 import Icmpv6
from kemu_net.ipv6.ip6_input import Ip6Input
from kemu_net.ipv6.ip6_output import Ip6Output
from kemu_net.ipv6.ip6_route import Ip6Route
from kemu_net.ipv6.ndisc import Ndisc
from kemu_net.ipv6.reassembly import Ip6Frag

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.dev import Dev, NetDevice


class Inet6:
    """IPv6 of one machine.

    :param address: a global address as an int, if the machine has one; its link has the first 64 bits in common.
    """

    def __init__(self, kernel: Kernel, dev: Dev, slub: Slub, nic: NetDevice, address: int | None = None) -> None:
        local = link_local(nic.mac)
        self.dev = dev
        self.addresses = (local,) if address is None else (local, address)
        self.ndisc = Ndisc(kernel, dev, slub, nic)
        self.ndisc.addresses = self.addresses
        self.route = Ip6Route(kernel, slub, self.ndisc, nic, self.addresses)
        self.frags = Ip6Frag(kernel, dev.skbs, slub)
        self.output = Ip6Output(dev.skbs, self.route, self.ndisc)
        self.icmpv6 = Icmpv6(kernel, dev.skbs, self.output, self.route, self.ndisc)
        self.ndisc.send = self.icmpv6.send
        self.frags.icmpv6_send = self.icmpv6.icmpv6_send
        self.input = Ip6Input(dev, self.route, self.frags, self.icmpv6)
        self.input.inet6_add_protocol(NEXTHDR_ICMP, self.icmpv6.icmpv6_rcv)
        self.tunables: dict[str, Callable[[int], object]] = {
            "net.ipv6.route.max_size": lambda value: setattr(self.route, "max_size", value),
            "net.ipv6.ip6frag_high_thresh": lambda value: setattr(self.frags, "high_thresh", value),
        }

    def check(self) -> None:
        """Assert that what is counted is what is there."""
        self.frags.check()

    def close(self) -> None:
        """Free fragments, routes and neighbours."""
        self.frags.close()
        self.route.close()
        self.ndisc.flush()
