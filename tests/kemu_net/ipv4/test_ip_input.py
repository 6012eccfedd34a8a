"""Receiving IPv4 packets."""

from __future__ import annotations

import pytest

from kemu_net.core.skbuff import skb_bytes
from net_ground import IP_A, IP_B, MAC_A, MAC_B, ip_packet, two_hosts, udp_frame, with_page

PROTO = 253


@pytest.fixture
def net():
    with two_hosts() as net:
        net.greet()
        yield net


def mangled(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes((value,)) + frame[at + 1 :]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (udp_frame()[:30], "ip: short"),
        (mangled(udp_frame(), 14, 0x65), "ip: malformed"),
        (mangled(udp_frame(), 14, 0x44), "ip: malformed"),
        (mangled(udp_frame(), 14, 0x4F), "ip: checksum"),
        (mangled(udp_frame(), 16, 0xFF), "ip: malformed"),
        (mangled(udp_frame(), 22, 63), "ip: checksum"),
        (udp_frame(daddr=IP_B), "not for this host"),
        (udp_frame(saddr=0xE0000001), "ip: martian source"),
        (udp_frame(saddr=IP_A), "ip: martian source"),
        (MAC_A + MAC_B + b"\x08\x00" + ip_packet(17, b"x" * 40, fragment=0x2000), "fragment"),
        (MAC_A + MAC_B + b"\x08\x00" + ip_packet(17, b"x" * 40, fragment=0x0003), "fragment"),
        (MAC_A + MAC_B + b"\x08\x00" + ip_packet(99, b"x" * 40), "no transport protocol"),
    ],
)
def test_what_is_wrong_is_counted_and_freed(net, frame, reason):
    live = net.a.skbs.live
    before = dict(net.a.stats.ignored)
    net.flood(frame)
    net.run(1)
    assert net.a.stats.ignored.get(reason, 0) == before.get(reason, 0) + 1
    assert net.a.skbs.live == live


def test_options_are_skipped(net):
    plain = ip_packet(PROTO, b"data")
    header = b"\x46" + plain[1:2] + (28).to_bytes(2, "big") + plain[4:10] + b"\0\0" + plain[12:20] + b"\1\1\1\0"
    from kemu_net.core.checksum import csum_fold, csum_partial

    header = header[:10] + csum_fold(csum_partial(header)).to_bytes(2, "big") + header[12:]
    seen = []
    net.a.inet.inet_add_protocol(PROTO, lambda skb: (seen.append(skb_bytes(skb)), net.a.skbs.kfree_skb(skb)))
    net.flood((MAC_A + MAC_B + b"\x08\x00" + header + b"data").ljust(60, b"\0"))
    net.run(1)
    assert seen == [b"data"]


def test_padding_in_fragments_is_refused(net):
    """A card that splits packets cuts them too: what still has padding behind fragments is not trimmed here."""
    skb, page = with_page(net.a, ip_packet(17, b"x" * 40), b"padding")
    net.a.inet.input.ip_rcv(skb)
    assert net.a.stats.ignored["ip: padded fragments"] == 1
    assert page.count == 0


def test_a_protocol_finds_headers_and_addresses(net):
    seen = []
    net.a.inet.inet_add_protocol(PROTO, lambda skb: (seen.append((skb.data, skb.h, skb.nh, skb.len)), net.a.skbs.kfree_skb(skb)))
    net.flood((MAC_A + MAC_B + b"\x08\x00" + ip_packet(PROTO, b"data")).ljust(60, b"\0"))
    net.run(1)
    ((data, h, nh, length),) = seen
    assert data == h == nh + 20
    assert length == 4


def test_without_memory_for_a_route_the_packet_is_lost(net):
    net.a.inet.route._dst_alloc = lambda *_args: None
    net.flood(udp_frame(saddr=IP_B + 1))
    net.run(1)
    assert net.a.stats.ignored["no route"] == 1
