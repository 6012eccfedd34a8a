"""Neighbour discovery, as far as a host needs it to be reached on its link (2.6.23 net/ipv6/ndisc.c; RFC 4861).

Interface
    Ndisc(kernel, dev, slub, nic)         the neighbour table of IPv6 (core/neighbour.py)
    Ndisc.ndisc_rcv(skb, message, ...)    a solicitation or an advertisement
    Ndisc.send                            how ICMPv6 is sent; set by Inet6

Rules
    * Only what comes with a hop limit of 255, from the link therefore, is listened to.
    * A solicitation for an own address is answered; its sender, if it says its hardware address, enters the table as STALE.
    * An advertisement changes only who is in the table. Solicited, it proves that the neighbour hears us.
    * A group's address needs no question: its hardware address is 33:33 and its last four bytes.
    * Left out: routers, redirects, duplicate detection of the own addresses, proxies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu_net.core.dev import ETH_P_IPV6
from kemu_net.core.neighbour import NUD_NOARP, NUD_PROBE, NUD_REACHABLE, NUD_STALE, Neighbour, NeighTable
from kemu_net.ipv6.addr import ALL_NODES, ANY, is_multicast, solicited_node

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub
    from kemu_net.core.dev import Dev, NetDevice

NDISC_NEIGHBOUR_SOLICITATION = 135
NDISC_NEIGHBOUR_ADVERTISEMENT = 136
ND_OPT_SOURCE_LL_ADDR = 1
ND_OPT_TARGET_LL_ADDR = 2
_SOLICITED = 0x40
_OVERRIDE = 0x20


class Ndisc(NeighTable):
    """The neighbours of one interface."""

    def __init__(self, kernel: Kernel, dev: Dev, slub: Slub, nic: NetDevice) -> None:
        super().__init__(kernel, dev, slub, nic, "ndisc_cache", ETH_P_IPV6)
        self.addresses: tuple[int, ...] = ()
        self.send: Callable[[int, int, bytes], None] | None = None

    def constructor(self, neigh: Neighbour) -> None:
        """Give a group its hardware address (``ndisc_constructor()``)."""
        if is_multicast(neigh.ip):
            self._set_address(neigh, b"\x33\x33" + (neigh.ip & 0xFFFFFFFF).to_bytes(4, "big"))
            neigh.state = NUD_NOARP

    def solicit(self, neigh: Neighbour) -> None:
        """Ask the neighbour itself, or the group that it must be in (``ndisc_solicit()``)."""
        if self.send is None:
            return
        to = neigh.ip if neigh.state & NUD_PROBE else solicited_node(neigh.ip)
        message = b"\x87\0\0\0" + bytes(4) + neigh.ip.to_bytes(16, "big") + bytes((ND_OPT_SOURCE_LL_ADDR, 1)) + self.nic.mac
        own = next((own for own in self.addresses if own >> 64 == neigh.ip >> 64), self.addresses[0])
        self.send(own, to, message)

    def ndisc_rcv(self, message: bytes, saddr: int, daddr: int, hop_limit: int) -> str | None:
        """Take a solicitation or an advertisement whose checksum is right; give why it is refused."""
        if hop_limit != 255 or message[1] or len(message) < 24:
            return "ndisc: malformed"
        target = int.from_bytes(message[8:24], "big")
        options = _options(message[24:])
        if options is None or is_multicast(target):
            return "ndisc: malformed"
        if message[0] == NDISC_NEIGHBOUR_SOLICITATION:
            return self._recv_ns(target, saddr, daddr, options.get(ND_OPT_SOURCE_LL_ADDR))
        return self._recv_na(target, saddr, daddr, message[4], options.get(ND_OPT_TARGET_LL_ADDR))

    def _recv_ns(self, target: int, saddr: int, daddr: int, ha: bytes | None) -> str | None:
        """Answer who asks for an own address (``ndisc_recv_ns()``)."""
        if is_multicast(saddr) or (saddr == ANY and ha is not None):
            return "ndisc: malformed"
        if target not in self.addresses or self.send is None:
            return None
        flags = _OVERRIDE
        to = ALL_NODES
        if saddr != ANY:
            flags |= _SOLICITED
            to = saddr
            neigh = self.neigh_lookup_create(saddr) if ha is not None or not is_multicast(daddr) else self.table.get(saddr)
            if neigh is not None and ha is not None:
                self.neigh_update(neigh, ha, NUD_STALE)
        message = bytes((NDISC_NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0)) + target.to_bytes(16, "big")
        self.send(target, to, message + bytes((ND_OPT_TARGET_LL_ADDR, 1)) + self.nic.mac)
        return None

    def _recv_na(self, target: int, saddr: int, daddr: int, flags: int, ha: bytes | None) -> str | None:
        """Learn of a neighbour that is in the table (``ndisc_recv_na()``)."""
        if is_multicast(daddr) and flags & _SOLICITED:
            return "ndisc: malformed"
        neigh = self.table.get(target)
        if neigh is not None and ha is not None and saddr not in self.addresses:
            state = NUD_REACHABLE if flags & _SOLICITED else NUD_STALE
            self.neigh_update(neigh, ha, state, override=bool(flags & _OVERRIDE))
        return None


def _options(data: bytes) -> dict[int, bytes] | None:
    """Read the options (``ndisc_parse_options()``): the first of each kind; None when one has no length or is cut off."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 2 <= len(data):
        length = data[at + 1] * 8
        if not length or at + length > len(data):
            return None
        found.setdefault(data[at], data[at + 2 : at + 8])
        at += length
    return found if at == len(data) else None
