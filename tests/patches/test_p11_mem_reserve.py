"""Patch 11, mm: memory reserve management: demands become one number, and use stays below it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST, EINVAL, ENOMEM
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.reserve import MemReserve, Reserves
from kemu.mm.reserve_tree import show_item
from slab_ground import slab_ground


@contextmanager
def reserves(patches="all", fixes="all", constant_pages=0):
    with slab_ground(patches=patches, fixes=fixes) as sg:
        r = Reserves(sg.kernel, sg.pa, sg.slub, constant_pages)
        yield r


@pytest.fixture
def r():
    with reserves() as tree:
        yield tree
        tree.check()


def count_adjustments(r, monkeypatch, refuse=False):
    calls = []
    real = r.page_alloc.adjust_memalloc_reserve

    def adjust(pages):
        calls.append(pages)
        return -ENOMEM if refuse and pages > 0 else real(pages)

    monkeypatch.setattr(r.page_alloc, "adjust_memalloc_reserve", adjust)
    return calls


# sizes


def test_the_root_is_the_sum_of_what_is_connected_and_the_pool_follows(r):
    """Invariants a and b."""
    net = r.mem_reserve_init("net", r.root)
    rx, tx = r.mem_reserve_init("rx", net), r.mem_reserve_init("tx", net)
    assert r.mem_reserve_kmalloc_set(rx, 262144) == r.mem_reserve_pages_set(tx, 49) == 0
    assert (r.root.pages, net.pages, rx.pages, tx.pages) == (189, 189, 140, 49)
    assert r.page_alloc.var_free_kbytes == 189 * 4


def test_objects_are_estimated_by_their_cache(r):
    cache = r.slub.kmem_cache_create("ip_dst_cache", 320)
    routes = r.mem_reserve_init("routes", r.root)
    assert r.mem_reserve_kmem_cache_set(routes, cache, 4096) == 0
    assert (routes.pages, routes.limit) == (-(-4096 // 12) + 1, 4096)


def test_what_is_not_connected_costs_nothing_and_connecting_costs_one_adjustment(r, monkeypatch):
    """Invariant d."""
    calls = count_adjustments(r, monkeypatch)
    net = r.mem_reserve_init("net")
    for n in range(3):
        r.mem_reserve_pages_set(r.mem_reserve_init(f"leaf {n}", net), 10)
    assert calls == [] and net.pages == 30
    assert r.mem_reserve_connect(net, r.root) == 0
    assert calls == [30]
    assert r.mem_reserve_disconnect(net) == 0
    assert calls == [30, -30] and net.parent is None and net.pages == 30


def test_setting_twice_is_setting_once(r, monkeypatch):
    """Invariant f."""
    calls = count_adjustments(r, monkeypatch)
    leaf = r.mem_reserve_init("leaf", r.root)
    for _ in range(2):
        assert r.mem_reserve_kmalloc_set(leaf, 100_000) == 0
    assert len(calls) == 1 and leaf.limit == 100_000


def test_add_is_relative(r):
    leaf = r.mem_reserve_init("leaf", r.root)
    r.mem_reserve_pages_add(leaf, 5)
    r.mem_reserve_pages_add(leaf, -2)
    assert (leaf.pages, leaf.limit) == (3, 3)


@pytest.mark.parametrize("how", ["set", "add", "connect"])
def test_growth_that_is_refused_changes_nothing_anywhere(r, monkeypatch, how):
    """Invariant c."""
    net = r.mem_reserve_init("net", r.root)
    leaf = r.mem_reserve_init("leaf", net)
    loose = r.mem_reserve_init("loose")
    r.mem_reserve_pages_set(loose, 7)
    r.mem_reserve_pages_set(leaf, 3)
    count_adjustments(r, monkeypatch, refuse=True)
    before = r.reserve_info()
    error = {
        "set": lambda: r.mem_reserve_pages_set(leaf, 10),
        "add": lambda: r.mem_reserve_pages_add(leaf, 10),
        "connect": lambda: r.mem_reserve_connect(loose, net),
    }[how]()
    assert error == -ENOMEM
    assert r.reserve_info() == before and loose.parent is None and loose not in net.children


def test_the_probe_of_the_page_allocator_can_refuse():
    """A growth that no ordinary page survives: the allocator's own GFP_KERNEL attempt fails."""
    with slab_ground() as sg:
        r = Reserves(sg.kernel, sg.pa, sg.slub)
        leaf = r.mem_reserve_init("leaf", r.root)
        assert r.mem_reserve_pages_set(leaf, 10_000) == -ENOMEM
        assert (leaf.pages, leaf.limit, sg.pa.var_free_kbytes) == (0, 0, 0)
        assert sg.pa.alloc_page(GFP_KERNEL) is not None


