"""Socket buffers as data: lengths, headers, fragments."""

from __future__ import annotations

import pytest

from kemu.mm.gfp import GFP_ATOMIC, PAGE_SIZE
from kemu_net.core.skbuff import SKB_DATA_ALIGN, skb_bytes, skb_headlen, skb_linear, skb_pull, skb_push, skb_put_bytes, skb_trim
from net_ground import filled, one_host, with_page

pytestmark = pytest.mark.keeps_skbs("the tests hold skbs in their hands")


@pytest.fixture
def host():
    with one_host() as host:
        yield host


@pytest.fixture
def skbs(host):
    return host.skbs


@pytest.mark.parametrize(("size", "aligned"), [(1, 64), (64, 64), (65, 128), (1552, 1600), (2066, 2112)])
def test_data_is_aligned_to_cache_lines(size, aligned):
    assert SKB_DATA_ALIGN(size) == aligned


def test_push_puts_a_header_before_the_data(skbs):
    skb = filled(skbs, b"payload")
    skb_push(skb, b"head")
    assert (skb.len, skb_linear(skb)) == (11, b"headpayload")


def test_pull_refuses_more_than_there_is(skbs):
    skb = filled(skbs, b"1234")
    assert not skb_pull(skb, 5)
    assert skb_pull(skb, 3)
    assert skb_linear(skb) == b"4"


def test_trim_cuts_a_linear_skb(skbs):
    skb = filled(skbs, b"1234")
    skb_trim(skb, 2)
    assert skb_bytes(skb) == b"12"


def test_put_appends_behind_pulled_data(skbs):
    skb = filled(skbs, b"abcd")
    skb_pull(skb, 2)
    skb_put_bytes(skb, b"ef")
    assert skb_linear(skb) == b"cdef"


def test_a_fragment_is_read_when_somebody_looks(host):
    skb, page = with_page(host, b"", b"old")
    page.contents = b"new".ljust(PAGE_SIZE, b"\0")
    assert skb_bytes(skb) == b"new"


def test_a_page_without_contents_is_zero(host):
    skb, page = with_page(host, b"x", b"yy")
    page.contents = None
    assert skb_bytes(skb) == b"x\0\0"


def test_headlen_does_not_count_fragments(host):
    skb, _page = with_page(host, b"head", b"body")
    assert (skb.len, skb.data_len, skb_headlen(skb)) == (8, 4, 4)


def test_an_skb_says_what_it_is(skbs):
    assert "len 0" in repr(skbs.alloc_skb(1, GFP_ATOMIC))


def test_trim_spares_fragments_and_shorter_packets(host):
    skb, _page = with_page(host, b"head", b"body")
    skb_trim(skb, 2)
    assert skb.len == 8
    short = filled(host.skbs, b"1234")
    skb_trim(short, 10)
    assert skb_bytes(short) == b"1234"
