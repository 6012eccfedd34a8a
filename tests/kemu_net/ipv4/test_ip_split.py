"""Cutting what is too long for a path."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frag_ground import PROTO, listen
from kemu.kernel.errno import EHOSTUNREACH, EMSGSIZE, ENOBUFS, ENOMEM
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.checksum import csum_ok
from kemu_net.core.skbuff import CHECKSUM_PARTIAL
from kemu_net.core.uapi import IP_PMTUDISC_DO, IP_PMTUDISC_DONT
from net_ground import IP_A, IP_B, MAC_A, two_hosts


@pytest.fixture
def net():
    with two_hosts() as net:
        net.greet()
        net.seen = listen(net.b)
        net.frames.clear()
        yield net


def allocator(net):
    return lambda size: net.a.skbs.alloc_skb(size, GFP_ATOMIC)


def send(net, payload: bytes, daddr=IP_B, **options) -> int:
    return net.a.inet.ip_send_datagram(payload, IP_A, daddr, PROTO, allocator(net), **options)


def sent(net) -> list[bytes]:
    return [frame[14:] for _, frame in net.frames if frame[6:12] == MAC_A and frame[12:14] == b"\x08\x00"]


def fields(packet: bytes) -> tuple[int, int, bool]:
    """Give offset, length and whether more follow."""
    field = int.from_bytes(packet[6:8], "big")
    return (field & 0x1FFF) * 8, int.from_bytes(packet[2:4], "big") - 20, bool(field & 0x2000)


def test_what_fits_is_one_packet_that_must_not_be_cut(net):
    assert send(net, b"x" * 1480) == 0
    net.run(5)
    (packet,) = sent(net)
    assert packet[6:8] == b"\x40\0"
    assert net.seen == [b"x" * 1480]


def test_the_largest_datagram_arrives_whole(net):
    data = random.Random(3).randbytes(65515)
    assert send(net, data) == 0
    net.run(50)
    assert net.seen == [data]


def test_a_larger_one_is_refused(net):
    assert send(net, bytes(65516)) == -EMSGSIZE


def test_fragments_are_multiples_of_8_with_one_identity_and_right_checksums(net):
    assert send(net, b"x" * 3001) == 0
    net.run(5)
    packets = sent(net)
    assert [fields(packet) for packet in packets] == [(0, 1480, True), (1480, 1480, True), (2960, 41, False)]
    assert len({packet[4:6] for packet in packets}) == 1
    assert all(csum_ok(packet[:20]) for packet in packets)


def test_without_dont_fragment_a_small_packet_may_be_cut_on_its_way(net):
    send(net, b"x", pmtudisc=IP_PMTUDISC_DONT)
    net.run(5)
    assert sent(net)[0][6:8] == b"\0\0"


def test_tos_and_ttl_are_the_senders(net):
    send(net, b"x", tos=0x10, ttl=3)
    net.run(5)
    assert (sent(net)[0][1], sent(net)[0][8]) == (0x10, 3)


def test_who_wants_to_know_the_path_gets_no_fragments(net):
    assert send(net, bytes(1481), pmtudisc=IP_PMTUDISC_DO) == -EMSGSIZE
    assert sent(net) == []


def test_no_route_no_packet(net):
    assert send(net, b"x", 0x08080808) == -EHOSTUNREACH


def test_memory_that_ends_in_the_middle_is_given_back(net):
    live = net.a.skbs.live
    left = [3]

    def alloc(size):
        left[0] -= 1
        return net.a.skbs.alloc_skb(size, GFP_ATOMIC) if left[0] else -ENOBUFS

    assert net.a.inet.ip_send_datagram(bytes(9000), IP_A, IP_B, PROTO, alloc) == -ENOBUFS
    assert net.a.skbs.live == live


def whole(payload: bytes, header: bytes = b"", flags: int = 0):
    """Make a packet that is in one piece, as a raw socket with its own header sends it."""
    header = bytes((0x45 + len(header) // 4, 0)) + (20 + len(header) + len(payload)).to_bytes(2, "big") + b"\0\1"
    return header + flags.to_bytes(2, "big") + bytes((64, PROTO, 0, 0)) + IP_A.to_bytes(4, "big") + IP_B.to_bytes(4, "big")


def send_whole(net, payload: bytes, options=b"", flags=0) -> int:
    header = whole(payload, options, flags) + options
    skb = net.a.skbs.alloc_skb(len(header) + len(payload), GFP_ATOMIC)
    skb.buf = header + payload
    skb.len = len(skb.buf)
    return net.a.inet.output.ip_local_out(skb, net.a.inet.ip_route_output(IP_B))


def test_a_packet_in_one_piece_is_copied_into_pieces(net):
    data = random.Random(4).randbytes(4000)
    live = net.a.skbs.live
    assert send_whole(net, data) == 0
    net.run(5)
    assert net.seen == [data]
    assert net.a.skbs.live == live


def test_only_options_that_are_to_be_copied_are_in_every_fragment(net):
    options = b"\x07\x07\x08\1\2\3\4\x94\x04\0\0\0"
    assert send_whole(net, bytes(4000), options) == 0
    net.run(5)
    first, second, _third = sent(net)
    assert first[20:32] == options
    assert second[20:32] == b"\1" * 7 + b"\x94\x04\0\0\0"


def test_dont_fragment_above_the_mtu_is_told_to_this_host_itself(net):
    errors = []
    net.a.inet.protocols_err[PROTO] = lambda *error: errors.append(error)
    assert send_whole(net, bytes(4000), flags=0x4000) == -EMSGSIZE
    net.run(5)
    (inner, kind, code, info) = errors[0]
    assert (kind, code, info, inner.daddr) == (3, 4, 1500, IP_B)


def test_memory_that_ends_between_two_copies(net):
    plain = net.a.skbs.alloc_skb
    left = [2]

    def alloc(size, gfp, flags=0):
        if flags:
            return plain(size, gfp, flags)
        left[0] -= 1
        return plain(size, gfp) if left[0] >= 0 else None

    live = net.a.skbs.live
    header = whole(bytes(4000))
    skb = plain(4020, GFP_ATOMIC)
    skb.buf, skb.len = header + bytes(4000), 4020
    net.a.skbs.alloc_skb = alloc
    assert net.a.inet.output.ip_local_out(skb, net.a.inet.ip_route_output(IP_B)) == -ENOMEM
    net.run(5)
    assert net.a.skbs.live == live


def test_a_checksum_for_the_nic_is_filled_in_before(net):
    segment = b"\0\7\0\7" + (4000).to_bytes(2, "big") + b"\0\0" + random.Random(5).randbytes(3992)
    seen = listen(net.b, 17)
    header = bytearray(whole(segment))
    header[9] = 17
    skb = net.a.skbs.alloc_skb(4020, GFP_ATOMIC)
    skb.buf, skb.len, skb.ip_summed = bytes(header) + segment, 4020, CHECKSUM_PARTIAL
    assert net.a.inet.output.ip_local_out(skb, net.a.inet.ip_route_output(IP_B)) == 0
    net.run(5)
    assert csum_ok(seen[0], IP_A + IP_B + 17 + 4000)


def test_to_oneself_it_is_cut_by_the_loopbacks_mtu(net):
    seen = listen(net.a)
    data = random.Random(6).randbytes(60000)
    assert send(net, data, IP_A) == 0
    net.run(5)
    assert seen == [data]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9000), st.integers(68, 1500))
def test_any_size_arrives_over_any_mtu(size, mtu):
    data = random.Random(size).randbytes(size)
    with two_hosts() as net:
        net.greet()
        seen = listen(net.b)
        net.a.inet.ip_route_output(IP_B).mtu = mtu
        assert send(net, data) == 0
        net.run(100)
        assert seen == [data]
