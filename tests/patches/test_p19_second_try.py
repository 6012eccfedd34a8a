"""Patch 19: the second try (its flags, its failures, memory that came back meanwhile), copies of every kind, and D.2 row 19."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from kemu.kernel.errno import EAGAIN, ENOMEM
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.gfp import _GFP_DMA, _GFP_MEMALLOC, _GFP_NOMEMALLOC, _GFP_NOWARN, GFP_ATOMIC, PAGE_SIZE
from kemu_net.core.skb_copy import skb_copy_expand, skb_realloc_headroom
from kemu_net.core.skb_segment import skb_segment
from kemu_net.core.skbuff import SKB_ALLOC_RX, skb_put_bytes
from net_ground import one_host, two_hosts, udp_frame

RING = 1536
POLITE = _GFP_NOMEMALLOC | _GFP_NOWARN


@contextmanager
def at_the_floor():
    with one_host() as host:
        host.swap_over_network()
        host.hog()
        yield host
        assert (host.usage, host.skbs.live, host.skbs.emergency_live) == (0, 0, 0)


@pytest.fixture
def host():
    with at_the_floor() as host:
        yield host


def spare(host):
    skb = host.skbs.netdev_alloc_skb(None, RING)
    assert skb.emergency
    return skb


def asked(host, gfp, flags):
    """Give the flags of every request for a head and for data."""
    heads, data = [], []
    cache_alloc, kmalloc = host.slub.kmem_cache_alloc, host.slub.kmalloc
    host.slub.kmem_cache_alloc = lambda cache, gfp: heads.append(gfp) or cache_alloc(cache, gfp)
    host.slub.kmalloc = lambda size, gfp: data.append(gfp) or kmalloc(size, gfp)
    skb = host.skbs.alloc_skb(RING, gfp, flags)
    host.slub.kmem_cache_alloc, host.slub.kmalloc = cache_alloc, kmalloc
    if skb is not None:
        host.skbs.kfree_skb(skb)
    return heads, data


def test_first_politely_and_without_a_warning():
    with one_host() as host:
        assert asked(host, GFP_ATOMIC, SKB_ALLOC_RX) == ([GFP_ATOMIC | POLITE], [GFP_ATOMIC | POLITE])


def test_then_entitled_and_aloud(host):
    heads, data = asked(host, GFP_ATOMIC, SKB_ALLOC_RX)
    assert heads == [GFP_ATOMIC | POLITE, GFP_ATOMIC | _GFP_MEMALLOC]
    assert data == [GFP_ATOMIC | _GFP_MEMALLOC]


@pytest.mark.parametrize("flags", [0, SKB_ALLOC_RX])
def test_a_head_is_never_asked_for_below_16_mib(flags):
    with one_host() as host:
        host.swap_over_network()
        heads, data = asked(host, GFP_ATOMIC | _GFP_DMA, flags)
        assert not heads[0] & _GFP_DMA
        assert data[0] & _GFP_DMA


def test_who_does_not_receive_asks_once(host):
    heads, _data = asked(host, GFP_ATOMIC, 0)
    assert heads == [GFP_ATOMIC]


def test_a_packet_of_the_second_try_is_emergency_although_memory_came_back(host):
    """The mark says that it was paid for, not where it lies."""
    get = host.net_reserves.rx_emergency_get

    def meanwhile(size):
        host.unhog()
        return get(size)

    host.net_reserves.rx_emergency_get = meanwhile
    skb = host.skbs.netdev_alloc_skb(None, RING)
    assert not host.slub.is_reserve_backed(skb.head)
    assert (skb.emergency, host.usage) == (1, 2048)
    host.skbs.kfree_skb(skb)


@pytest.mark.parametrize(("tagged", "charge"), [(None, 0), (False, 0), (True, PAGE_SIZE)])
def test_a_page_of_the_second_try(host, tagged, charge):
    """None at all, an ordinary one because memory came back, one of the reserve: what has a tag has a charge."""
    bystander = spare(host)
    before = host.usage
    alloc_pages, seen = host.page_alloc.alloc_pages, []
    page = None
    if tagged is not None:
        page = alloc_pages(GFP_ATOMIC | _GFP_MEMALLOC, 0)
        page.word_d = int(tagged)
    answers = [None, page]
    host.page_alloc.alloc_pages = lambda gfp, _order: seen.append(gfp) or answers.pop(0)
    assert host.skbs.netdev_alloc_page(None) is page
    host.page_alloc.alloc_pages = alloc_pages
    assert seen == [GFP_ATOMIC | POLITE, GFP_ATOMIC | _GFP_MEMALLOC]
    assert host.usage == before + charge
    if page is not None:
        host.skbs.netdev_free_page(None, page)
    assert host.usage == before
    host.skbs.kfree_skb(bystander)


def test_a_page_whose_charge_is_refused_is_not_asked_for_again(host):
    held = [spare(host) for _ in range(255)]
    alloc_pages, seen = host.page_alloc.alloc_pages, []
    host.page_alloc.alloc_pages = lambda gfp, _order: seen.append(gfp)
    assert host.skbs.netdev_alloc_page(None) is None
    host.page_alloc.alloc_pages = alloc_pages
    assert seen == [GFP_ATOMIC | POLITE]
    assert (host.usage, host.skbs.charge_refused) == (255 * 2048, True)
    for skb in held:
        host.skbs.kfree_skb(skb)


def test_an_ordinary_page_in_an_emergency_packet_is_charged_beyond_the_limit(host):
    """Row 2 of the table: the memory is in hand, so the charge cannot be refused, or the pairs would not balance."""
    held = [spare(host) for _ in range(255)]
    limit = host.net_reserves.net_skb_reserve.limit
    assert not host.net_reserves.rx_emergency_get(PAGE_SIZE)
    host.unhog()
    page = host.skbs.netdev_alloc_page(None)
    host.skbs.skb_add_rx_frag(held[0], 0, page, 0, 100)
    assert host.usage == 255 * 2048 + PAGE_SIZE > limit
    host.skbs.kfree_skb(held.pop(0))
    assert host.usage == 254 * 2048
    for skb in held:
        host.skbs.kfree_skb(skb)


def test_an_expansion_that_gets_no_memory_gives_its_charge_back(host):
    skb = spare(host)
    kmalloc, seen = host.slub.kmalloc, []
    host.slub.kmalloc = lambda _size, gfp: seen.append(gfp)
    assert host.skbs.pskb_expand_head(skb, 64, 0, GFP_ATOMIC) == -ENOMEM
    host.slub.kmalloc = kmalloc
    assert seen == [GFP_ATOMIC | _GFP_MEMALLOC]
    assert host.usage == 2048
    host.skbs.kfree_skb(skb)


COPIES = {
    "skb_copy": lambda skbs, skb: [skbs.skb_copy(skb, GFP_ATOMIC)],
    "pskb_copy": lambda skbs, skb: [skbs.pskb_copy(skb, GFP_ATOMIC)],
    "skb_copy_expand": lambda skbs, skb: [skb_copy_expand(skbs, skb, 32, 32, GFP_ATOMIC)],
    "skb_realloc_headroom": lambda skbs, skb: [skb_realloc_headroom(skbs, skb, 400)],
    "skb_segment": lambda skbs, skb: skb_segment(skbs, skb, 0, 100) or [None],
}


@pytest.mark.parametrize("kind", COPIES)
def test_the_copy_of_an_emergency_packet_is_paid_for_too(host, kind):
    skb = spare(host)
    skb_put_bytes(skb, b"x" * 90)
    (copy,) = COPIES[kind](host.skbs, skb)
    assert copy.emergency
    assert host.usage == 2048 + host.skbs.charged(copy)
    host.skbs.kfree_skb(skb)
    assert host.usage == host.skbs.charged(copy)
    host.skbs.kfree_skb(copy)


@pytest.mark.parametrize("kind", COPIES)
def test_the_copy_of_a_normal_packet_never_becomes_emergency(kind):
    with one_host() as host:
        skb = host.skbs.netdev_alloc_skb(None, RING)
        skb_put_bytes(skb, b"x" * 90)
        host.swap_over_network()
        host.hog()
        assert COPIES[kind](host.skbs, skb) == [None]
        assert (host.usage, host.skbs.live) == (0, 1)
        host.skbs.kfree_skb(skb)


@pytest.mark.parametrize("how", ["attached", "freed"])
def test_without_the_patch_a_page_of_the_reserve_is_nobodys_charge(how):
    with one_host(patches="all,-19") as host:
        skb = host.skbs.netdev_alloc_skb(None, 128)
        host.swap_over_network()
        host.hog()
        assert host.net_reserves.rx_emergency_get(8192)  # somebody else's: usage never goes below 0
        host.task.flags |= PF_MEMALLOC
        page = host.skbs.netdev_alloc_page(None)
        host.task.flags &= ~PF_MEMALLOC
        assert page.word_d
        if how == "attached":
            host.skbs.skb_add_rx_frag(skb, 0, page, 0, 10)
        else:
            host.skbs.netdev_free_page(None, page)
        host.skbs.kfree_skb(skb)
        assert (host.usage, page.count) == (8192, 0)
        host.net_reserves.rx_emergency_put(8192)


@pytest.mark.parametrize(("patches", "received"), [("all", True), ("all,-19", False)])
def test_the_reply_behind_a_storm(patches, received):
    """Foreign frames take the ring's normal buffers into sockets that nobody reads; then a reply comes, for a minute."""
    with two_hosts(patches=patches, ring=64, b={}) as net:
        host = net.a
        net.greet()
        host.swap_over_network()
        swap = host.socket(2049)
        host.socks.sk_set_memalloc(swap)
        sinks = [host.socket(port) for port in (7, 8)]
        host.hog()
        for port in (7, 8):
            net.flood(udp_frame(dport=port), 60)
            net.run(10)
        assert all(len(sink.sk_receive_queue) < 68 for sink in sinks)  # not yet full
        got = 0
        for _ in range(20):
            net.flood(udp_frame(b"reply", dport=2049))
            net.run(3000)
            got += host.udp.recvfrom(swap, nonblock=True) != -EAGAIN
        assert got == (20 if received else 0)
        assert bool(host.nic.rx.buffers) is received
        assert host.page_alloc.at_the_floor() is not None
