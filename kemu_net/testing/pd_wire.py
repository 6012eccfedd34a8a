"""Frames of scripts as bytes: build what the peer sends, read what the machine sends (RFC 791, 792, 768, 793, 1323, 2018).

Interface
    ip_packet(...), tcp_segment(...), udp_datagram(...), icmp_message(...), pack_options(options) -> bytes
    Seen.read(time, frame) -> Seen | None      an IPv4 packet on the wire, as numbers; None for ARP and what is no IPv4
    fill(start, length) -> bytes               payload bytes of a stream position: the same everywhere, so that data can be compared

Rules of this file: nothing here raises, whatever the frame.
"""

from __future__ import annotations

import struct
from typing import Final

import attrs

from kemu_net.core.checksum import csum_fold, csum_ok, csum_partial, csum_tcpudp_magic
from kemu_net.testing.pd_ast import Option

ICMP, TCP, UDP = 1, 6, 17
MF: Final = 0x2000
DF: Final = 0x4000
_PATTERN: Final = bytes((index * 7 + (index >> 8) * 13 + 33) & 0xFF for index in range(1 << 16))
_KINDS: Final = {"eol": 0, "nop": 1, "mss": 2, "wscale": 3, "sackOK": 4, "sack": 5, "TS": 8}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}
_SIZES: Final = {"mss": 4, "wscale": 3, "sackOK": 2, "TS": 10}


def fill(start: int, length: int) -> bytes:
    """Give the payload bytes that belong to a position of a stream."""
    start &= 0xFFFF
    out = _PATTERN[start : start + length]
    while len(out) < length:
        out += _PATTERN[: length - len(out)]
    return out


def ip_packet(
    saddr: int, daddr: int, proto: int, payload: bytes, *, tos: int = 0, ttl: int = 255, ident: int = 0, fragment: int = DF
) -> bytes:
    """Make an IPv4 packet; ``fragment`` is the 16 bits of flags and offset."""
    header = struct.pack("!BBHHHBBHII", 0x45, tos, 20 + len(payload) & 0xFFFF, ident, fragment, ttl, proto, 0, saddr, daddr)
    return header[:10] + csum_fold(csum_partial(header)).to_bytes(2, "big") + header[12:] + payload


def slice_packet(packet: bytes, offset: int, length: int, ident: int) -> bytes:
    """Make of an IP packet the fragment that carries this slice of its payload."""
    saddr, daddr = struct.unpack_from("!II", packet, 12)
    payload = packet[20:]
    more = MF if offset + length < len(payload) else 0
    return ip_packet(
        saddr, daddr, packet[9], payload[offset : offset + length], tos=packet[1], ident=ident, fragment=more | offset >> 3
    )


def pack_options(options: tuple[Option, ...]) -> bytes:
    """Encode TCP options; what is not a multiple of four bytes is padded with end-of-list."""
    out = b""
    for option in options:
        values = option.values
        if option.name in ("nop", "eol"):
            out += bytes((_KINDS[option.name],))
            continue
        if option.name == "mss":
            body = struct.pack("!H", *values)
        elif option.name == "wscale":
            body = bytes(values)
        else:
            body = struct.pack(f"!{len(values)}I", *values)
        out += bytes((_KINDS[option.name], len(body) + 2 & 0xFF)) + body
    return out + b"\0" * (-len(out) % 4)


def tcp_segment(
    saddr: int,
    daddr: int,
    ports: tuple[int, int],
    numbers: tuple[int, int],
    flags: int,
    win: int,
    urg: int,
    options: bytes,
    data: bytes,
) -> bytes:
    """Make a TCP segment with a right checksum; ``numbers`` are sequence number and acknowledgement."""
    offset = (20 + len(options)) // 4 << 4 & 0xFF
    header = struct.pack("!HHIIBBHHH", *ports, *numbers, offset, flags, win, 0, urg) + options
    check = csum_tcpudp_magic(saddr, daddr, TCP, header + data)
    return header[:16] + struct.pack("!H", check) + header[18:] + data


def udp_datagram(saddr: int, daddr: int, ports: tuple[int, int], data: bytes) -> bytes:
    """Make a datagram with a right checksum."""
    size = 8 + len(data) & 0xFFFF
    header = struct.pack("!HHHH", *ports, size, 0)
    check = csum_tcpudp_magic(saddr, daddr, UDP, header + data) or 0xFFFF
    return header[:6] + struct.pack("!H", check) + data


