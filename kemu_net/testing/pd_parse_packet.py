"""Parse the packets of a packetdrill script: ``S 0:0(0) win 65535 <mss 1460>``, ``udp (100)``, ``icmp unreachable``.

Interface: ``parse_packet(stream) -> Packet``; the stream stands at ``<`` or ``>``.

Rules of this file
    * kemu's own: ``raw "45 00 ..."`` sends an IP packet as it stands, and ``{frag OFFSET:LENGTH id N}`` behind a packet sends only
      that slice of its IP payload, with more fragments to come unless the slice is the last.
    * What stands for a later kernel or another protocol (Fast Open, MPTCP, MD5, accurate ECN, IPv6, tunnels, fuzzing) is named.
"""

from __future__ import annotations

from typing import Final

import attrs

from kemu_net.testing.pd_ast import ACK, FLAG_LETTERS, IN, IcmpSpec, Option, Packet, RawSpec, TcpSpec, UdpSpec
from kemu_net.testing.pd_icmp import ICMP_CODES, ICMP_TYPES, icmp_number
from kemu_net.testing.pd_tokens import U8, U16, U32, TokenStream

__all__ = ["parse_packet"]

_ECN: Final = {"noecn": 0, "ect1": 1, "ect0": 2, "ce": 3}
_TUNNELS: Final = {"ipv4": "IP in IP", "ipv6": "IPv6", "gre": "GRE", "GREv0": "GRE", "mpls": "MPLS", "sctp": "SCTP", "psp": "PSP"}
_OTHERS: Final = {
    "FO": "TCP Fast Open",
    "FOEXP": "TCP Fast Open",
    "FOEXP_": "TCP Fast Open",
    "md5": "the MD5 option",
    "exp": "an experimental option",
    "unknown": "an unknown option",
    "mp_capable": "multipath TCP",
    "mp_join": "multipath TCP",
    "mp_join_syn": "multipath TCP",
    "mp_join_syn_ack": "multipath TCP",
    "mp_join_ack": "multipath TCP",
    "dss": "multipath TCP",
    "dss4": "multipath TCP",
    "dss8": "multipath TCP",
    "add_address": "multipath TCP",
    "remove_address": "multipath TCP",
    "mp_fail": "multipath TCP",
    "mp_fastclose": "multipath TCP",
    "mp_prio": "multipath TCP",
    "mp_reset": "multipath TCP",
    "ECN": "accurate ECN",
    "ecn": "accurate ECN",
    "AccECN": "accurate ECN",
    "exid": "an experimental option",
    "tarr": "the TARR option",
}


def parse_packet(stream: TokenStream) -> Packet:
    """Parse one packet."""
    direction = stream.take().text
    about = _echoed(stream) if stream.ahead().kind == "INT" else None  # older scripts name it before "icmp"
    packet = _ip_info(stream, Packet(direction, RawSpec(b"")))
    token = stream.token
    if token.kind == "WORD" and token.text in _TUNNELS:
        stream.unsupported(f"a packet in {_TUNNELS[token.text]} is not supported")
    if stream.accept_word("raw"):
        body: TcpSpec | UdpSpec | IcmpSpec | RawSpec = _raw(stream, direction)
    elif stream.accept_word("udp"):
        ports = _ports(stream)
        body = UdpSpec(_length(stream), ports)
    elif stream.accept_word("icmp"):
        body = _icmp(stream)
        if about is not None:
            body = attrs.evolve(body, about=about[0], seq=about[1], length=about[2])
    else:
        stream.accept_word("tcp")
        body = _tcp(stream, direction)
    packet = attrs.evolve(packet, body=body)
    if stream.token.text == "{" and stream.token.kind == "PUNCT":
        packet = _fragment(stream, packet)
    return packet


