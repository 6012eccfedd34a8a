"""A host is polite: pings and closed ports."""

from __future__ import annotations

import struct

import pytest

from kemu_net.core.checksum import csum_fold, csum_ok, csum_partial
from kemu_net.core.skbuff import skb_bytes
from net_ground import IP_A, MAC_A, MAC_B, ip_packet, two_hosts, udp_frame


@pytest.fixture
def net():
    with two_hosts() as net:
        yield net


def test_a_closed_port_answers_with_icmp(net):
    seen = []
    net.b.inet.inet_add_protocol(1, lambda skb: (seen.append(skb_bytes(skb)), net.b.skbs.kfree_skb(skb)))
    sk = net.b.socket(8)
    net.b.udp.sendto(sk, b"anybody?", IP_A, 7)
    net.run(5)
    assert seen[0][:2] == b"\x03\x03"
    assert csum_ok(seen[0])
    assert struct.unpack_from("!HH", seen[0], 28) == (8, 7)


def test_icmp_errors_are_limited_to_six_at_once_and_one_a_second(net):
    net.greet()
    sent = net.a.stats.tx_frames
    net.flood(udp_frame(), 50)
    net.run(50)
    assert net.a.stats.tx_frames == sent + 6
    net.run(3000)
    net.flood(udp_frame(), 50)
    net.run(50)
    assert net.a.stats.tx_frames == sent + 6 + 3


def test_a_ping_is_answered(net):
    seen = []
    net.b.inet.inet_add_protocol(1, lambda skb: (seen.append(skb_bytes(skb)), net.b.skbs.kfree_skb(skb)))
    ping = struct.pack("!BBHHH", 8, 0, 0, 77, 1) + b"data"
    ping = ping[:2] + csum_fold(csum_partial(ping)).to_bytes(2, "big") + ping[4:]
    net.flood((MAC_A + MAC_B + b"\x08\x00" + ip_packet(1, ping)).ljust(60, b"\0"))
    net.run(5)
    assert seen[0][0] == 0
    assert seen[0][4:] == ping[4:]
    assert csum_ok(seen[0])


def test_a_bad_ping_is_not_answered(net):
    net.flood((MAC_A + MAC_B + b"\x08\x00" + ip_packet(1, b"\x08\0\0\0abcd")).ljust(60, b"\0"))
    net.run(5)
    assert net.a.stats.ignored == {"icmp: malformed": 1}


def test_without_memory_a_ping_is_lost(net):
    net.a.icmp_alloc = net.a.skbs.alloc_skb
    net.a.skbs.alloc_skb = lambda size, gfp, flags=0: net.a.icmp_alloc(size, gfp, flags) if flags else None
    ping = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
    ping = ping[:2] + csum_fold(csum_partial(ping)).to_bytes(2, "big") + ping[4:]
    net.flood((MAC_A + MAC_B + b"\x08\x00" + ip_packet(1, ping)).ljust(60, b"\0"))
    net.run(5)
    assert net.a.inet.icmp.alloc_failed == 1
    assert net.a.stats.tx_frames == 0


def test_an_answer_is_not_answered(net):
    reply = struct.pack("!BBHHH", 0, 0, 0, 77, 1)
    reply = reply[:2] + csum_fold(csum_partial(reply)).to_bytes(2, "big") + reply[4:]
    net.flood((MAC_A + MAC_B + b"\x08\x00" + ip_packet(1, reply)).ljust(60, b"\0"))
    net.run(5)
    assert net.a.stats.tx_frames == 0


def test_a_broadcast_is_not_answered(net):
    frame = udp_frame(daddr=IP_A | 0xFF)
    net.flood(b"\xff" * 6 + frame[6:])
    net.run(5)
    assert net.a.stats.rx_frames == 1
    assert net.a.stats.tx_frames == 0
