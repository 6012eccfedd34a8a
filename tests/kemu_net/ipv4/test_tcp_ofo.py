"""Segments that came too early: SACK blocks, D-SACK, overlaps, and the stream that is read in the end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcp_ground import ACK, FIN, M32, PSH, flags_of, one_tcp, state
from tcp_options_ground import opened, options_of, ts


def sacks(segs, peer=None):
    """Give the blocks of the last segment, relative to the peer's first byte."""
    blocks = options_of(segs[-1]).get("sack", [])
    return [(start - peer.base & M32, end - peer.base & M32) for start, end in blocks] if peer else blocks


def connection(host, **options):
    sk, peer = opened(host, **options)
    peer.base = peer.seq
    return sk, peer


def put(peer, start, end, *, options=b"", byte=None):
    """Send bytes ``start`` to ``end`` of the stream, whose n-th byte is n modulo 251."""
    data = bytes((n % 251 if byte is None else byte) for n in range(start, end))
    return peer.send(ACK, data, seq=peer.base + start, options=options)


def test_the_first_gap_is_told_at_once():
    with one_tcp() as host:
        _sk, peer = connection(host)
        answer = put(peer, 100, 200)
        assert sacks(answer, peer) == [(100, 200)]
        assert answer[0].ack == peer.base


def test_the_newest_block_comes_first():
    with one_tcp() as host:
        _sk, peer = connection(host)
        put(peer, 100, 200)
        assert sacks(put(peer, 300, 400), peer) == [(300, 400), (100, 200)]
        assert sacks(put(peer, 500, 600), peer) == [(500, 600), (300, 400), (100, 200)]
        assert sacks(put(peer, 200, 250), peer) == [(100, 250), (500, 600), (300, 400)]


@pytest.mark.parametrize(("tsval", "count"), [(None, 4), (50, 3)])
def test_at_most_four_blocks_or_three_next_to_time_stamps(tsval, count):
    with one_tcp() as host:
        sk, peer = connection(host, tsval=tsval)
        options = b"" if tsval is None else ts(tsval)
        for n in range(1, 8):
            answer = put(peer, 200 * n, 200 * n + 100, options=options)
        assert sacks(answer, peer) == [(200 * n, 200 * n + 100) for n in range(7, 7 - count, -1)]
        assert len(answer[0].options) <= 40
        assert len(sk.selective_acks) == 4


def test_a_segment_between_two_blocks_joins_them():
    with one_tcp() as host:
        _sk, peer = connection(host)
        put(peer, 100, 200)
        put(peer, 300, 400)
        put(peer, 500, 600)
        assert sacks(put(peer, 200, 300), peer) == [(100, 400), (500, 600)]


def test_data_in_order_behind_a_gap_lets_the_block_grow():
    with one_tcp() as host:
        sk, peer = connection(host)
        put(peer, 100, 200)
        assert sacks(put(peer, 200, 300), peer) == [(100, 300)]
        assert len(sk.out_of_order_queue) == 2


def test_filling_the_gap_takes_the_block_away():
    with one_tcp() as host:
        sk, peer = connection(host)
        put(peer, 100, 200)
        put(peer, 300, 400)
        answer = put(peer, 0, 100)
        assert answer[-1].ack - peer.base & M32 == 200
        assert sacks(answer, peer) == [(300, 400)]
        answer = put(peer, 200, 300)
        assert "sack" not in options_of(answer[-1])
        assert not sk.selective_acks
        assert host.tcp.recvmsg(sk, 1000) == bytes(n % 251 for n in range(400))


def test_without_permission_no_block_is_sent():
    with one_tcp() as host:
        sk, peer = connection(host, sack=False)
        answer = put(peer, 100, 200)
        assert flags_of(answer) == [ACK]
        assert answer[0].options == b""
        assert put(peer, 0, 50) is not None
        put(peer, 50, 100)
        assert host.tcp.recvmsg(sk, 1000) == bytes(range(200))


# what came twice


def test_an_old_segment_is_told_once():
    with one_tcp() as host:
        _sk, peer = connection(host)
        put(peer, 0, 100)
        answer = put(peer, 0, 100)
        assert sacks(answer, peer) == [(0, 100)]
        assert answer[-1].ack - peer.base & M32 == 100
        assert "sack" not in options_of(put(peer, 100, 200)[-1])


def test_an_old_segment_outside_the_window_is_told_as_far_as_it_is_old():
    with one_tcp() as host:
        sk, peer = connection(host)
        put(peer, 0, 100)
        host.run(1000)
        host.sent()
        (ack,) = peer.send(ACK, bytes(50), seq=peer.base - 20)
        assert sacks([ack], peer) == [((-20) & M32, 30)]
        assert sk.rcv_nxt - peer.base & M32 == 100


