"""A receive buffer that is too full: collapse and prune."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import skb_bytes
from kemu_net.core.sock import SOCK_RCVBUF_LOCK
from tcp_ground import ACK, FIN, M32, connected, one_tcp
from tcp_options_ground import opened


def text(start, end):
    return bytes(n % 251 for n in range(start, end))


def fill(peer, pieces):
    base = peer.seq
    for start, end in pieces:
        peer.send(ACK, text(start, end), seq=base + start)
    return base


def test_small_segments_are_copied_together():
    with one_tcp() as host:
        sk, peer = connected(host)
        fill(peer, [(n, n + 10) for n in range(0, 200, 10)])
        before = sk.sk_rmem_alloc
        kept = host.tcp.tcp_collapse(sk, list(sk.sk_receive_queue), sk.copied_seq, sk.rcv_nxt)
        sk.sk_receive_queue.clear()
        sk.sk_receive_queue.extend(kept)
        assert len(kept) == 1
        assert sk.sk_rmem_alloc < before // 10
        assert host.tcp.recvmsg(sk, 1000) == text(0, 200)
        host.check()


def test_a_copy_is_a_page_at_most():
    """2.6.23 takes the header from the page before it rounds, and so needs a second page for the rest of the rounding."""
    with one_tcp() as host:
        sk, peer = connected(host)
        fill(peer, [(n, n + 100) for n in range(0, 9000, 100)])
        kept = host.tcp.tcp_collapse(sk, list(sk.sk_receive_queue), sk.copied_seq, sk.rcv_nxt)
        sk.sk_receive_queue.clear()
        sk.sk_receive_queue.extend(kept)
        assert max(skb.len for skb in kept) == (4096 - 312 - (16 + 34 + 20)) // 64 * 64
        assert host.tcp.recvmsg(sk, 10_000) == text(0, 9000)


def test_a_segment_with_a_fin_is_left_alone():
    with one_tcp() as host:
        sk, peer = connected(host)
        fill(peer, [(0, 10), (10, 20)])
        peer.send(ACK | FIN, b"end", seq=peer.seq + 20)
        last = sk.sk_receive_queue[-1]
        kept = host.tcp.tcp_collapse(sk, list(sk.sk_receive_queue), sk.copied_seq, sk.rcv_nxt)
        sk.sk_receive_queue.clear()
        sk.sk_receive_queue.extend(kept)
        assert kept[-1] is last
        assert len(kept) == 2
        assert host.tcp.recvmsg(sk, 100) == text(0, 20) + b"end"


def test_without_memory_everything_stays():
    with one_tcp(mem=16 << 20) as host:
        sk, peer = connected(host)
        fill(peer, [(n, n + 10) for n in range(0, 100, 10)])
        before = list(sk.sk_receive_queue)
        host.skbs.alloc_skb = lambda *_args: None
        assert host.tcp.tcp_collapse(sk, before, sk.copied_seq, sk.rcv_nxt) == before


def test_what_was_read_is_not_copied():
    with one_tcp() as host:
        sk, peer = connected(host)
        fill(peer, [(0, 100), (100, 200)])
        assert host.tcp.recvmsg(sk, 60) == text(0, 60)
        host.tcp.tcp_prune_queue(sk)
        assert [skb.len for skb in sk.sk_receive_queue] == [140]
        assert host.tcp.recvmsg(sk, 1000) == text(60, 200)


def test_runs_behind_different_gaps_are_not_joined():
    with one_tcp() as host:
        sk, peer = opened(host)
        base = fill(peer, [(100, 110), (110, 120), (300, 310), (310, 320)])
        host.tcp.tcp_prune_queue(sk)
        assert [(skb.seq - base & M32, skb.end_seq - base & M32) for skb in sk.out_of_order_queue] == [(100, 120), (300, 320)]
        host.check()


def test_the_buffer_grows_with_what_it_holds_if_nobody_fixed_it():
    with one_tcp() as host:
        sk, peer = connected(host)
        fill(peer, [(0, 1000)])
        sk.sk_rcvbuf = 500
        host.tcp.tcp_clamp_window(sk)
        assert sk.sk_rcvbuf == sk.sk_rmem_alloc
        sk.sk_rcvbuf = 500
        sk.sk_userlocks = SOCK_RCVBUF_LOCK
        host.tcp.tcp_clamp_window(sk)
        assert sk.sk_rcvbuf == 500
        assert sk.rcv_ssthresh <= 2 * sk.advmss


def test_a_full_buffer_drops_what_came_too_early_and_its_blocks():
    with one_tcp() as host:
        sk, peer = opened(host)
        fill(peer, [(2000, 3000)])
        assert sk.selective_acks
        sk.sk_userlocks = SOCK_RCVBUF_LOCK
        sk.sk_rcvbuf = 100
        assert host.tcp.tcp_prune_queue(sk) == 0
        assert not sk.out_of_order_queue
        assert not sk.selective_acks
        assert sk.sk_rmem_alloc == 0


def test_when_only_the_sender_can_help_prediction_ends():
    with one_tcp() as host:
        sk, peer = opened(host)
        fill(peer, [(0, 1000)])
        sk.sk_userlocks = SOCK_RCVBUF_LOCK
        sk.sk_rcvbuf = 100
        assert host.tcp.tcp_prune_queue(sk) == -1
        assert sk.pred_flags == 0


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 5999), max_size=20),
    overlap=st.integers(0, 400),
    read=st.integers(0, 3000),
    hole=st.booleans(),
    memory=st.integers(0, 5),
)
def test_collapsing_never_changes_the_stream(cuts, overlap, read, hole, memory):
    with one_tcp() as host:
        sk, peer = opened(host)
        edges = [0, *sorted(cuts), 6000]
        pieces = [(max(a - overlap, 0), b) for a, b in pairwise(edges)]
        pieces = [(a, min(b, a + 1460)) for a, b in pieces]
        base = peer.seq
        shift = 1 if hole else 0
        for a, b in pieces:
            peer.send(ACK, text(a, b), seq=base + a + shift)
        have = sk.rcv_nxt - base & M32
        read = len(host.tcp.recvmsg(sk, min(read, have))) if read and have else 0
        real, left = host.skbs.alloc_skb, [memory]

        def alloc(size, gfp=GFP_ATOMIC, *args):
            left[0] -= 1
            return real(size, gfp, *args) if left[0] >= 0 else None

        ofo = [skb_bytes(skb) for skb in sk.out_of_order_queue]
        host.skbs.alloc_skb = alloc
        sk.sk_rcvbuf = 1 << 20
        host.tcp.tcp_prune_queue(sk)
        host.skbs.alloc_skb = real
        host.tcp.check()
        assert bool(sk.out_of_order_queue) == bool(ofo)
        for skb in sk.out_of_order_queue:
            start = (skb.seq - base & M32) - shift
            assert skb_bytes(skb) == text(start, start + skb.len)
        if have - read > 0:
            assert host.tcp.recvmsg(sk, 10_000) == text(read, have)
        host.tcp.abort(sk)
        host.assert_nothing_left()


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_the_receive_buffer_has_room_for_four_segments(mtu):
    with one_tcp(mtu=mtu) as host:
        sk, _peer = opened(host)
        assert sk.sk_rcvbuf - (sk.sk_rcvbuf >> 2) >= 4 * sk.advmss
