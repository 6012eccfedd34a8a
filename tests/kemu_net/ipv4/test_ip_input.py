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
        (udp_frame(saddr=0x7F000001), "ip: martian source"),
        (udp_frame(saddr=0), "ip: martian source"),
        (udp_frame(saddr=0x00000005), "ip: martian source"),
        (udp_frame(saddr=IP_A | 0xFF), "ip: martian source"),
        (udp_frame(daddr=0x7F000001), "ip: martian destination"),
        (udp_frame(daddr=0xF0000001), "ip: martian destination"),
        (udp_frame(daddr=0), "ip: martian destination"),
        (udp_frame(saddr=IP_A, daddr=IP_A, sport=7), "ip: martian source"),  # land
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


def test_padding_in_pages_is_cut_off(net):
    seen = []
    net.a.inet.inet_add_protocol(PROTO, lambda skb: (seen.append(skb_bytes(skb)), net.a.skbs.kfree_skb(skb)))
    skb, page = with_page(net.a, ip_packet(PROTO, b"x" * 40), b"padding")
    net.a.inet.input.ip_rcv(skb)
    assert (seen, page.count) == ([b"x" * 40], 0)


def test_a_protocol_that_nobody_speaks_is_told(net):
    seen = []
    net.b.inet.inet_add_protocol(1, lambda skb: (seen.append(skb_bytes(skb)), net.b.skbs.kfree_skb(skb)))
    net.flood(MAC_A + MAC_B + b"\x08\x00" + ip_packet(99, b"x" * 40))
    net.run(1)
    assert net.a.stats.ignored["no transport protocol"] == 1
    assert [message[:2] for message in seen] == [b"\x03\x02"]


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