def test_shrinking_never_fails(r, monkeypatch):
    leaf = r.mem_reserve_init("leaf", r.root)
    r.mem_reserve_pages_set(leaf, 10)
    count_adjustments(r, monkeypatch, refuse=True)
    assert r.mem_reserve_pages_set(leaf, 2) == 0


def test_what_is_charged_survives_disconnection(r):
    leaf = r.mem_reserve_init("leaf", r.root)
    r.mem_reserve_pages_set(leaf, 10)
    r.mem_reserve_pages_charge(leaf, 5)
    r.mem_reserve_disconnect(leaf)
    assert leaf.usage == 5
    r.mem_reserve_pages_charge(leaf, -9)
    assert leaf.usage == 0


# charges


def leaf_of(r, limit):
    leaf = r.mem_reserve_init("leaf")
    leaf.limit = limit
    return leaf


def test_the_last_packet_that_would_fill_the_limit_is_refused(r):
    leaf = leaf_of(r, 262144)
    granted = [r.mem_reserve_kmalloc_charge(leaf, 2048) for _ in range(130)]
    assert granted == [1] * 127 + [0] * 3
    assert leaf.usage == 127 * 2048


def test_one_page_of_a_limit_of_one_is_too_much(r):
    assert r.mem_reserve_pages_charge(leaf_of(r, 1), 1) == 0


def test_nothing_can_be_charged_to_a_limit_of_nothing_but_overcommit(r):
    leaf = leaf_of(r, 0)
    assert r.mem_reserve_kmalloc_charge(leaf, 1) == 0
    assert r.mem_reserve_kmalloc_charge(leaf, 1, 1) == 1


@pytest.mark.parametrize(
    ("nbytes", "usage"), [(1600, 2048), (2048, 2048), (2049, 4096), (1, 1), (0, 0), (-1600, 10_000 - 2048), (-1100, 10_000 - 2048)]
)
def test_bytes_are_rounded_to_a_power_of_two_and_keep_their_sign(r, nbytes, usage):
    leaf = leaf_of(r, 1 << 20)
    leaf.usage = 10_000 if nbytes < 0 else 0
    r.mem_reserve_kmalloc_charge(leaf, nbytes)
    assert leaf.usage == usage


def test_usage_never_falls_below_nothing(r):
    """Invariant e."""
    leaf = leaf_of(r, 100)
    r.mem_reserve_kmem_cache_charge(leaf, 5)
    r.mem_reserve_kmem_cache_charge(leaf, -7)
    assert leaf.usage == 0


def test_a_charge_touches_no_other_node(r):
    net = r.mem_reserve_init("net", r.root)
    leaf = r.mem_reserve_init("leaf", net)
    r.mem_reserve_pages_set(leaf, 10)
    r.mem_reserve_pages_charge(leaf, 5)
    assert (leaf.usage, net.usage, r.root.usage, leaf.peak) == (5, 0, 0, 5)


@given(st.integers(0, 5000), st.lists(st.integers(-3000, 3000), max_size=30))
def test_usage_stays_below_the_limit(limit, charges):
    with reserves() as r:
        leaf = leaf_of(r, limit)
        for charge in charges:
            r.mem_reserve_kmalloc_charge(leaf, charge)
            assert 0 <= leaf.usage < max(limit, 1)


# off