def test_a_partial_overlap_tells_the_old_part():
    with one_tcp() as host:
        sk, peer = connection(host)
        put(peer, 0, 100)
        assert sacks(put(peer, 50, 150), peer) == [(50, 100)]
        assert sk.rcv_nxt - peer.base & M32 == 150


def test_a_duplicate_behind_a_gap_is_told_before_its_block():
    with one_tcp() as host:
        _sk, peer = connection(host)
        put(peer, 100, 300)
        assert sacks(put(peer, 150, 250), peer) == [(150, 250), (100, 300)]
        assert sacks(put(peer, 250, 400), peer) == [(250, 300), (100, 400)]


def test_a_segment_that_covers_others_tells_the_first_of_them():
    with one_tcp() as host:
        sk, peer = connection(host)
        put(peer, 100, 200)
        put(peer, 300, 400)
        answer = put(peer, 50, 500)
        assert sacks(answer, peer) == [(100, 200), (50, 500)]
        assert len(sk.out_of_order_queue) == 1


def test_the_same_start_and_more_replaces_the_shorter():
    with one_tcp() as host:
        sk, peer = connection(host)
        put(peer, 100, 200)
        assert sacks(put(peer, 100, 300), peer) == [(100, 200), (100, 300)]
        assert len(sk.out_of_order_queue) == 1


def test_dsack_can_be_switched_off():
    with one_tcp() as host:
        host.tcp.sysctl_tcp_dsack = 0
        _sk, peer = connection(host)
        put(peer, 0, 100)
        assert "sack" not in options_of(put(peer, 0, 100)[-1])


def test_a_fin_behind_a_gap_waits_for_it():
    with one_tcp() as host:
        sk, peer = connection(host)
        peer.send(ACK | FIN, b"end", seq=peer.base + 5)
        assert state(sk) == "ESTABLISHED"
        peer.send(ACK | PSH, b"begin", seq=peer.base)
        assert state(sk) == "CLOSE_WAIT"
        assert host.tcp.recvmsg(sk, 100) == b"beginend"
        assert host.tcp.recvmsg(sk, 100) == b""


def test_a_fin_in_order_drops_what_lies_behind_it():
    with one_tcp() as host:
        sk, peer = connection(host)
        put(peer, 500, 600)
        peer.send(ACK | FIN, b"all", seq=peer.base)
        assert not sk.out_of_order_queue
        assert not sk.selective_acks
        assert sk.rx_opt.num_sacks == 0


def test_pruning_forgets_the_blocks():
    with one_tcp() as host:
        sk, peer = connection(host)
        put(peer, 100, 200)
        put(peer, 300, 400)
        host.tcp.tcp_purge_ofo_queue(sk)
        assert "sack" not in options_of(put(peer, 0, 100)[-1])


# all of it


@st.composite
def deliveries(draw):
    """Segments of one stream: it is cut at random twice, so that pieces overlap; some come often; the order is any."""
    size = draw(st.integers(1, 3000))
    pieces = []
    for _ in range(2):
        cuts = sorted(draw(st.sets(st.integers(1, max(size - 1, 1)), max_size=8)) | {0, size})
        pieces += [(a, b) for a, b in pairwise(cuts) if a < b <= size]
    pieces += draw(st.lists(st.sampled_from(pieces), max_size=4))
    return size, draw(st.permutations(pieces)), draw(st.sampled_from((1000, M32 - 1500, M32 - 2))), draw(st.booleans())


@settings(max_examples=50, deadline=None)
@given(deliveries())
def test_any_order_gives_the_stream_and_blocks_tell_what_is_held(case):
    size, pieces, isn, stamps = case
    with one_tcp() as host:
        sk, peer = connection(host, isn=isn, tsval=50 if stamps else None)
        held: set[int] = set()
        got = b""
        for a, b in pieces:
            put(peer, a, b, options=ts(50) if stamps else b"")
            held.update(range(a, b))
            first = sk.rcv_nxt - peer.base & M32
            assert all(n in held for n in range(first))
            assert first not in held
            ofo = set()
            for skb in sk.out_of_order_queue:
                ofo.update(range(skb.seq - peer.base & M32, skb.end_seq - peer.base & M32))
            assert ofo == {n for n in held if n > first}
            told = [(start - peer.base & M32, end - peer.base & M32) for start, end in sk.selective_acks]
            for start, end in told:  # a block is all of a run without gaps
                assert ofo >= set(range(start, end))
                assert start - 1 not in ofo
                assert end not in ofo
            assert len(set(told)) == len(told)
            if ofo and a > first:
                assert told[0][0] <= a < told[0][1]
            assert bool(told) == bool(ofo)
            host.tcp.check()
        while len(got) < size:
            got += host.tcp.recvmsg(sk, 700)
        assert got == bytes(n % 251 for n in range(size))
        assert not sk.out_of_order_queue
        assert sk.sk_rmem_alloc == 0
        host.tcp.abort(sk)
        host.assert_nothing_left()
