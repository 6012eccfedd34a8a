"""Test helper: Hypothesis strategies of frames that are wrong in every way we know, and of some that are right.

A case is a function ``frame(aim) -> bytes``: what must hit something (sequence numbers, ports) is filled in when the case is sent,
from an :class:`Aim`, so that it reaches code behind the first tests. For the same reason most checksums are repaired.
"""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from kemu_net.core.checksum import csum_fold, csum_partial, csum_tcpudp_magic
from kemu_net.ipv6.addr import link_local
from net_ground import IP_A, IP_B, MAC_A, MAC_B

M32 = 0xFFFFFFFF
MAX_FRAME = 2000
GROUP = b"\xff" * 6
FLAGS = [0, 1, 2, 4, 16, 3, 6, 17, 18, 20, 24, 25, 26, 41, 63, 255]  # no flag, FIN, SYN, RST, ACK, and mixes up to Christmas


class Aim:
    """Where a TCP case is to hit: the peer's numbers of one connection."""

    def __init__(self, sport: int, dport: int, seq: int, ack: int) -> None:
        self.sport, self.dport, self.seq, self.ack = sport, dport, seq & M32, ack & M32


mostly = st.integers(0, 5).map(bool)
#: Lies about a length: the difference to the truth, or None for a value of its own.
lies = st.one_of(st.just(0), st.just(0), st.integers(-40, 40), st.sampled_from([-65535, 65535, 1480, -8]))
texts = st.one_of(st.binary(max_size=64), st.integers(0, 1400).map(lambda size: b"z" * size))

#: One option of IP or TCP: kind, length as told (None: none is told), contents.
option = st.tuples(
    st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 19, 68, 82, 130, 131, 136, 137, 148, 255]),
    st.one_of(st.none(), st.integers(0, 12), st.just(255)),
    st.binary(max_size=12),
)
right_option = st.sampled_from(
    [
        b"\x01",
        b"\x02\x04\x05\xb4",
        b"\x02\x04\x00\x00",
        b"\x03\x03\x07",
        b"\x03\x03\xff",
        b"\x04\x02",
        b"\x08\x0a\x00\x00\x00\x01\x00\x00\x00\x00",
        b"\x08\x0a\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x05\x0a" + struct.pack("!II", 1, 0),
    ]
)
options = st.lists(
    st.one_of(right_option, option.map(lambda each: bytes([each[0]]) + (b"" if each[1] is None else bytes([each[1]])) + each[2])),
    max_size=4,
).map(lambda parts: b"".join(parts)[:40])


def _check(header: bytes, at: int, right: bool) -> bytes:
    if not right:
        return header
    header = header[:at] + b"\0\0" + header[at + 2 :]
    return header[:at] + csum_fold(csum_partial(header)).to_bytes(2, "big") + header[at + 2 :]


