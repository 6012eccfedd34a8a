"""IPv6 addresses, as ints of 128 bits (2.6.23 include/net/ipv6.h; RFC 4291).

Interface: ``link_local(mac)``, ``solicited_node(addr)``, ``is_multicast(addr)``, ``is_link_local(addr)``, ``in6_ntop(addr)``.
"""

from __future__ import annotations

from typing import Final

ANY: Final = 0
LOOPBACK: Final = 1
ALL_NODES: Final = 0xFF02 << 112 | 1
_SOLICITED_NODE: Final = 0xFF02 << 112 | 0x1FF000000

NEXTHDR_HOP: Final = 0
NEXTHDR_ROUTING: Final = 43
NEXTHDR_FRAGMENT: Final = 44
NEXTHDR_ICMP: Final = 58
NEXTHDR_NONE: Final = 59
NEXTHDR_DEST: Final = 60
IPV6_HLEN: Final = 40
IPV6_MAXPLEN: Final = 65535
IPV6_MIN_MTU: Final = 1280


def link_local(mac: bytes) -> int:
    """Give the link-local address that belongs to a hardware address (``addrconf_ifid_eui48()``)."""
    eui = bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:6]
    return 0xFE80 << 112 | int.from_bytes(eui, "big")


def solicited_node(addr: int) -> int:
    """Give the group in which the owner of ``addr`` is asked for (``addrconf_addr_solict_mult()``)."""
    return _SOLICITED_NODE | (addr & 0xFFFFFF)


def is_multicast(addr: int) -> bool:
    """Tell whether an address is a group's (``ipv6_addr_is_multicast()``)."""
    return addr >> 120 == 0xFF


def is_link_local(addr: int) -> bool:
    """Tell whether an address is good on the link only."""
    return addr >> 118 == 0x3FA


def in6_ntop(addr: int) -> str:
    """Write an address, without shortening."""
    return ":".join(f"{addr >> shift & 0xFFFF:x}" for shift in range(112, -16, -16))