def icmp_message(type_: int, code: int, rest: int, data: bytes) -> bytes:
    """Make an ICMP message; ``rest`` is the second word of its header."""
    message = struct.pack("!BBHI", type_, code, 0, rest) + data
    return message[:2] + csum_fold(csum_partial(message)).to_bytes(2, "big") + message[4:]


@attrs.define(eq=False)
class Seen:
    """A packet that the machine sent.

    :ivar rest: the second word of an ICMP header.
    :ivar valid: all checksums are right and all lengths fit.
    """

    time: int
    proto: int
    saddr: int
    daddr: int
    tos: int
    ttl: int
    payload: bytes
    valid: bool
    fragment: int = 0
    sport: int = 0
    dport: int = 0
    seq: int = 0
    ack: int = 0
    flags: int = 0
    win: int = 0
    urg: int = 0
    options: tuple[Option, ...] = ()
    type: int = 0
    code: int = 0
    rest: int = 0

    @classmethod
    def read(cls, time: int, frame: bytes) -> Seen | None:
        """Read a frame."""
        if len(frame) < 34 or frame[12:14] != b"\x08\x00" or frame[14] >> 4 != 4:
            return None
        size = (frame[14] & 15) * 4
        packet = frame[14 : 14 + int.from_bytes(frame[16:18], "big")]
        valid = size >= 20 and len(packet) >= size and csum_ok(packet[:size], 0)
        fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
        saddr, daddr = struct.unpack_from("!II", frame, 26)
        seen = cls(time, packet[9], saddr, daddr, packet[1], packet[8], packet[size:], valid, fragment)
        if not fragment:
            {TCP: seen._read_tcp, UDP: seen._read_udp, ICMP: seen._read_icmp}.get(seen.proto, _nothing)()
        return seen

    def _read_tcp(self) -> None:
        raw = self.payload
        if len(raw) < 20:
            self.valid = False
            return
        self.sport, self.dport, self.seq, self.ack, offset, self.flags, self.win, _check, self.urg = struct.unpack_from(
            "!HHIIBBHHH", raw
        )
        header = offset >> 4 << 2
        self.valid = self.valid and 20 <= header <= len(raw) and csum_ok(raw, self.saddr + self.daddr + TCP + len(raw))
        self.options = read_options(raw[20:header])
        self.payload = raw[header:]

    def _read_udp(self) -> None:
        raw = self.payload
        if len(raw) < 8:
            self.valid = False
            return
        self.sport, self.dport, size, check = struct.unpack_from("!HHHH", raw)
        self.valid = self.valid and size == len(raw) and (not check or csum_ok(raw, self.saddr + self.daddr + UDP + size))
        self.payload = raw[8:]

    def _read_icmp(self) -> None:
        raw = self.payload
        if len(raw) < 8:
            self.valid = False
            return
        self.type, self.code, _check, self.rest = struct.unpack_from("!BBHI", raw)
        self.valid = self.valid and csum_ok(raw, 0)
        self.payload = raw[8:]


def _nothing() -> None:
    """Leave a packet of an unknown protocol as it is."""


def read_options(raw: bytes) -> tuple[Option, ...]:
    """Decode TCP options; the padding behind the last one is not told."""
    options: list[Option] = []
    at = 0
    while at < len(raw):
        kind = raw[at]
        name = _NAMES.get(kind, f"option {kind}")
        if kind <= 1:
            at += 1
            options.append(Option(name))
            continue
        size = raw[at + 1] if at + 1 < len(raw) else 0
        if size < 2 or at + size > len(raw):
            options.append(Option("broken"))
            break
        body = raw[at + 2 : at + size]
        at += size
        if name == "mss" and size == _SIZES[name]:
            values: tuple[int, ...] = struct.unpack("!H", body)
        elif name in ("TS", "sack") and not len(body) % 8:
            values = struct.unpack(f"!{len(body) // 4}I", body)
        else:
            values = tuple(body)
        options.append(Option(name, values))
    while options and options[-1].name == "eol":
        options.pop()
    return tuple(options)
