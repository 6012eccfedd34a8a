"""Pages of received packets: references, limits and charges."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_ATOMIC, GFP_KERNEL, PAGE_SIZE
from kemu_net.core.skbuff import MAX_SKB_FRAGS, skb_bytes
from net_ground import filled, one_host, with_page


@pytest.fixture
def host():
    with one_host() as host:
        yield host


@pytest.mark.keeps_skbs("the test holds skbs in its hands")
def test_a_packet_has_at_most_18_fragments(host):
    skb = filled(host.skbs, b"head")
    page = host.page_alloc.alloc_pages(GFP_KERNEL, 0)
    for i in range(MAX_SKB_FRAGS):
        page.count += 1
        host.skbs.skb_add_rx_frag(skb, i, page, i, 1)
    with pytest.raises(KernelBug, match="fragment 18 of 18"):
        host.skbs.skb_add_rx_frag(skb, MAX_SKB_FRAGS, page, 0, 1)
    assert (len(skb.frags), skb.data_len, skb.truesize) == (18, 18, 64 + 232 + 18)


def test_the_page_of_a_fragment_is_held_once_and_freed_with_the_packet(host):
    skb, page = with_page(host, b"head", b"body")
    assert page.count == 1
    host.skbs.kfree_skb(skb)
    assert page.count == 0


def test_a_reference_outlives_the_packet(host):
    skb, page = with_page(host, b"head", b"body")
    host.skbs.skb_get_page(skb, page)
    host.skbs.kfree_skb(skb)
    assert page.count == 1
    host.page_alloc.put_page(page)
    assert page.count == 0


@pytest.mark.parametrize("patches", ["all", "all,-14,-19", "none"])
def test_a_page_in_a_normal_packet_carries_no_tag(patches):
    """The union word is the packet's afterwards, so the allocator's tag may not stay in it."""
    with one_host(patches=patches) as host:
        skb = filled(host.skbs, b"head")
        page = host.page_alloc.alloc_pages(GFP_KERNEL, 0)
        host.skbs.skb_add_rx_frag(skb, 0, page, 0, 10)
        assert page.word_d == 0
        host.skbs.kfree_skb(skb)
        assert host.usage == 0


def test_a_retry_that_gets_an_ordinary_page_pays_nothing(host):
    host.swap_over_network()
    asked = []
    real = host.page_alloc.alloc_pages

    def first_fails(gfp, order=0):
        asked.append(gfp)
        return real(gfp, order) if len(asked) > 1 else None  # memory came back between the two tries

    host.page_alloc.alloc_pages = first_fails
    page = host.skbs.netdev_alloc_page(None)
    assert [bool(gfp & _GFP_MEMALLOC) for gfp in asked] == [False, True]
    assert (page.word_d, host.usage) == (0, 0)
    host.skbs.netdev_free_page(None, page)
    assert (page.count, host.usage) == (0, 0)


def test_a_retry_that_finds_nothing_leaves_usage_alone(host):
    host.swap_over_network()
    host.page_alloc.alloc_pages = lambda *_args: None
    assert host.skbs.netdev_alloc_page(None) is None
    assert host.usage == 0
    assert not host.skbs.charge_refused


@pytest.mark.keeps_skbs("charges by hand")
def test_a_refused_charge_is_noted_for_the_driver(host):
    host.swap_over_network()
    reserve = host.net_reserves.net_skb_reserve
    while host.net_reserves.rx_emergency_get(PAGE_SIZE):
        pass
    full = reserve.usage
    host.page_alloc.alloc_pages = lambda *_args: None
    assert host.skbs.netdev_alloc_page(None) is None
    assert host.skbs.charge_refused
    assert reserve.usage == full


def test_contents_are_those_of_the_page_part_by_part(host):
    skb = filled(host.skbs, b"<")
    page = host.page_alloc.alloc_pages(GFP_ATOMIC, 0)
    page.contents = b"abcdef".ljust(PAGE_SIZE, b"\0")
    for i, (off, size) in enumerate(((4, 2), (0, 3))):
        page.count += 1
        host.skbs.skb_add_rx_frag(skb, i, page, off, size)
    host.page_alloc.put_page(page)
    assert skb_bytes(skb) == b"<efabc"
    assert skb_bytes(skb, 2) == b"fabc"
    host.skbs.kfree_skb(skb)
    assert page.count == 0
