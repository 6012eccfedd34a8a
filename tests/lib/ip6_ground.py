"""Test helper: IPv6 packets and what they ask."""

from __future__ import annotations

from kemu_net.core.checksum import csum_fold, csum_partial
from kemu_net.ipv6.addr import link_local, solicited_node
from net_ground import IP6_PREFIX, IP_A, IP_B, MAC_A, MAC_B

LL_A, LL_B = link_local(MAC_A), link_local(MAC_B)
G_A, G_B = IP6_PREFIX | IP_A, IP6_PREFIX | IP_B
HOP, ROUTING, FRAGMENT, ICMP6, NONE, DEST = 0, 43, 44, 58, 59, 60


def ip6_frame(nexthdr: int, payload: bytes, *, saddr=G_B, daddr=G_A, hops=255, to=MAC_A, size=None) -> bytes:
    """Make a frame from b to a."""
    head = b"\x60\0\0\0" + (len(payload) if size is None else size).to_bytes(2, "big") + bytes((nexthdr, hops))
    return to + MAC_B + b"\x86\xdd" + head + saddr.to_bytes(16, "big") + daddr.to_bytes(16, "big") + payload


def icmp6(kind: int, code: int, rest: bytes, *, saddr=G_B, daddr=G_A) -> bytes:
    """Make a message with a right checksum."""
    message = bytes((kind, code, 0, 0)) + rest
    check = csum_fold(csum_partial(message) + saddr + daddr + len(message) + ICMP6)
    return message[:2] + check.to_bytes(2, "big") + rest


def ping6(data: bytes = b"data", **addresses) -> bytes:
    return icmp6(128, 0, b"\0\1\0\1" + data, **addresses)


def solicitation(target=G_A, *, saddr=G_B, daddr=None, ha=MAC_B, hops=255) -> bytes:
    """Make a frame in which b asks who has ``target``."""
    group = solicited_node(target) if daddr is None else daddr
    option = b"\1\1" + ha if ha is not None else b""
    message = icmp6(135, 0, bytes(4) + target.to_bytes(16, "big") + option, saddr=saddr, daddr=group)
    to = b"\x33\x33" + (group & 0xFFFFFFFF).to_bytes(4, "big") if group >> 120 == 0xFF else MAC_A
    return ip6_frame(ICMP6, message, saddr=saddr, daddr=group, hops=hops, to=to)


def advertisement(target=G_B, *, flags=0x60, ha=MAC_B, daddr=G_A) -> bytes:
    """Make a frame in which b says its hardware address."""
    message = icmp6(136, 0, bytes((flags, 0, 0, 0)) + target.to_bytes(16, "big") + b"\2\1" + ha, saddr=target, daddr=daddr)
    return ip6_frame(ICMP6, message, saddr=target, daddr=daddr)


def frag6(offset: int, payload: bytes, *, more=True, ident=7, nexthdr=ICMP6, **addresses) -> bytes:
    """Make a frame with a fragment."""
    field = offset | more
    return ip6_frame(FRAGMENT, bytes((nexthdr, 0)) + field.to_bytes(2, "big") + ident.to_bytes(4, "big") + payload, **addresses)


def answers(net, kind: int | None = None) -> list[bytes]:
    """Give the ICMPv6 messages that a has sent, those of one type or all but neighbour discovery."""
    found = []
    for _time, frame in net.frames:
        if frame[6:12] == MAC_A and frame[12:14] == b"\x86\xdd" and frame[20] == ICMP6:
            message = frame[54 : 54 + int.from_bytes(frame[18:20], "big")]
            if message[0] == kind or (kind is None and message[0] not in (135, 136)):
                found.append(message)
    return found