def ipv4(proto, body, *, saddr=IP_B, daddr=IP_A, ident=1, frag=0, ttl=64, opts=b"", lie=0, ihl=0, version=4, right=True) -> bytes:
    """Make an IPv4 packet whose lengths may lie."""
    opts = opts.ljust(-(-len(opts) // 4) * 4, b"\0")
    words = (5 + len(opts) // 4 + ihl) & 15
    total = (20 + len(opts) + len(body) + lie) & 0xFFFF
    header = struct.pack("!BBHHHBBHII", version << 4 | words, 0, total, ident, frag, ttl, proto, 0, saddr, daddr) + opts
    return _check(header, 10, right) + body


def ether(packet: bytes, kind=0x0800, to=MAC_A, source=MAC_B) -> bytes:
    return to + source + kind.to_bytes(2, "big") + packet


def tcp(aim: Aim, flags, dseq, dack, win, opts, data, offset, urg, right, sack) -> bytes:
    """Make a segment near what the connection expects."""
    seq, ack = (aim.seq + dseq) & M32, (aim.ack + dack) & M32
    if sack:
        opts = (
            b"\x01\x01\x05"
            + bytes([2 + 8 * len(sack)])
            + b"".join(struct.pack("!II", (ack + a) & M32, (ack + b) & M32) for a, b in sack)
        )[:40]
    opts = opts.ljust(-(-len(opts) // 4) * 4, b"\0")
    words = (5 + len(opts) // 4 + offset) & 15
    raw = struct.pack("!HHIIBBHHH", aim.sport, aim.dport, seq, ack, words << 4, flags & 255, win, 0, urg) + opts + data
    check = csum_tcpudp_magic(IP_B, IP_A, 6, raw) if right else 0x1234
    return raw[:16] + check.to_bytes(2, "big") + raw[18:]


near = st.one_of(st.just(0), st.just(0), st.integers(-3000, 3000), st.integers(0, M32), st.sampled_from([65535, 1 << 31, -1, 1]))
segments = st.builds(
    lambda *spec: lambda aim: ether(ipv4(6, tcp(aim, *spec))),
    st.sampled_from(FLAGS),
    near,
    near,
    st.sampled_from([0, 1, 1000, 65535]),
    options,
    texts,
    st.sampled_from([0, 0, 0, 0, -5, -1, 1, 10]),
    st.sampled_from([0, 0, 1, 65535]),
    mostly,
    st.lists(st.tuples(near, near), max_size=4),
)

#: Data in and beside the window that does not end the connection: out of order, overlapping, contained in each other.
overlaps = st.builds(
    lambda flags, at, size, sack: lambda aim: ether(ipv4(6, tcp(aim, flags, at, 0, 65535, b"", b"o" * size, 0, 0, True, sack))),
    st.sampled_from([16, 24]),
    st.one_of(st.integers(-10, 40), st.integers(0, 3000), st.sampled_from([1000, 1400, 2000])),
    st.one_of(st.integers(0, 40), st.sampled_from([100, 1000, 1400])),
    st.lists(st.tuples(near, near), max_size=1),
)

udps = st.builds(
    lambda sport, dport, data, lie, right, zero: lambda _aim: ether(ipv4(17, udp(sport, dport, data, lie, right, zero))),
    st.sampled_from([0, 9, 65535]),
    st.sampled_from([0, 7, 8, 65535]),
    texts,
    lies,
    mostly,
    st.booleans(),
)


def udp(sport, dport, data, lie=0, right=True, zero=False) -> bytes:
    """Make a datagram whose length may lie."""
    raw = struct.pack("!HHHH", sport, dport, (8 + len(data) + lie) & 0xFFFF, 0) + data
    check = 0 if zero else (csum_tcpudp_magic(IP_B, IP_A, 17, raw) or 0xFFFF) if right else 0x4321
    return raw[:6] + check.to_bytes(2, "big") + raw[8:]


def icmp(kind, code, rest, data, right=True) -> bytes:
    return _check(struct.pack("!BBHI", kind, code, 0, rest) + data, 2, right)


def _quote(aim: Aim, kind, code, rest, which, cut, right) -> bytes:
    """Make an ICMP error that quotes a segment of a connection, a datagram, or something else, cut off anywhere."""
    inner = struct.pack("!HHI", aim.dport, aim.sport, aim.ack) if which == 6 else struct.pack("!HHHH", 7, 9, 8, 0)
    quoted = ipv4(which, inner, saddr=IP_A, daddr=IP_B)
    return ether(ipv4(1, icmp(kind, code, rest, quoted[:cut], right)))


icmp_errors = st.builds(
    lambda *spec: lambda aim: _quote(aim, *spec),
    st.sampled_from([3, 4, 5, 11, 12, 3, 3]),
    st.integers(0, 16),
    st.sampled_from([0, 40, 68, 576, 1500, 65535, M32]),
    st.sampled_from([6, 17, 1, 255]),
    st.integers(0, 28),
    mostly,
)
icmps = st.builds(
    lambda kind, code, rest, data, right: lambda _aim: ether(ipv4(1, icmp(kind, code, rest, data, right))),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, M32),
    texts,
    mostly,
)

#: Fragments of few datagrams: equal, overlapping, contained in each other (teardrop), beyond 65535, and of no length.
fragments = st.builds(
    lambda ident, at, more, size, proto, lie, opts: (
        lambda _aim: ether(ipv4(proto, b"f" * size, ident=ident, frag=(0x2000 if more else 0) | at, lie=lie, opts=opts))
    ),
    st.integers(1, 3),
    st.one_of(st.integers(0, 6), st.sampled_from([8, 180, 8189, 8191])),
    st.booleans(),
    st.one_of(st.integers(0, 48), st.sampled_from([8, 16, 24, 1480])),
    st.sampled_from([17, 17, 6, 1]),
    st.sampled_from([0, 0, 0, -8, 8]),
    st.sampled_from([b"", b"", b"\x94\x04\x00\x00"]),
)

headers = st.builds(
    lambda proto, body, saddr, daddr, frag, ttl, opts, lie, ihl, version, right, to: (
        lambda _aim: ether(
            ipv4(
                proto, body, saddr=saddr, daddr=daddr, frag=frag, ttl=ttl, opts=opts, lie=lie, ihl=ihl, version=version, right=right
            ),
            to=to,
        )
    ),
    st.sampled_from([0, 1, 2, 4, 6, 17, 41, 50, 255]),
    st.binary(max_size=80),
    st.sampled_from([0, IP_A, IP_B, 0x7F000001, 0xE0000001, M32]),  # with IP_A, and as receiver too: a land packet
    st.sampled_from([IP_A, IP_A, IP_B, 0x0A0000FF, M32, 0x7F000001, 0xE0000001]),
    st.sampled_from([0, 0, 0x2000, 0x4000, 7, 0x8000]),
    st.sampled_from([0, 1, 64, 255]),
    options,
    lies,
    st.sampled_from([0, 0, 0, -5, -1, 1, 10]),
    st.sampled_from([4, 4, 4, 0, 6, 15]),
    mostly,
    st.sampled_from([MAC_A, MAC_A, GROUP, b"\x01\0\x5e\0\0\1"]),
)
lands = st.builds(
    lambda flags, port: (
        lambda aim: ether(ipv4(6, struct.pack("!HHIIBBHHH", port, port, aim.seq, aim.ack, 0x50, flags, 1000, 0, 0), saddr=IP_A))
    ),
    st.sampled_from(FLAGS),
    st.sampled_from([80, 2049]),
)

arps = st.builds(
    lambda hard, kind, hlen, plen, op, sha, sip, tip, cut, to: (
        lambda _aim: ether(struct.pack("!HHBBH6sI6sI", hard, kind, hlen, plen, op, sha, sip, b"\0" * 6, tip)[:cut], 0x0806, to)
    ),
    st.sampled_from([1, 1, 0, 6, 65535]),
    st.sampled_from([0x800, 0x800, 0, 0x86DD]),
    st.sampled_from([6, 6, 0, 255]),
    st.sampled_from([4, 4, 0, 16]),
    st.integers(0, 5),
    st.sampled_from([MAC_B, MAC_A, GROUP, b"\0" * 6]),
    st.sampled_from([0, IP_A, IP_B, M32]),
    st.sampled_from([IP_A, IP_A, IP_B, M32]),
    st.integers(0, 28),
    st.sampled_from([MAC_A, GROUP]),
)

#: An extension header of IPv6: its kind, the length that it tells (None: the true one), its contents.
extension = st.tuples(
    st.sampled_from([0, 43, 44, 44, 50, 51, 60, 135]), st.one_of(st.none(), st.integers(0, 3)), st.binary(max_size=30)
)
LINK_A, LINK_B = (link_local(mac).to_bytes(16, "big") for mac in (MAC_A, MAC_B))
ALL_NODES_6 = b"\xff\x02" + bytes(13) + b"\x01"


def ipv6(chain, last, body, lie, version, daddr, right) -> bytes:
    """Make an IPv6 packet with a chain of extension headers whose lengths may lie."""
    kinds = [each[0] for each in chain] + [last]
    parts = []
    for at, (kind, told, contents) in enumerate(chain):
        size = 8 if kind == 44 else 8 * (-(-(len(contents) + 2) // 8))
        parts.append(bytes([kinds[at + 1], size // 8 - 1 if told is None else told]) + contents.ljust(size - 2, b"\0")[: size - 2])
    if right and last in (17, 58) and len(body) >= 8:
        at = 6 if last == 17 else 2
        body = body[:at] + b"\0\0" + body[at + 2 :]
        pseudo = LINK_B + daddr + struct.pack("!II", len(body), last)
        body = body[:at] + csum_fold(csum_partial(pseudo + body)).to_bytes(2, "big") + body[at + 2 :]
    rest = b"".join(parts) + body
    header = struct.pack("!IHBB", version << 28, (len(rest) + lie) & 0xFFFF, kinds[0], 255)
    return header + LINK_B + daddr + rest


#: Neighbour discovery, errors and echoes, with options of any length.
icmpv6s = st.builds(
    lambda kind, code, rest, target, opts: struct.pack("!BBHI", kind, code, 0, rest) + target + opts,
    st.sampled_from([1, 2, 3, 4, 128, 129, 133, 134, 135, 136, 137, 255]),
    st.sampled_from([0, 0, 1, 255]),
    st.sampled_from([0, 1280, 0xE0000000, M32]),
    st.sampled_from([b"", LINK_A, LINK_B, ALL_NODES_6]),
    st.sampled_from([b"", b"\x01\x01" + MAC_B, b"\x02\x01" + MAC_B, b"\x01\x00", b"\x01\xff", b"\x05\x01" + bytes(6), b"\x01"]),
)
ipv6s = st.builds(
    lambda chain, last, body, lie, version, daddr, right: (
        lambda _aim: ether(ipv6(chain, last, body, lie, version, daddr, right), 0x86DD)
    ),
    st.lists(extension, max_size=4),
    st.sampled_from([58, 58, 6, 17, 59, 0, 44, 255]),
    st.one_of(icmpv6s, st.binary(max_size=60)),
    st.one_of(st.just(0), st.just(0), lies),
    st.sampled_from([6, 6, 6, 6, 4, 0]),
    st.sampled_from([LINK_A, LINK_A, LINK_B, ALL_NODES_6, bytes(16)]),
    mostly,
)
#: Fragments of two IPv6 packets, overlapping, out of order, of odd sizes.
fragments6 = st.builds(
    lambda ident, at, more, size, last: (
        lambda _aim: ether(
            ipv6([(44, 0, struct.pack("!HI", at << 3 | more, ident))], last, b"f" * size, 0, 6, LINK_A, False), 0x86DD
        )
    ),
    st.integers(1, 2),
    st.one_of(st.integers(0, 6), st.sampled_from([8, 8191])),
    st.integers(0, 1),
    st.sampled_from([0, 7, 8, 16, 24, 48]),
    st.sampled_from([58, 17, 59, 255]),
)

raw = st.binary(max_size=MAX_FRAME).map(lambda data: lambda _aim: data)
ethers = st.builds(
    lambda to, kind, rest: lambda _aim: ether(rest, kind, to),
    st.sampled_from([MAC_A, GROUP, b"\x01\0\x5e\0\0\1"]),
    st.sampled_from([0, 46, 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8, 0x88A2, 0x8863, 0xFFFF]),
    st.one_of(st.binary(max_size=100), st.integers(0, MAX_FRAME - 14).map(lambda size: b"\x45" * size)),
)

plain = st.one_of(
    segments,
    segments,
    segments,
    udps,
    icmp_errors,
    icmps,
    fragments,
    fragments,
    headers,
    lands,
    arps,
    ipv6s,
    fragments6,
    raw,
    ethers,
)


def _mangled(case, how, number):
    def frame(aim: Aim) -> bytes:
        data = case(aim)
        if how == "cut":
            return data[: number % (len(data) + 1)]
        if how == "padded":
            return data.ljust(min(MAX_FRAME, len(data) + number % 1600), b"\xa5")
        if how == "flipped" and data:
            at = number % (len(data) * 8)
            return data[: at >> 3] + bytes([data[at >> 3] ^ 1 << (at & 7)]) + data[(at >> 3) + 1 :]
        if how == "tagged":
            return (data[:12] + b"\x81\x00" + (number & 0xFFFF).to_bytes(2, "big") + data[12:])[:MAX_FRAME]
        return data

    return frame


#: Any case: as it was made, cut off, padded, with one wrong bit, or with a VLAN tag.
cases = st.one_of(
    plain, plain, st.builds(_mangled, plain, st.sampled_from(["cut", "padded", "flipped", "tagged"]), st.integers(0, 1 << 16))
)