def test_off_every_charge_succeeds_and_nothing_is_sized():
    with reserves("all,-11") as r:
        leaf = r.mem_reserve_init("leaf", r.root)
        assert r.mem_reserve_kmalloc_set(leaf, 262144) == r.mem_reserve_pages_add(leaf, 5) == 0
        assert r.mem_reserve_connect(leaf, r.root) == r.mem_reserve_disconnect(leaf) == 0
        assert (leaf.pages, leaf.limit, r.page_alloc.var_free_kbytes) == (0, 0, 0)
        assert all(r.mem_reserve_kmalloc_charge(leaf, 2048) for _ in range(1000))
        assert leaf.usage == 1000 * 2048


def test_off_one_constant_reserve_is_set_by_hand():
    with reserves("all,-11", constant_pages=300) as r:
        assert r.page_alloc.var_free_kbytes == 1200
        r.check()


def test_on_the_constant_is_not_used():
    with reserves(constant_pages=300) as r:
        assert r.page_alloc.var_free_kbytes == 0


def test_without_the_emergency_pool_sizes_are_accepted_and_nothing_backs_them():
    with reserves("all,-8") as r:
        leaf = r.mem_reserve_init("leaf", r.root)
        assert r.mem_reserve_pages_set(leaf, 10_000) == 0
        assert leaf.limit == 10_000 and r.page_alloc.var_free_kbytes == 0
        r.check()


