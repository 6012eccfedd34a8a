"""Patch 19: receive buffers from the reserve, each paid for, each marked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import ENOMEM
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_ATOMIC, PAGE_SIZE
from kemu_net.core.skbuff import SKB_ALLOC_FCLONE, SKB_ALLOC_RX
from net_ground import one_host, two_hosts, udp_frame

pytestmark = pytest.mark.keeps_skbs("the tests hold skbs in their hands")

RING = 1536


def hungry(*, patches="all", fixes="all", swap=True, **options):
    """One host at the floor that swaps over the network."""

    class Hungry:
        def __enter__(self):
            self.context = one_host(patches=patches, fixes=fixes, **options)
            host = self.context.__enter__()
            if swap:
                host.swap_over_network()
            host.hog()
            return host

        def __exit__(self, *exc):
            return self.context.__exit__(*exc)

    return Hungry()


@pytest.fixture
def host():
    with hungry() as host:
        yield host


@pytest.fixture
def skbs(host):
    return host.skbs


def spare(host):
    """Take an emergency receive buffer."""
    skb = host.skbs.netdev_alloc_skb(None, RING)
    assert skb is not None and skb.emergency == 1
    return skb


def pow2(size: int) -> int:
    return 1 << (size - 1).bit_length()


# the allocation


def test_with_memory_to_spare_nothing_is_charged():
    with one_host() as host:
        host.swap_over_network()
        skb = host.skbs.netdev_alloc_skb(None, RING)
        assert (skb.emergency, host.usage) == (0, 0)


def test_at_the_floor_a_buffer_is_charged_and_marked(host):
    skb = spare(host)
    assert (skb.truesize, host.usage, host.stats.emergency_skbs) == (1832, 2048, 1)


def test_the_data_lies_in_a_page_from_below_the_marks(host):
    assert host.slub.is_reserve_backed(spare(host).head)


def test_the_charge_goes_with_the_buffer(host):
    host.skbs.kfree_skb(spare(host))
    assert (host.usage, host.skbs.emergency_live) == (0, 0)


def test_without_swap_sockets_there_is_no_emergency():
    with hungry(swap=False) as host:
        assert host.skbs.netdev_alloc_skb(None, RING) is None
        assert host.usage == 0


def test_a_transmit_buffer_never_becomes_emergency(skbs):
    assert skbs.alloc_skb(RING, GFP_ATOMIC) is None


def test_an_entitled_transmit_buffer_is_not_marked(host):
    skb = host.skbs.alloc_skb(RING, GFP_ATOMIC | _GFP_MEMALLOC, SKB_ALLOC_FCLONE)
    assert (skb.emergency, host.usage) == (0, 0)


def test_the_first_try_is_polite_even_where_the_task_is_entitled(host):
    host.task.flags |= PF_MEMALLOC
    skb = spare(host)
    host.task.flags &= ~PF_MEMALLOC
    assert host.usage == 2048
    host.skbs.kfree_skb(skb)


def test_a_refused_charge_gives_nothing(host):
    held = [spare(host) for _ in range(255)]
    assert host.skbs.netdev_alloc_skb(None, RING) is None
    assert (host.usage, host.skbs.charge_refused) == (255 * 2048, True)
    host.skbs.kfree_skb(held.pop())
    assert host.skbs.netdev_alloc_skb(None, RING) is not None


def test_a_second_try_that_fails_leaves_usage_alone(host):
    while (addr := host.slub.kmalloc(2048, GFP_ATOMIC | _GFP_MEMALLOC)) is not None:
        host.hogged.append(addr)
    assert host.skbs.netdev_alloc_skb(None, RING) is None
    assert (host.usage, host.skbs.emergency_live) == (0, 0)


@pytest.mark.parametrize("fails", ["head", "data"])
def test_either_object_may_be_the_one_that_fails(fails):
    with one_host() as host:
        slub = host.slub
        if fails == "head":
            slub.kmem_cache_alloc = lambda _cache, _gfp: None
        else:
            slub.kmalloc = lambda _size, _gfp: None
        host.swap_over_network()
        assert host.skbs.netdev_alloc_skb(None, RING) is None
        assert host.usage == 0
        if fails == "data":
            assert host.in_use("skbuff_head_cache") == 0


# clones and copies


def test_a_clone_inherits_the_mark_and_is_not_charged(host):
    clone = host.skbs.skb_clone(spare(host), GFP_ATOMIC)
    assert (clone.emergency, host.usage) == (1, 2048)


def test_the_clone_of_a_normal_packet_finds_no_memory():
    with one_host() as host:
        skb = host.skbs.netdev_alloc_skb(None, RING)
        host.swap_over_network()
        host.hog()
        assert host.skbs.skb_clone(skb, GFP_ATOMIC) is None


@pytest.mark.parametrize("original_first", [True, False])
def test_the_last_of_two_uncharges(host, original_first):
    skb = spare(host)
    clone = host.skbs.skb_clone(skb, GFP_ATOMIC)
    first, second = (skb, clone) if original_first else (clone, skb)
    host.skbs.kfree_skb(first)
    assert host.usage == 2048
    host.skbs.kfree_skb(second)
    assert host.usage == 0


def test_a_copy_is_charged_too(host):
    copy = host.skbs.skb_copy(spare(host), GFP_ATOMIC)
    assert (copy.emergency, host.usage) == (1, 4096)


def test_a_copy_after_the_shortage_is_normal(host):
    skb = spare(host)
    host.unhog()
    assert host.skbs.skb_copy(skb, GFP_ATOMIC).emergency == 0


def test_expansion_is_charged_before_it_is_made(host):
    skb = spare(host)
    assert host.skbs.pskb_expand_head(skb, 64, 0, GFP_ATOMIC) == 0
    assert host.usage == 2048
    clone = host.skbs.skb_clone(skb, GFP_ATOMIC)
    assert host.skbs.pskb_expand_head(clone, 64, 0, GFP_ATOMIC) == 0
    assert host.usage == 4096


def test_expansion_without_budget_fails_and_changes_nothing(host):
    held = [spare(host) for _ in range(255)]
    head = held[0].head
    assert host.skbs.pskb_expand_head(held[0], 64, 0, GFP_ATOMIC) == -ENOMEM
    assert (held[0].head, host.usage) == (head, 255 * 2048)


def test_expansion_of_a_normal_packet_keeps_off_the_reserve():
    with one_host() as host:
        skb = host.skbs.netdev_alloc_skb(None, RING)
        host.swap_over_network()
        host.hog()
        host.task.flags |= PF_MEMALLOC
        assert host.skbs.pskb_expand_head(skb, 64, 0, GFP_ATOMIC | _GFP_MEMALLOC) == -ENOMEM
        host.task.flags &= ~PF_MEMALLOC


# pages


def test_a_page_at_the_floor_is_charged(host):
    page = host.skbs.netdev_alloc_page(None)
    assert (bool(page.word_d), host.usage) == (True, PAGE_SIZE)
    host.skbs.netdev_free_page(None, page)
    assert host.usage == 0


def test_emergency_packet_and_reserve_page(host):
    skb, page = spare(host), host.skbs.netdev_alloc_page(None)
    host.skbs.skb_add_rx_frag(skb, 0, page, 0, 100)
    assert (page.word_d, host.usage) == (1, 2048 + PAGE_SIZE)
    host.skbs.kfree_skb(skb)
    assert (host.usage, page.count) == (0, 0)


def test_emergency_packet_and_normal_page(host):
    skb = spare(host)
    host.unhog()
    page = host.skbs.netdev_alloc_page(None)
    assert not page.word_d
    host.skbs.skb_add_rx_frag(skb, 0, page, 0, 100)
    assert host.usage == 2048 + PAGE_SIZE  # the memory is in hand: overcommitted if need be
    host.skbs.kfree_skb(skb)
    assert host.usage == 0


def test_normal_packet_and_reserve_page():
    with one_host() as host:
        skb = host.skbs.netdev_alloc_skb(None, 128)
        host.swap_over_network()
        host.hog()
        page = host.skbs.netdev_alloc_page(None)
        host.skbs.skb_add_rx_frag(skb, 0, page, 0, 100)
        assert host.usage == 0
        host.skbs.kfree_skb(skb)
        assert (host.usage, page.count) == (0, 0)


def test_a_page_shared_by_two_emergency_packets_is_uncharged_by_the_last(host):
    skb, page = spare(host), host.skbs.netdev_alloc_page(None)
    host.skbs.skb_add_rx_frag(skb, 0, page, 0, 100)
    copy = host.skbs.pskb_copy(skb, GFP_ATOMIC)
    assert page.word_d == 2
    host.skbs.kfree_skb(skb)
    assert host.usage == 2048 + PAGE_SIZE
    host.skbs.kfree_skb(copy)
    assert (host.usage, page.count) == (0, 0)


def test_a_clone_does_not_count_pages_again(host):
    skb, page = spare(host), host.skbs.netdev_alloc_page(None)
    host.skbs.skb_add_rx_frag(skb, 0, page, 0, 100)
    clone = host.skbs.skb_clone(skb, GFP_ATOMIC)
    assert page.word_d == 1
    host.skbs.kfree_skb(skb)
    host.skbs.kfree_skb(clone)
    assert (host.usage, page.count) == (0, 0)


def test_the_budget_in_pages(host):
    held = []
    while (page := host.skbs.netdev_alloc_page(None)) is not None:
        held.append(page)
    assert len(held) == 127  # 128 * 4096 is the limit, and the comparison is strict


# defects


def test_two_jumbo_packets_starve_each_other_page_by_page(host):
    """Charges are taken page by page, without a wait: the budget holds one packet of three pages, and two get none (Neil Brown)."""
    budget = host.net_reserves.net_skb_reserve
    while budget.limit - budget.usage > 5 * PAGE_SIZE:  # leave room for four pages: the comparison is strict
        host.net_reserves.rx_emergency_get(PAGE_SIZE)
    first, second = [], []
    for _ in range(3):
        for packet in (first, second):
            packet.append(host.skbs.netdev_alloc_page(None))
    assert [page is not None for page in first + second] == [True, True, False] * 2
    for page in first[:2] + second[:2]:
        host.skbs.netdev_free_page(None, page)
    alone = [host.skbs.netdev_alloc_page(None) for _ in range(3)]
    assert None not in alone
    for page in alone:
        host.skbs.netdev_free_page(None, page)


def test_an_area_just_below_a_power_of_two_is_charged_as_kmalloc_takes_it(host):
    host.skbs.netdev_alloc_skb(None, 2000)
    assert host.usage == 4096


def test_b19a_charges_it_half():
    with hungry(fixes="none") as host:
        skb = host.skbs.netdev_alloc_skb(None, 2000)
        assert (host.usage, host.slub.ksize(skb.head)) == (2048, 4096)
        host.skbs.kfree_skb(skb)
        assert host.usage == 0


def test_pages_need_a_swap_socket():
    with hungry(swap=False) as host:
        assert host.skbs.netdev_alloc_page(None) is None
        assert host.usage == 0


def test_b19b_pages_do_not():
    with hungry(swap=False, fixes="none") as host:
        page = host.skbs.netdev_alloc_page(None)
        assert page is not None
        assert host.usage == PAGE_SIZE


# conservation

STEPS = st.lists(
    st.tuples(st.sampled_from(["skb", "page", "clone", "copy", "pcopy", "expand", "free", "hog", "unhog"]), st.integers(0, 999)),
    max_size=40,
)


@settings(max_examples=30, deadline=None)
@given(STEPS, st.sampled_from(["all", "none"]))
def test_usage_is_the_sum_of_live_areas_and_pages(steps, fixes):
    with hungry(fixes=fixes) as host:
        skbs = host.skbs
        live = []
        for kind, choice in steps:
            if kind == "skb":
                live.append(skbs.netdev_alloc_skb(None, 64 + choice * 2))
            elif kind == "unhog":
                host.unhog()
            elif kind == "hog":
                host.hog()
            elif live:
                skb = live[choice % len(live)]
                if kind == "page":
                    if skb.cloned:
                        continue  # a driver attaches pages before anybody clones
                    page = skbs.netdev_alloc_page(None)
                    if page is not None:
                        skbs.skb_add_rx_frag(skb, len(skb.frags or ()), page, 0, choice)
                elif kind == "expand":
                    skbs.pskb_expand_head(skb, choice, 0, GFP_ATOMIC)
                elif kind == "free":
                    live.remove(skb)
                    skbs.kfree_skb(skb)
                else:
                    live.append(
                        getattr(skbs, {"clone": "skb_clone", "copy": "skb_copy", "pcopy": "pskb_copy"}[kind])(skb, GFP_ATOMIC)
                    )
            live = [skb for skb in live if skb is not None]
            areas = {id(skb.shinfo): skb for skb in live if skb.emergency}
            pages = {page.pfn for skb in areas.values() for page, _, _ in skb.frags or ()}
            data = sum(pow2(skb.end + (312 if fixes == "all" else 0)) for skb in areas.values())
            assert host.usage == data + PAGE_SIZE * len(pages)
            assert skbs.emergency_live == len(areas)
        for skb in live:
            skbs.kfree_skb(skb)
        assert (host.usage, skbs.live) == (0, 0)


# off


def test_without_the_patch_receive_buffers_are_plain_atomic():
    with hungry(patches="all,-19") as host:
        assert host.skbs.netdev_alloc_skb(None, RING) is None
        assert host.skbs.netdev_alloc_page(None) is None
        assert host.usage == 0


def test_without_the_patch_an_entitled_task_drains_the_reserve_unpaid():
    with hungry(patches="all,-19") as host:
        host.task.flags |= PF_MEMALLOC
        skb = host.skbs.alloc_skb(RING, GFP_ATOMIC, SKB_ALLOC_RX)
        host.task.flags &= ~PF_MEMALLOC
        assert (skb.emergency, host.usage) == (0, 0)


def storm(patches):
    """A ring full of normal buffers, the floor, then more foreign frames than the ring holds; is the ring usable afterwards?"""
    with two_hosts(patches=patches, ring=64, b={}) as net:
        net.greet()
        net.a.swap_over_network()
        for port in (7, 8):
            net.a.socket(port)
        net.a.hog()
        for port in (7, 8):
            net.flood(udp_frame(dport=port), 60)
            net.run(10)
        rx = net.a.nic.rx
        return len(rx.buffers), sum(skb.emergency for skb, _ in rx.buffers), net.a.usage, dict(net.a.stats.drops)


def test_a_storm_leaves_a_ring_of_charged_buffers():
    buffers, emergency, usage, drops = storm("all")
    assert buffers == emergency == 64
    assert usage == 64 * 2048
    assert drops["nic"] == drops["charge"] == 0
    assert drops["socket"] == 120 - 64


def test_without_the_patch_a_storm_leaves_the_ring_dry():
    buffers, _, usage, drops = storm("all,-19")
    assert (buffers, usage) == (0, 0)
    assert drops["nic"] == 120 - 64


def test_no_normal_packet_lies_in_the_reserve():
    with two_hosts(ring=64, b={}) as net:
        net.greet()
        net.a.swap_over_network()
        net.a.socket(7)
        net.a.hog()
        for _ in range(4):
            net.flood(udp_frame(), 60)
            net.run(10)
            for skb, _ in net.a.nic.rx.buffers:
                assert skb.emergency or not net.a.slub.is_reserve_backed(skb.head)
