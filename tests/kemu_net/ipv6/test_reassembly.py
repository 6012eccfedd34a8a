"""Reassembly of IPv6 packets."""

from __future__ import annotations

import random

import pytest

from ip6_ground import DEST, FRAGMENT, G_A, ICMP6, answers, frag6, ip6_frame, ping6
from kemu_net.core.checksum import csum_ok
from kemu_net.ipv6.reassembly import SIZEOF_FRAG_QUEUE
from net_ground import two_hosts

TRUESIZE = 1832


@pytest.fixture
def net():
    with two_hosts() as net:
        yield net


def play(net, *frames) -> None:
    for frame in frames:
        net.flood(frame)
        net.run(10)
        net.a.inet6.frags.check()


def test_a_ping_in_pieces_is_answered_in_pieces(net):
    data = random.Random(1).randbytes(3000)
    message = ping6(data)
    play(net, *(frag6(at, message[at : at + 1448], more=at + 1448 < len(message)) for at in range(0, len(message), 1448)))
    pieces = [frame for _, frame in net.frames if frame[20:21] == bytes((FRAGMENT,)) and frame[6:12] != frame[:6]]
    pieces = [frame[54:] for frame in pieces if frame[22:38] == G_A.to_bytes(16, "big")]
    whole = b"".join(piece[8:] for piece in pieces)
    assert (whole[0], whole[8:]) == (129, data)
    assert csum_ok(whole, (0x20010DB8 << 97) + 0x0A000001 + 0x0A000002 + len(whole) + ICMP6)
    assert [int.from_bytes(piece[2:4], "big") & 1 for piece in pieces] == [1, 1, 0]


def test_order_and_overlaps_do_not_matter(net):
    message = ping6(b"x" * 32)
    play(net, frag6(16, message[16:], more=False), frag6(8, message[8:24]), frag6(0, message[:16]))
    assert answers(net)[0][8:] == b"x" * 32


def test_what_comes_before_the_fragment_header_stays(net):
    message = ping6(b"x" * 8)
    dest = bytes((FRAGMENT, 0, 1, 4, 0, 0, 0, 0))

    def piece(offset, payload, more):
        return ip6_frame(DEST, dest + bytes((ICMP6, 0)) + (offset | more).to_bytes(2, "big") + b"\0\0\0\7" + payload)

    play(net, piece(0, message[:8], True), piece(8, message[8:], False))
    assert answers(net)[0][8:] == b"x" * 8


def test_a_fragment_that_is_all_is_no_fragment(net):
    play(net, frag6(0, ping6(), more=False))
    assert answers(net)[0][0] == 129


def test_memory_is_truesize_and_the_queue(net):
    play(net, frag6(0, b"x" * 8))
    assert net.a.inet6.frags.mem == TRUESIZE + SIZEOF_FRAG_QUEUE


@pytest.mark.parametrize(("frame", "pointer"), [(frag6(0, b"x" * 9), 4), (frag6(65528, b"x" * 16, more=False), 42)])
def test_what_cannot_be_is_answered_with_its_place(net, frame, pointer):
    play(net, frame)
    (answer,) = answers(net)
    assert (answer[:2], int.from_bytes(answer[4:8], "big")) == (b"\4\0", pointer)


def test_contradictions_are_refused(net):
    play(net, frag6(16, b"x" * 8, more=False), frag6(24, b"x" * 8), frag6(16, b"x" * 9, more=False), frag6(8, b""))
    assert net.a.stats.ignored["fragment: refused"] == 3


def test_a_packet_above_64k_is_dropped(net):
    dest = bytes((FRAGMENT, 2)) + b"\1\x14" + bytes(20)

    def piece(offset, payload, more):
        return ip6_frame(DEST, dest + bytes((ICMP6, 0)) + (offset | more).to_bytes(2, "big") + b"\0\0\0\7" + payload)

    for at in range(0, 65528, 1416):
        play(net, piece(at, b"x" * min(1416, 65528 - at), True))
    play(net, piece(65528, b"x" * 7, False))
    assert net.a.inet6.frags.reasm_fails == 1
    assert net.a.inet6.frags.mem == 0


def test_after_sixty_seconds_the_sender_is_told(net):
    play(net, frag6(0, b"x" * 8), frag6(8, b"x" * 8, ident=8))
    net.run(59_000)
    assert len(net.a.inet6.frags.queues) == 2
    net.run(2_000)
    assert [message[:2] for message in answers(net)] == [b"\3\1"]
    assert net.a.inet6.frags.mem == 0


def test_the_evictor_works_from_high_to_low(net):
    frags = net.a.inet6.frags
    size = TRUESIZE + SIZEOF_FRAG_QUEUE
    assert net.a.kernel.sysctl.write("net.ipv6.ip6frag_high_thresh", str(10 * size)) == 0
    assert net.a.kernel.sysctl.write("net.ipv6.ip6frag_low_thresh", str(5 * size)) == 0
    play(net, *(frag6(0, b"x" * 8, ident=number) for number in range(12)))
    assert (frags.evicted, len(frags.queues)) == (6, 6)


def test_without_memory_for_a_queue_the_fragment_is_lost(net):
    net.a.inet6.frags.slub = type("NoSlub", (), {"kmalloc": lambda *_: None})()
    play(net, frag6(0, b"x" * 8))
    assert net.a.stats.ignored["fragment: no memory"] == 1


def test_time_is_tunable(net):
    assert net.a.kernel.sysctl.write("net.ipv6.ip6frag_time", "5") == 0
    assert net.a.kernel.sysctl.read("net.ipv6.ip6frag_time") == "5\n"
    play(net, frag6(0, b"x" * 8))
    net.run(6_000)
    assert net.a.inet6.frags.queues == {}