def _ip_info(stream: TokenStream, packet: Packet) -> Packet:
    """Parse ``[ect0]``, ``(tos 0x10)``, ``(ttl 3)`` between the arrow and the packet."""
    close = {"(": ")", "[": "]"}.get(stream.token.text if stream.token.kind == "PUNCT" else "")
    if close is None:
        return packet
    stream.take()
    while True:
        word = stream.word("ECN, tos or ttl")
        if word in _ECN:
            packet = attrs.evolve(packet, tos=_ECN[word], tos_mask=3)
        elif word == "ect01":
            if packet.direction == IN:
                raise stream.error("[ect01] is for packets that are expected")
            packet = attrs.evolve(packet, tos=2, tos_mask=2)
        elif word == "tos":
            packet = attrs.evolve(packet, tos=stream.number("tos", U8), tos_mask=0xFF)
        elif word == "ttl":
            packet = attrs.evolve(packet, ttl=stream.number("ttl", U8))
        elif word == "flowlabel":
            stream.unsupported("flowlabel is of IPv6, which is not supported")
        else:
            raise stream.error(f"{word!r} is no field of an IP header")
        if not stream.accept(","):
            break
    stream.expect(close, "after the IP header's fields")
    return packet


def _ports(stream: TokenStream) -> tuple[int, int] | None:
    """Parse ``8080 > 1234`` if it is there."""
    if stream.token.kind != "INT" or stream.ahead().text != ">":
        return None
    source = stream.number("a port", U16)
    stream.take()
    ports = source, stream.number("a port", U16)
    stream.accept(":")
    return ports


def _length(stream: TokenStream) -> int:
    """Parse ``(100)``."""
    stream.expect("(", "before the length")
    length = stream.number("a length", U16)
    stream.expect(")", "after the length")
    return length


def _seq(stream: TokenStream) -> tuple[int, int]:
    """Parse ``1:1001(1000)``: sequence number and length."""
    seq = stream.number("a sequence number", U32)
    stream.expect(":", "after the sequence number")
    end = stream.number("a sequence number", U32)
    length = _length(stream)
    if end != seq + length:
        raise stream.error(f"from {seq} to {end} it is not {length} bytes")
    return seq, length


def _tcp(stream: TokenStream, direction: str) -> TcpSpec:
    """Parse a TCP segment."""
    ports = _ports(stream)
    flags = _flags(stream)
    seq, length = _seq(stream)
    ack = stream.number("ack", U32) if stream.accept_word("ack") else None
    win = stream.number("win", U16) if stream.accept_word("win") else None
    urg = stream.number("urg", U16) if stream.accept_word("urg") else 0
    options: tuple[Option, ...] | None = ()
    if stream.accept("<"):
        options = _options(stream)
        if options is None and direction == IN:
            raise stream.error("<...> is for packets that are expected")
    if win is None and direction == IN:
        raise stream.error("a segment that the peer sends needs win")
    return TcpSpec(flags, seq, length, ack, win, urg, options, ports)


def _flags(stream: TokenStream) -> int:
    """Parse ``S.``, ``P.``, ``.``, ``-``."""
    if stream.accept("-"):
        return 0
    flags = 0
    token = stream.token
    if token.kind == "FLOAT":
        stream.unsupported("accurate ECN (a number among the flags) is not supported")
    if token.kind == "WORD":
        for letter in token.text:
            if letter in "A0123456789":
                stream.unsupported("accurate ECN (the AE flag) is not supported")
            if letter not in FLAG_LETTERS:
                raise stream.error(f"{token.text!r} are no TCP flags; there are S F R P . U E W and -")
            flags |= FLAG_LETTERS[letter]
        stream.take()
        if stream.token.kind == "FLOAT":
            stream.unsupported("accurate ECN (a number among the flags) is not supported")
        if stream.accept("."):
            flags |= ACK
    elif stream.accept("."):
        flags = ACK
    else:
        raise stream.error(f"TCP flags expected, not {stream.shown()}")
    return flags


def _options(stream: TokenStream) -> tuple[Option, ...] | None:
    """Parse the TCP options up to ``>``; None for ``<...>``."""
    if stream.token.kind == "DOTS":
        stream.take()
        stream.expect(">", "after <...")
        return None
    options: list[Option] = []
    while not stream.accept(">"):
        if options and not stream.accept(","):
            raise stream.error(f"',' or '>' expected between TCP options, not {stream.shown()}")
        options.append(_option(stream))
        if len(options) > 40:
            raise stream.error("40 bytes hold no more TCP options")
    return tuple(options)


