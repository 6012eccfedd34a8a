"""Cutting a packet into segments."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu_net.core.skb_segment import skb_segment
from kemu_net.core.skbuff import skb_bytes, skb_put_bytes
from net_ground import filled, one_host, with_page


@settings(max_examples=40, deadline=None)
@given(linear=st.integers(4, 300), page=st.integers(0, 3000), size=st.integers(1, 1500))
def test_the_segments_are_the_packet(linear, page, size):
    with one_host() as host:
        payload = bytes(index % 251 for index in range(linear + page))
        if page:
            skb, _page = with_page(host, payload[:linear], payload[linear:])
        else:
            skb = filled(host.skbs, payload)
        segments = skb_segment(host.skbs, skb, 4, size)
        assert all(skb_bytes(piece)[:4] == payload[:4] for piece in segments)
        assert b"".join(skb_bytes(piece, 4) for piece in segments) == payload[4:]
        assert all(piece.len <= 4 + size for piece in segments)
        assert all(piece.len - piece.data_len == len(piece.buf) for piece in segments)
        for piece in (skb, *segments):
            host.skbs.kfree_skb(piece)


def test_pages_are_shared_and_counted():
    with one_host() as host:
        skb, page = with_page(host, b"head", b"p" * 3000)
        segments = skb_segment(host.skbs, skb, 4, 1000)
        assert page.count == 1 + 3
        assert [piece.truesize - piece.end - 232 for piece in segments] == [1000] * 3
        for piece in (*segments, skb):
            host.skbs.kfree_skb(piece)


def test_a_fragment_list_is_copied():
    with one_host() as host:
        skb = filled(host.skbs, b"head")
        skb.frag_list = filled(host.skbs, b"tail" * 10)
        skb.len += 40
        skb.data_len += 40
        segments = skb_segment(host.skbs, skb, 4, 16)
        assert b"".join(skb_bytes(piece, 4) for piece in segments) == b"tail" * 10
        for piece in (*segments, skb):
            host.skbs.kfree_skb(piece)


def test_segments_of_an_emergency_packet_are_charged_and_uncharged():
    with one_host() as host:
        host.swap_over_network()
        host.hog()
        skb = host.skbs.netdev_alloc_skb(host.nic, 1536)
        skb_put_bytes(skb, b"x" * 1004)
        usage = host.usage
        segments = skb_segment(host.skbs, skb, 4, 500)
        assert [piece.emergency for piece in segments] == [1, 1]
        assert host.usage > usage
        for piece in (*segments, skb):
            host.skbs.kfree_skb(piece)
        assert host.usage == 0


def test_without_memory_for_one_there_is_none():
    with one_host(patches="none") as host:
        skb = filled(host.skbs, b"x" * 1004)
        host.hog()
        assert skb_segment(host.skbs, skb, 4, 500) is None
        assert host.skbs.live == 1
        host.skbs.kfree_skb(skb)


@pytest.mark.parametrize(("header", "size"), [(1005, 100), (4, 0)])
def test_impossible_cuts_are_bugs(header, size):
    with one_host() as host:
        skb = filled(host.skbs, b"x" * 1004)
        with pytest.raises(KernelBug, match="skb_segment"):
            skb_segment(host.skbs, skb, header, size)
        host.skbs.kfree_skb(skb)