def test_off_what_is_raised_later_does_not_move_the_floor():
    """D.2: ip_rt_max_size is raised; then charges without end."""
    floors = []
    for patches in ("all", "all,-11"):
        with reserves(patches, constant_pages=100) as r:
            cache = r.slub.kmem_cache_create("ip_dst_cache", 320)
            routes = r.mem_reserve_init("IPv4 route cache", r.root)
            before = r.page_alloc.var_free_kbytes
            assert r.mem_reserve_kmem_cache_set(routes, cache, 2048) == 0
            granted = sum(r.mem_reserve_kmem_cache_charge(routes, 1) for _ in range(3000))
            floors.append((r.page_alloc.var_free_kbytes - before, granted))
            r.check()
    assert floors == [((-(-2048 // 12) + 1) * 4, 2047), (0, 3000)]


# what the section warns of


def test_set_on_an_inner_node_takes_the_children_for_its_own(r):
    net = r.mem_reserve_init("net", r.root)
    r.mem_reserve_pages_set(r.mem_reserve_init("leaf", net), 30)
    r.mem_reserve_pages_set(net, 10)
    assert (net.pages, r.root.pages) == (10, 10), "20 pages that the leaf counts on are gone"
    with pytest.raises(KernelBug, match="its children have more"):
        r.check()
    r.mem_reserve_pages_set(net, 30)


def test_limits_of_nodes_above_mix_units(r):
    net = r.mem_reserve_init("net", r.root)
    r.mem_reserve_kmalloc_set(r.mem_reserve_init("bytes", net), 262144)
    r.mem_reserve_pages_set(r.mem_reserve_init("pages", net), 49)
    assert net.limit == r.root.limit == 262193


def test_an_aggregate_of_one_unit_can_be_charged_in_place_of_its_leaves(r):
    """SKB data reserve: the limits of both fragment caches together."""
    skb = r.mem_reserve_init("SKB data reserve", r.root)
    for name in ("IPv4 fragment cache", "IPv6 fragment cache"):
        r.mem_reserve_kmalloc_set(r.mem_reserve_init(name, skb), 262144)
    assert sum(r.mem_reserve_kmalloc_charge(skb, 1552) for _ in range(300)) == 255


def test_a_limit_that_shrinks_below_usage_grants_nothing_until_enough_came_back(r):
    leaf = r.mem_reserve_init("leaf", r.root)
    r.mem_reserve_pages_set(leaf, 10)
    assert r.mem_reserve_pages_charge(leaf, 9) == 1
    assert r.mem_reserve_pages_set(leaf, 5) == 0
    assert leaf.usage == 9 and r.mem_reserve_pages_charge(leaf, 1) == 0
    r.mem_reserve_pages_charge(leaf, -6)
    assert r.mem_reserve_pages_charge(leaf, 1) == 1


@pytest.mark.parametrize("how", ["set", "add"])
def test_a_reserve_of_less_than_nothing_is_an_oops_that_leaves_the_tree_whole(r, how):
    leaf = r.mem_reserve_init("leaf", r.root)
    r.mem_reserve_pages_set(leaf, 10)
    with pytest.raises(KernelBug, match="reduced by"):
        r.mem_reserve_pages_set(leaf, -5) if how == "set" else r.mem_reserve_pages_add(leaf, -15)
    r.check()
    assert (leaf.pages, leaf.limit) == (10, 10)
    assert r.mem_reserve_pages_set(leaf, 3) == 0, "the mutex is free again"


def test_without_the_estimates_a_reserve_is_its_bytes():
    """05 off."""
    with reserves("all,-5") as r:
        leaf = r.mem_reserve_init("leaf", r.root)
        assert r.mem_reserve_kmalloc_set(leaf, 262144) == 0
        assert r.root.pages == 64


@pytest.mark.parametrize("pages", [1 << 31, 1 << 40])
def test_b18b_mended_a_number_that_is_no_int_is_refused(r, pages):
    leaf = r.mem_reserve_init("leaf", r.root)
    assert r.mem_reserve_pages_set(leaf, pages) == -ENOMEM
    assert (leaf.pages, leaf.limit, r.page_alloc.var_free_kbytes) == (0, 0, 0)


def test_a_node_below_itself_is_an_oops(r):
    """v14 would go around with the mutex held."""
    net = r.mem_reserve_init("net", r.root)
    leaf = r.mem_reserve_init("leaf", net)
    for child, parent in ((leaf, leaf), (net, leaf), (r.root, leaf)):
        with pytest.raises(KernelBug, match="ring"):
            r.mem_reserve_connect(child, parent)
    assert r.mem_reserve_pages_set(leaf, 3) == 0


# any history


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pages", "kmalloc", "objects", "add", "connect", "disconnect"]), st.integers(0, 3), st.integers(0, 40)
        ),
        max_size=25,
    ),
    st.sampled_from(["all", "all,-5"]),
)
def test_root_pool_and_sums_agree_after_any_history(steps, patches):
    """Invariants a, b, c and f."""
    with reserves(patches) as r:
        net = r.mem_reserve_init("net")
        leaves = [r.mem_reserve_init(f"leaf {n}", net if n < 2 else r.root) for n in range(4)]
        cache = r.slub.kmem_cache_create("objects", 320)
        for what, n, amount in steps:
            leaf = leaves[n]
            before = r.reserve_info(), [(each.pages, each.limit) for each in leaves]
            setters = {
                "pages": r.mem_reserve_pages_set,
                "kmalloc": lambda leaf, amount: r.mem_reserve_kmalloc_set(leaf, 1000 * amount),
                "objects": lambda leaf, amount: r.mem_reserve_kmem_cache_set(leaf, cache, amount),
            }
            if what in setters:
                assert setters[what](leaf, amount) == 0
                once = r.reserve_info()
                assert setters[what](leaf, amount) == 0 and r.reserve_info() == once
            elif what == "add":
                assert r.mem_reserve_pages_add(leaf, amount) == 0
            elif what == "connect":
                error = r.mem_reserve_connect(net, r.root)
                assert error in (0, -EEXIST)
                assert not error or before == (r.reserve_info(), [(each.pages, each.limit) for each in leaves])
            elif net.parent is not None:
                assert r.mem_reserve_disconnect(net) == 0
            r.check()
            assert net.pages == leaves[0].pages + leaves[1].pages and net.limit == leaves[0].limit + leaves[1].limit
            connected = leaves if net.parent is not None else leaves[2:]
            assert r.root.pages == sum(leaf.pages for leaf in connected) == r.page_alloc.var_free_kbytes // 4


# b11: connecting what is connected


def test_b11_as_posted_pages_are_counted_twice():
    with reserves(fixes="all,-b11") as r:
        leaf = r.mem_reserve_init("leaf", r.root)
        r.mem_reserve_pages_set(leaf, 10)
        assert r.mem_reserve_connect(leaf, r.root) == 0
        assert r.root.pages == 20 and r.page_alloc.var_free_kbytes == 80
        assert r.mem_reserve_disconnect(leaf) == 0
        assert r.root.pages == 10 and r.page_alloc.var_free_kbytes == 40, "10 pages are gone for good"
        with pytest.raises(KernelBug, match="connected to nothing"):
            r.mem_reserve_disconnect(leaf)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("other_parent", [False, True])
def test_b11_as_posted_whoever_walks_the_tree_never_returns(place, other_parent):
    """list_add() of what is on a list: the old neighbours still point to it."""
    with reserves(fixes="all,-b11") as r:
        net = r.mem_reserve_init("net", r.root)
        leaves = [r.mem_reserve_init(f"leaf {n}", r.root) for n in range(3)]
        assert r.mem_reserve_connect(leaves[place], net if other_parent else r.root) == 0
        with pytest.raises(KernelBug, match="never ends"):
            r.reserve_info()
        with pytest.raises(KernelBug, match="never ends"):
            r.check()


def test_b11_mended_it_is_eexist(r, monkeypatch):
    leaf = r.mem_reserve_init("leaf", r.root)
    r.mem_reserve_pages_set(leaf, 10)
    calls = count_adjustments(r, monkeypatch)
    assert r.mem_reserve_connect(leaf, r.root) == -EEXIST
    assert r.root.pages == 10 and calls == [] and r.root.children == [leaf]


# b18b: a negative tunable. It takes 18, whose tunables are where a negative number comes from.


@pytest.mark.parametrize("connected", [True, False])
def test_b18b_mended_a_negative_size_is_refused(r, connected):
    leaf = r.mem_reserve_init("leaf", r.root if connected else None)
    assert r.mem_reserve_kmalloc_set(leaf, -1) == -EINVAL
    assert r.mem_reserve_kmem_cache_set(leaf, r.slub.kmalloc_caches[3], -1) == -EINVAL
    assert (leaf.pages, leaf.limit) == (0, 0)


def test_b18b_as_posted_a_small_negative_number_reserves_the_overhead_and_grants_nothing():
    with reserves(fixes="all,-b18b") as r:
        leaf = r.mem_reserve_init("leaf", r.root)
        assert r.mem_reserve_kmalloc_set(leaf, -1) == 0
        assert (leaf.pages, leaf.limit) == (12, -1)
        assert r.mem_reserve_kmalloc_charge(leaf, 1) == 0
        r.check()


def test_b18b_as_posted_a_large_one_takes_pages_out_of_a_pool_that_others_count_on():
    """2**32 - 116 pages in the tree; the pool hears an int."""
    with reserves(fixes="all,-b18b") as r:
        other = r.mem_reserve_init("other", r.root)
        leaf = r.mem_reserve_init("leaf", r.root)
        assert r.mem_reserve_pages_set(other, 500) == r.mem_reserve_kmalloc_set(leaf, 262144) == 0
        assert r.mem_reserve_kmalloc_set(leaf, -262144) == 0
        assert (leaf.pages, leaf.limit) == ((1 << 32) - 116, -262144)
        assert r.page_alloc.var_free_kbytes // 4 == 500 - 116
        with pytest.raises(KernelBug, match="the emergency pool has 384"):
            r.check()


def test_b18b_as_posted_more_than_there_is_is_an_oops():
    with reserves(fixes="all,-b18b") as r:
        leaf = r.mem_reserve_init("leaf", r.root)
        with pytest.raises(KernelBug, match="reduced by 116 pages"):
            r.mem_reserve_kmalloc_set(leaf, -262144)
        r.check()


def test_b18b_as_posted_the_absurd_number_waits_where_nothing_is_connected():
    with reserves(fixes="all,-b18b") as r:
        net = r.mem_reserve_init("net")
        assert r.mem_reserve_kmalloc_set(r.mem_reserve_init("leaf", net), -262144) == 0
        assert "17179868720K" in _text(net)
        assert r.mem_reserve_pages_set(r.mem_reserve_init("other", net), 500) == 0
        assert r.mem_reserve_connect(net, r.root) == 0
        assert r.page_alloc.var_free_kbytes // 4 == 384


def _text(node):
    lines = []
    show_item(node, 0, lines)
    return "".join(lines)


def test_a_reserve_shows_itself():
    assert repr(MemReserve("leaf")) == "<MemReserve 'leaf' pages=0 usage=0 limit=0>"
