"""Compare a packet that the machine sent with what a script expects.

Interface: ``differs(packet, seen) -> str | None``: the first field that is wrong, as a sentence.

Rules of this file
    * ``seen`` is in the script's numbers already (Conn.to_script()).
    * All flags, the sequence number, the length and the acknowledgement count; win, tos and ttl if the script names them; options
      in their order, byte for byte, unless they are ``<...>``.
"""

from __future__ import annotations

from kemu_net.testing.pd_ast import ACK, IcmpSpec, Option, Packet, TcpSpec, UdpSpec
from kemu_net.testing.pd_icmp import icmp_name
from kemu_net.testing.pd_text import show_flags, show_options
from kemu_net.testing.pd_wire import ICMP, TCP, UDP, Seen


def differs(packet: Packet, seen: Seen) -> str | None:
    """Name the first difference."""
    if not seen.valid:
        return "a checksum or a length is wrong"
    body = packet.body
    if packet.tos is not None and (seen.tos ^ packet.tos) & packet.tos_mask:
        return f"tos is {seen.tos:#x}"
    if packet.ttl is not None and seen.ttl != packet.ttl:
        return f"ttl is {seen.ttl}"
    if isinstance(body, TcpSpec):
        return _tcp(body, seen)
    if isinstance(body, UdpSpec):
        if seen.proto != UDP:
            return "it is no UDP"
        return None if len(seen.payload) == body.length else f"the length is {len(seen.payload)}"
    assert isinstance(body, IcmpSpec)
    if seen.proto != ICMP:
        return "it is no ICMP"
    if (seen.type, seen.code) != (body.type, body.code):
        return f"it is {icmp_name(seen.type, seen.code)}"
    if body.mtu is not None and seen.rest & 0xFFFF != body.mtu:
        return f"mtu is {seen.rest & 0xFFFF}"
    if body.id and seen.rest >> 16 != body.id:
        return f"id is {seen.rest >> 16}"
    return None


def _tcp(body: TcpSpec, seen: Seen) -> str | None:
    if seen.proto != TCP:
        return "it is no TCP"
    if body.ports is not None and body.ports != (seen.sport, seen.dport):
        return f"the ports are {seen.sport} > {seen.dport}"
    if seen.flags != body.flags:
        return f"the flags are {show_flags(seen.flags)}"
    if seen.seq != body.seq:
        return f"the sequence number is {seen.seq}"
    if len(seen.payload) != body.length:
        return f"the length is {len(seen.payload)}"
    if body.flags & ACK and seen.ack != (body.ack or 0):
        return f"ack is {seen.ack}"
    if body.win is not None and seen.win != body.win:
        return f"win is {seen.win}"
    if seen.urg != body.urg:
        return f"urg is {seen.urg}"
    if body.options is not None and _plain(seen.options) != _plain(body.options):
        return f"the options are{show_options(seen.options) or ' none'}"
    return None


def _plain(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """Leave out what pads: it says nothing."""
    kept = list(options)
    while kept and kept[-1].name == "eol":
        kept.pop()
    return tuple(kept)
