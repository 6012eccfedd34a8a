"""Reassembly of IPv4 packets."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frag_ground import PROTO, Model, fragment, listen
from kemu.errors import KernelBug
from kemu.kernel.errno import EINVAL
from kemu_net.core.skbuff import skb_bytes
from kemu_net.ipv4.ip_fragment import IP_DEFRAG_CONNTRACK_IN, SIZEOF_IPQ
from net_ground import IP_C, two_hosts

TRUESIZE = 1832


@pytest.fixture
def net():
    with two_hosts() as net:
        net.seen = listen(net.a)
        yield net


def play(net, *frames) -> None:
    for frame in frames:
        net.flood(frame)
        net.run(1)
        net.a.inet.frags.check()


def nothing_left(net) -> None:
    net.run(31_000)
    assert net.a.inet.frags.mem == 0
    assert net.a.inet.frags.queues == {}
    assert net.a.skbs.live == len(net.a.nic.rx.buffers)


def test_two_halves_make_a_packet(net):
    play(net, fragment(0, b"a" * 16), fragment(16, b"b" * 5, more=False))
    assert net.seen == [b"a" * 16 + b"b" * 5]
    nothing_left(net)


def test_order_does_not_matter(net):
    play(net, fragment(16, b"b" * 5, more=False), fragment(8, b"c" * 8), fragment(0, b"a" * 8))
    assert net.seen == [b"a" * 8 + b"c" * 8 + b"b" * 5]


def test_a_hole_is_waited_for(net):
    play(net, fragment(0, b"a" * 8), fragment(16, b"b" * 5, more=False))
    assert net.seen == []
    play(net, fragment(8, b"c" * 8))
    assert net.seen == [b"a" * 8 + b"c" * 8 + b"b" * 5]


@pytest.mark.parametrize("other", [{"ident": 8}, {"proto": 254}, {"saddr": IP_C}])
def test_datagrams_are_told_apart(net, other):
    play(net, fragment(0, b"a" * 8), fragment(8, b"b" * 8, more=False, **other))
    assert net.seen == []
    assert len(net.a.inet.frags.queues) == 2


def test_whoever_asks_has_queues_of_his_own(net):
    frags = net.a.inet.frags
    net.a.inet.input.frags = None
    taken = []
    net.a.inet.input.frags = type("Two", (), {"ip_defrag": lambda _self, skb, user: taken.append((skb, user))})()
    play_raw = [fragment(0, b"a" * 8), fragment(8, b"b" * 8, more=False)]
    for frame in play_raw:
        net.flood(frame)
    net.run(1)
    (first, _), (second, _) = taken
    assert frags.ip_defrag(first, 0) is None
    assert frags.ip_defrag(second, IP_DEFRAG_CONNTRACK_IN) is None
    assert len(frags.queues) == 2
    net.a.inet.input.frags = frags


def test_memory_is_truesize_and_the_queue(net):
    play(net, fragment(0, b"a" * 8), fragment(64, b"a" * 8))
    assert net.a.inet.frags.mem == 2 * TRUESIZE + SIZEOF_IPQ
    assert net.a.in_use("kmalloc-192") >= 1


def test_the_head_carries_the_others_and_their_truesize(net):
    heads = []
    net.a.inet.inet_add_protocol(PROTO, lambda skb: heads.append((skb.truesize, skb.len, skb.data_len, net.a.skbs.kfree_skb(skb))))
    play(net, fragment(0, b"a" * 16), fragment(16, b"b" * 16), fragment(32, b"c" * 5, more=False))
    assert heads == [(3 * TRUESIZE, 37, 21, None)]


def test_a_fragment_that_is_not_the_last_is_cut_to_eights(net):
    play(net, fragment(0, b"a" * 13), fragment(8, b"b" * 5, more=False))
    assert net.seen == [b"a" * 8 + b"b" * 5]


@pytest.mark.parametrize("payload", [b"", b"a" * 7])
def test_a_fragment_of_nothing_is_refused(net, payload):
    play(net, fragment(8, payload))
    assert net.a.stats.ignored["fragment: refused"] == 1
    nothing_left(net)


def test_a_second_end_elsewhere_is_refused(net):
    play(net, fragment(16, b"b" * 5, more=False), fragment(16, b"c" * 6, more=False), fragment(8, b"d" * 5, more=False))
    assert net.a.stats.ignored["fragment: refused"] == 2


def test_bits_beyond_the_end_are_refused(net):
    play(net, fragment(16, b"b" * 8, more=False), fragment(24, b"c" * 8))
    assert net.a.stats.ignored["fragment: refused"] == 1


def test_an_end_before_what_is_here_is_refused(net):
    play(net, fragment(32, b"b" * 8), fragment(16, b"c" * 8, more=False))
    assert net.a.stats.ignored["fragment: refused"] == 1


def test_the_predecessor_keeps_its_bytes(net):
    play(net, fragment(0, b"a" * 16), fragment(8, b"b" * 16, more=False))
    assert net.seen == [b"a" * 16 + b"b" * 8]


def test_the_successor_loses_its_head(net):
    play(net, fragment(8, b"b" * 16, more=False), fragment(0, b"a" * 16))
    assert net.seen == [b"a" * 16 + b"b" * 8]


def test_what_is_covered_goes(net):
    play(net, fragment(8, b"b" * 8), fragment(24, b"z" * 8, more=False), fragment(0, b"a" * 24))
    assert net.seen == [b"a" * 24 + b"z" * 8]
    nothing_left(net)


def test_teardrop(net):
    """The second fragment ends inside the first: nothing of it is left, and nothing goes wrong."""
    play(net, fragment(0, b"a" * 40), fragment(24, b"b" * 8, more=True))
    assert net.a.stats.ignored["fragment: refused"] == 1
    nothing_left(net)


def test_a_packet_above_64k_is_dropped(net):
    """Ping of death: the last fragment ends beyond what a length can say."""
    for offset in range(0, 65504, 1480):
        play(net, fragment(offset, b"x" * min(1480, 65504 - offset)))
    play(net, fragment(65504, b"x" * 1400, more=False))
    assert net.seen == []
    assert net.a.inet.frags.reasm_fails == 1
    nothing_left(net)


def test_the_largest_packet_there_is(net):
    data = random.Random(1).randbytes(65515)
    for offset in range(0, 65515, 1480):
        play(net, fragment(offset, data[offset : offset + 1480], more=offset + 1480 < 65515))
    assert net.seen == [data]


def icmp_errors(net) -> list[bytes]:
    return listen(net.b, 1)


def test_after_thirty_seconds_the_sender_is_told(net):
    errors = icmp_errors(net)
    play(net, fragment(0, b"a" * 16))
    net.run(29_900)
    assert net.a.inet.frags.queues
    net.run(1_000)
    assert [message[:2] for message in errors] == [b"\x0b\x01"]
    assert errors[0][8 + 20 :] == b"a" * 16
    assert net.a.inet.frags.reasm_timeout == 1
    nothing_left(net)


def test_without_the_first_fragment_nobody_is_told(net):
    errors = icmp_errors(net)
    play(net, fragment(8, b"a" * 16))
    nothing_left(net)
    assert errors == []


def test_the_timer_does_not_begin_anew(net):
    play(net, fragment(0, b"a" * 16))
    net.run(20_000)
    play(net, fragment(32, b"a" * 16))
    net.run(11_000)
    assert net.a.inet.frags.queues == {}


def test_the_evictor_works_from_high_to_low_and_takes_the_oldest(net):
    frags = net.a.inet.frags
    frags.high_thresh, frags.low_thresh = 10 * (TRUESIZE + SIZEOF_IPQ), 5 * (TRUESIZE + SIZEOF_IPQ)
    play(net, *(fragment(0, b"a" * 8, ident=number) for number in range(11)))
    assert (len(frags.queues), frags.evicted) == (11, 0)
    play(net, fragment(16, b"b" * 8, ident=0))  # above: six go, and of the first datagram this one begins anew
    assert [int.from_bytes(key[0], "big") for key in frags.queues] == [6, 7, 8, 9, 10, 0]
    assert frags.evicted == frags.reasm_fails == 6


def test_a_fragment_makes_its_datagram_young(net):
    frags = net.a.inet.frags
    play(net, fragment(0, b"a" * 8, ident=1), fragment(0, b"a" * 8, ident=2), fragment(16, b"a" * 8, ident=1))
    assert [int.from_bytes(key[0], "big") for key in frags.queues] == [2, 1]


def test_too_many_other_fragments_between_begin_a_datagram_anew(net):
    play(net, fragment(0, b"old!" * 2, ident=1))
    for number in range(65):
        play(net, fragment(0, b"a" * 8, ident=100 + number))
    play(net, fragment(8, b"b" * 8, ident=1, more=False))
    assert net.seen == []
    play(net, fragment(0, b"new!" * 2, ident=1))
    assert net.seen == [b"new!" * 2 + b"b" * 8]


def test_max_dist_0_is_patient(net):
    assert net.a.kernel.sysctl.write("net.ipv4.ipfrag_max_dist", "0") == 0
    play(net, fragment(0, b"old!" * 2, ident=1), *(fragment(0, b"a" * 8, ident=100 + number) for number in range(65)))
    play(net, fragment(8, b"b" * 8, ident=1, more=False))
    assert net.seen == [b"old!" * 2 + b"b" * 8]
    assert net.a.kernel.sysctl.write("net.ipv4.ipfrag_max_dist", "-1") == -EINVAL


def test_tunables_read_back(net):
    for name, value in (("ipfrag_low_thresh", 1000), ("ipfrag_time", 5), ("ipfrag_secret_interval", 60), ("ipfrag_max_dist", 3)):
        assert net.a.kernel.sysctl.write(f"net.ipv4.{name}", str(value)) == 0
        assert net.a.kernel.sysctl.read(f"net.ipv4.{name}") == f"{value}\n"


def test_without_memory_for_a_queue_the_fragment_is_lost(net):
    net.a.inet.frags.slub = type("NoSlub", (), {"kmalloc": lambda *_: None})()
    play(net, fragment(0, b"a" * 8))
    assert net.a.stats.ignored["fragment: no memory"] == 1
    assert net.a.inet.frags.alloc_failed == 1


def test_options_of_the_first_fragment_stay(net):
    headers = []

    def rcv(skb):
        headers.append(skb.buf[skb.nh : skb.h])
        net.seen.append(skb_bytes(skb))
        net.a.skbs.kfree_skb(skb)

    net.a.inet.inet_add_protocol(PROTO, rcv)
    play(net, fragment(8, b"b" * 8, more=False), fragment(0, b"a" * 8, options=b"\1\1\1\0"))
    (header,) = headers
    assert net.seen == [b"a" * 8 + b"b" * 8]
    assert (header[0], header[2:4], header[6:8], header[20:]) == (0x46, (24 + 16).to_bytes(2, "big"), b"\0\0", b"\1\1\1\0")


def test_a_packet_split_card_cuts_fragments_too():
    data = random.Random(2).randbytes(4000)
    with two_hosts(packet_split=True) as net:
        seen = listen(net.a)
        for offset, size in ((0, 1480), (1200, 1480), (2400, 1480)):
            play(net, fragment(offset, data[offset : offset + size]))
        play(net, fragment(3800, data[3800:], more=False))
        play(net, fragment(3600, data[3600:3900]))
        assert seen == [data]
        nothing_left(net)


def test_closing_frees_what_waits(net):
    play(net, fragment(0, b"a" * 8))
    net.a.inet.close()
    assert net.a.inet.frags.mem == 0
    assert net.a.in_use("inet_peer_cache") == 0


def test_check_finds_a_wrong_account(net):
    net.a.inet.frags.mem += 1
    with pytest.raises(KernelBug, match="fragments: 1 bytes counted"):
        net.a.inet.frags.check()
    net.a.inet.frags.mem = 0


def test_a_queue_says_how_far_it_is(net):
    play(net, fragment(0, b"a" * 8))
    (queue,) = net.a.inet.frags.queues.values()
    assert repr(queue).endswith(" 8 of ? bytes>")


def test_the_table_says_what_became_of_all(net):
    play(net, fragment(0, b"a" * 8), fragment(8, b"b", more=False), fragment(0, b"a" * 8, ident=9))
    counts = "ReasmReqds 3 ReasmOKs 1 ReasmFails 0 ReasmTimeout 0"
    assert repr(net.a.inet.frags) == f"<1 datagrams in {TRUESIZE + SIZEOF_IPQ} bytes, {counts}>"


@st.composite
def splits(draw):
    """Fragments of one datagram, overlapping, in any order, some twice, some lost, with bytes that tell them apart."""
    size = draw(st.integers(1, 160))
    pieces = []
    for number in range(draw(st.integers(1, 9))):
        start = draw(st.integers(0, (size - 1) // 8)) * 8
        length = draw(st.integers(1, size - start))
        more = start + length < size or draw(st.integers(0, 9)) == 0
        pieces.append((start, bytes((number + 1,)) * length, more))
    if draw(st.booleans()):
        pieces.append((0, b"\xff" * size, False) if size < 100 else (0, b"\xff" * 80, True))
    return draw(st.permutations(pieces))


@settings(max_examples=50, deadline=None)
@given(splits())
def test_any_overlaps_come_out_as_the_rule_of_trimming_says(pieces):
    model = Model()
    expected = []
    with two_hosts() as net:
        seen = listen(net.a)
        for offset, payload, more in pieces:
            whole = model.add(offset, payload, more)
            if whole is not None:
                expected.append(whole)
            play(net, fragment(offset, payload, more=more))
        assert seen == expected
        nothing_left(net)
        assert net.a.in_use("kmalloc-192") == 0


def test_a_flood_of_first_fragments_from_many_leaves_nothing(net):
    for number in range(300):
        play(net, fragment(0, b"a" * 8, ident=number, saddr=0x0A000010 + number % 40))
    assert net.a.inet.frags.evicted
    net.run(40_000)  # the errors to all of them wait for neighbours that do not exist
    nothing_left(net)
    net.run(800_000)
    assert net.a.in_use("inet_peer_cache") == 0