def _option(stream: TokenStream) -> Option:
    """Parse one TCP option."""
    token = stream.token
    if token.kind == "WORD" and (token.text in _OTHERS or token.text.startswith(("mp_", "dss", "ECN", "ecn", "exp"))):
        stream.unsupported(f"TCP option {token.text}: {_OTHERS.get(token.text, 'a later extension')} is not supported")
    name = stream.word("a TCP option")
    if name in ("nop", "eol", "sackOK"):
        return Option(name)
    if name == "mss":
        return Option(name, (stream.number("mss", U16),))
    if name == "wscale":
        return Option(name, (stream.number("wscale", U8),))
    if name == "sack":
        edges: list[int] = []
        while stream.token.kind in ("INT", "HEX"):
            edges.append(stream.number("a SACK edge", U32))
            stream.expect(":", "between the edges of a SACK block")
            edges.append(stream.number("a SACK edge", U32))
        return Option(name, tuple(edges))
    if name == "TS":
        if not stream.accept_word("val"):
            raise stream.error("'val' expected after TS")
        value = stream.number("TS val", U32)
        if not stream.accept_word("ecr"):
            raise stream.error("'ecr' expected after TS val")
        return Option(name, (value, stream.number("TS ecr", U32)))
    raise stream.error(f"{name!r} is no TCP option")


def _icmp(stream: TokenStream) -> IcmpSpec:
    """Parse an ICMP message."""
    kind = stream.word("an ICMP type")
    type_ = icmp_number(ICMP_TYPES, kind, "type_")
    if type_ is None:
        raise stream.error(f"{kind!r} is no ICMP type; there are {', '.join(ICMP_TYPES)}")
    code = 0
    codes = ICMP_CODES.get(type_, {})
    if stream.token.kind == "WORD" and stream.token.text not in ("mtu", "id"):
        name = stream.take().text
        number = icmp_number(codes, name, "code_")
        if number is None:
            raise stream.error(f"{name!r} is no code of ICMP {kind}; there are {', '.join(codes) or 'none'}")
        code = number
    mtu = stream.number("mtu", U16) if stream.accept_word("mtu") else None
    ident = stream.number("id", U16) if stream.accept_word("id") else 0
    about, seq, length = _echoed(stream) or ("tcp", 0, 0)
    return IcmpSpec(type_, code, mtu, ident, about, seq, length)


def _echoed(stream: TokenStream) -> tuple[str, int, int] | None:
    """Parse the packet that an ICMP message is about: ``[1:1461(1460)]``, ``[udp (8)]``."""
    if not stream.accept("["):
        return None
    about, seq, length = "tcp", 0, 0
    if stream.accept_word("udp"):
        about, length = "udp", _length(stream)
    elif stream.accept_word("raw"):
        about, length = "raw", _length(stream)
    else:
        seq, length = _seq(stream)
    stream.expect("]", "after the packet that the ICMP message is about")
    return about, seq, length


def _raw(stream: TokenStream, direction: str) -> RawSpec:
    """Parse the bytes of an IP packet in hex."""
    if direction != IN:
        stream.unsupported("a raw packet can be sent, not expected")
    if stream.token.kind != "STRING":
        raise stream.error("the bytes of a raw packet stand in a string")
    try:
        data = bytes.fromhex(stream.token.text)
    except ValueError:
        raise stream.error("a raw packet is written in hex digits") from None
    if len(data) > 9000:
        raise stream.error("a raw packet has at most 9000 bytes")
    stream.take()
    return RawSpec(data)


def _fragment(stream: TokenStream, packet: Packet) -> Packet:
    """Parse ``{frag 0:1480 id 7}``; everything else in braces is the fuzzing of later versions."""
    if stream.ahead().text != "frag":
        stream.unsupported("changing a packet's fields at random ({mut ...}, {trun ...}, {ins ...}) is not supported")
    stream.take()
    stream.take()
    if packet.direction != IN:
        stream.unsupported("a fragment can be sent, not expected")
    offset = stream.number("a fragment's offset", U16)
    stream.expect(":", "after the fragment's offset")
    length = stream.number("a fragment's length", U16)
    ident = stream.number("id", U16) if stream.accept_word("id") else 1
    stream.expect("}", "after the fragment")
    if offset & 7:
        raise stream.error(f"a fragment's offset is a multiple of 8, not {offset}")
    return attrs.evolve(packet, fragment=(offset, length, ident))
