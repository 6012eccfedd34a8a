"""The IPv4 host: neighbours, routes, input, output and ICMP of one interface, put together (2.6.23 net/ipv4/af_inet.c).

Interface
    Inet(kernel, dev, slub, nic, ip, pages, ...)
        inet_add_protocol(proto, fn)             fn(skb) owns the skb (ip_input.py says what it finds)
        ip_queue_xmit(skb, sk)                   send for a socket (ip_output.py)
        ip_send_skb(skb, saddr, daddr, proto)    send without one
        ip_send_datagram(payload, saddr, daddr, proto, alloc, ...)   a datagram of up to 65535 bytes, cut if need be (ip_split.py)
        ip_route_output(daddr, saddr=0)          Dst or negative errno
        protocols_err[proto] = fn                fn(inner, type, code, info) hears of ICMP errors (icmp.py)
        close()                                  free routes, neighbours and fragments
        tunables                                 what patch 18's tunables change here (InetReserves.bind())
    Parts: arp, route, input, output, icmp, frags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu_net.ipv4.arp import Arp
from kemu_net.ipv4.icmp import IPPROTO_ICMP, Icmp
from kemu_net.ipv4.ip_fragment import IpFrag
from kemu_net.ipv4.ip_input import IpInput
from kemu_net.ipv4.ip_output import IpOutput
from kemu_net.ipv4.route import RouteCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.dev import Dev, NetDevice
    from kemu_net.netfilter.core import NfHooks

IPPROTO_TCP = 6
IPPROTO_UDP = 17


class Inet:
    """IPv4 of one machine.

    :param ip: own address as an int.
    :param pages: pages of low memory.
    :param nf: netfilter, if the machine has it.
    """

    def __init__(
        self,
        kernel: Kernel,
        dev: Dev,
        slub: Slub,
        nic: NetDevice,
        ip: int,
        pages: int,
        *,
        prefix: int = 24,
        gateway: int = 0,
        nf: NfHooks | None = None,
    ) -> None:
        self.ip = ip
        self.dev = dev
        self.nic = nic
        self.arp = Arp(kernel, dev, slub, nic, ip)
        self.route = RouteCache(kernel, slub, self.arp, nic, ip, pages, prefix=prefix, gateway=gateway)
        self.arp.route = self.route
        self.frags = IpFrag(kernel, dev.skbs, slub)
        self.input = IpInput(kernel, dev, self.route, self.frags, nf)
        self.output = IpOutput(kernel, dev, nic, self.arp, self.route, nf)
        self.icmp = Icmp(kernel, dev.skbs, self.output, self.route)
        self.input.icmp = self.output.icmp = self.frags.icmp = self.icmp
        self.route.link_failure = self.icmp.link_failure
        self.protocols_err = self.icmp.protocols_err
        self.tunables: dict[str, Callable[[int], object]] = {
            "net.ipv4.ipfrag_high_thresh": lambda value: setattr(self.frags, "high_thresh", value)
        }
        self.inet_add_protocol = self.input.inet_add_protocol
        self.ip_route_output = self.route.ip_route_output
        self.ip_queue_xmit = self.output.ip_queue_xmit
        self.ip_send_skb = self.output.ip_send_skb
        self.ip_send_datagram = self.output.ip_send_datagram
        self.inet_add_protocol(IPPROTO_ICMP, self.icmp.icmp_rcv)

    def close(self) -> None:
        """Free what the network keeps for itself; sockets that still hold a route find it obsolete."""
        self.frags.close()
        self.route.rt_cache_flush()
        self.route.dst_ifdown()
        self.arp.flush()

    def is_local(self, addr: int) -> bool:
        """Tell whether ``addr`` can be bound here."""
        return addr in (0, self.ip) or addr >> 24 == 127


def inet_aton(text: str) -> int:
    """Read a dotted address (``in_aton()``)."""
    parts = [int(part) for part in text.split(".")]
    if len(parts) != 4 or not all(0 <= part <= 255 for part in parts):
        raise ValueError(f"{text!r} is no IPv4 address")
    return parts[0] << 24 | parts[1] << 16 | parts[2] << 8 | parts[3]


def inet_ntoa(addr: int) -> str:
    """Write a dotted address."""
    return f"{addr >> 24}.{addr >> 16 & 255}.{addr >> 8 & 255}.{addr & 255}"
