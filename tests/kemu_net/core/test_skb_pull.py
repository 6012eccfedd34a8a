"""Pulling, trimming and straightening packets whose bytes lie in pages and in other packets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.mm.gfp import GFP_ATOMIC, PAGE_SIZE
from kemu_net.core.skb_trim import pskb_may_pull, pskb_pull, pskb_trim, skb_linearize
from kemu_net.core.skbuff import skb_bytes, skb_linear, skb_put_bytes
from net_ground import filled, one_host, with_page


@pytest.fixture
def host():
    with one_host() as host:
        yield host


def free(host, *packets):
    for skb in packets:
        host.skbs.kfree_skb(skb)
    assert (host.skbs.live, host.usage, host.in_use("skbuff_head_cache")) == (0, 0, 0)


def chained(host, *pieces: bytes):
    """Make a packet whose second and later pieces are packets of its fragment list."""
    skb, *children = (filled(host.skbs, piece) for piece in pieces)
    skb.frag_list = children[0]
    for child, following in pairwise(children):
        child.next = following
    for child in children:
        skb.len += child.len
        skb.data_len += child.len
        skb.truesize += child.truesize
    return skb


def emergency(host, contents: bytes):
    """Take an emergency packet with four bytes in its area and the rest in a page of the reserve."""
    host.swap_over_network()
    host.hog()
    skb = host.skbs.netdev_alloc_skb(host.nic, 128)
    assert skb.emergency
    skb_put_bytes(skb, b"head")
    page = host.skbs.netdev_alloc_page(host.nic)
    page.contents = contents.ljust(PAGE_SIZE, b"\0")
    host.skbs.skb_add_rx_frag(skb, 0, page, 0, len(contents))
    return skb


def test_what_is_linear_already_is_not_moved(host):
    skb, page = with_page(host, b"head", b"tail")
    assert pskb_may_pull(host.skbs, skb, 4)
    assert (skb_linear(skb), skb.frags) == (b"head", [(page, 0, 4)])
    free(host, skb)


def test_bytes_of_a_page_are_fetched(host):
    skb, page = with_page(host, b"head", b"tail")
    assert pskb_may_pull(host.skbs, skb, 6)
    assert (skb_linear(skb), skb.frags, skb.data_len, skb.len) == (b"headta", [(page, 2, 2)], 2, 8)
    free(host, skb)


def test_a_page_that_is_used_up_is_put_back(host):
    skb, page = with_page(host, b"head", b"tail")
    page.count += 1
    assert pskb_may_pull(host.skbs, skb, 8)
    assert (page.count, skb.frags, skb.data_len) == (1, None, 0)
    host.page_alloc.put_page(page)
    free(host, skb)


@pytest.mark.parametrize("pull", [pskb_may_pull, pskb_pull])
def test_more_than_there_is_is_refused(host, pull):
    skb, _page = with_page(host, b"head", b"tail")
    assert not pull(host.skbs, skb, 9)
    assert skb_bytes(skb) == b"headtail"
    free(host, skb)


def test_what_has_no_room_gets_a_larger_area(host):
    skb, _page = with_page(host, b"head", bytes(range(200)))
    skb.reserved = skb.end - 4
    before = skb.end
    assert pskb_may_pull(host.skbs, skb, 104)
    assert skb.end >= before + 100
    assert skb_linear(skb) == b"head" + bytes(range(100))
    free(host, skb)


def test_a_clone_keeps_its_pages_when_the_other_is_pulled(host):
    skb, page = with_page(host, b"head", b"tail")
    clone = host.skbs.skb_clone(skb, GFP_ATOMIC)
    assert pskb_may_pull(host.skbs, skb, 8)
    assert (clone.frags, skb_bytes(clone)) == ([(page, 0, 4)], b"headtail")
    free(host, clone, skb)


@pytest.mark.parametrize("pull", [pskb_may_pull, pskb_pull])
def test_a_fragment_list_is_straightened_to_be_pulled(host, pull):
    skb = chained(host, b"one", b"two", b"three")
    whole = skb_bytes(skb)
    assert pull(host.skbs, skb, 5)
    assert (skb.frag_list, skb.data_len) == (None, 0)
    assert whole.endswith(skb_linear(skb))
    free(host, skb)


def test_straightening_what_is_straight_costs_nothing(host):
    skb = filled(host.skbs, b"data")
    head = skb.head
    assert skb_linearize(host.skbs, skb)
    assert skb.head == head
    free(host, skb)


def test_straightening_frees_pages_and_list(host):
    skb = chained(host, b"one", b"two")
    assert skb_linearize(host.skbs, skb)
    assert (skb_linear(skb), host.skbs.live) == (b"onetwo", 1)
    free(host, skb)


def test_a_straightened_emergency_packet_pays_for_its_area_only(host):
    skb = emergency(host, b"p" * 600)
    assert skb_linearize(host.skbs, skb)
    assert host.usage == host.skbs.charged(skb)
    assert skb_linear(skb) == b"head" + b"p" * 600
    free(host, skb)


def test_a_page_of_an_emergency_packet_that_is_trimmed_away_is_uncharged(host):
    skb = emergency(host, b"p" * 600)
    assert pskb_trim(host.skbs, skb, 4)
    assert host.usage == host.skbs.charged(skb)
    free(host, skb)


def test_a_pulled_emergency_page_is_uncharged_when_it_is_used_up(host):
    skb = emergency(host, b"p" * 40)
    assert pskb_may_pull(host.skbs, skb, 44)
    assert host.usage == host.skbs.charged(skb)
    free(host, skb)


@pytest.mark.parametrize("change", [lambda skbs, skb: pskb_may_pull(skbs, skb, 8), lambda skbs, skb: pskb_trim(skbs, skb, 6)])
def test_without_memory_a_shared_packet_stays_as_it_was(host, change):
    skb, _page = with_page(host, b"head", b"tail")
    clone = host.skbs.skb_clone(skb, GFP_ATOMIC)
    host.hog()
    assert not change(host.skbs, skb)
    assert skb_bytes(skb) == skb_bytes(clone) == b"headtail"
    for packet in (skb, clone):
        host.skbs.kfree_skb(packet)


def test_without_memory_a_packet_is_not_straightened(host):
    skb = chained(host, b"one", b"two")
    host.hog()
    assert not skb_linearize(host.skbs, skb)
    assert skb_bytes(skb) == b"onetwo"
    host.skbs.kfree_skb(skb)


def test_trimming_a_list_leaves_other_holders_what_they_had(host):
    skb = chained(host, b"one", b"two", b"three")
    copy = host.skbs.pskb_copy(skb, GFP_ATOMIC)
    assert pskb_trim(host.skbs, skb, 8)
    assert (skb_bytes(skb), skb_bytes(copy)) == (b"onetwoth", b"onetwothree")
    free(host, skb, copy)


def test_without_memory_a_shared_list_is_not_trimmed(host):
    skb = chained(host, b"one", b"two", b"three")
    copy = host.skbs.pskb_copy(skb, GFP_ATOMIC)
    host.hog()
    assert not pskb_trim(host.skbs, skb, 8)
    assert skb_bytes(skb) == skb_bytes(copy) == b"onetwothree"
    for packet in (skb, copy):
        host.skbs.kfree_skb(packet)
    assert host.skbs.live == 0


PIECES = st.lists(st.binary(min_size=1, max_size=90), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(pieces=PIECES, page=st.binary(max_size=200), cut=st.integers(0, 700), clone=st.booleans())
def test_a_trimmed_packet_is_the_start_of_what_it_was(pieces, page, cut, clone):
    with one_host() as host:
        skb = chained(host, *pieces)
        if page:
            ours = host.skbs.netdev_alloc_page(None)
            ours.contents = page.ljust(PAGE_SIZE, b"\0")
            host.skbs.skb_add_rx_frag(skb, 0, ours, 0, len(page))
        whole = pieces[0] + page + b"".join(pieces[1:])
        other = host.skbs.skb_clone(skb, GFP_ATOMIC) if clone else None
        assert pskb_trim(host.skbs, skb, cut)
        assert skb_bytes(skb) == whole[:cut]
        assert skb.len == min(cut, len(whole))
        if other is not None:
            assert skb_bytes(other) == whole
            host.skbs.kfree_skb(other)
        free(host, skb)


@settings(max_examples=40, deadline=None)
@given(pieces=PIECES, listed=st.booleans(), count=st.integers(0, 400), clone=st.booleans())
def test_a_pulled_packet_is_the_end_of_what_it_was(pieces, listed, count, clone):
    with one_host() as host:
        if listed:
            skb, whole = chained(host, *pieces), b"".join(pieces)
        else:
            skb, whole = with_page(host, pieces[0], pieces[1])[0], pieces[0] + pieces[1]
        other = host.skbs.skb_clone(skb, GFP_ATOMIC) if clone else None
        assert pskb_pull(host.skbs, skb, count) == (count <= len(whole))
        assert skb_bytes(skb) == (whole[count:] if count <= len(whole) else whole)
        if other is not None:
            assert skb_bytes(other) == whole
            host.skbs.kfree_skb(other)
        free(host, skb)
