"""Patch 11, mm: memory reserve management: demands become one number, and use stays below it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST, EINVAL, ENOMEM
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.reserve import MemReserve, Reserves
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
    assert r.reserve_info() == before and loose.parent is None


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


# b11: connecting what is connected


def test_b11_as_posted_pages_are_counted_twice():
    with reserves(fixes="all,-b11") as r:
        leaf = r.mem_reserve_init("leaf", r.root)
        r.mem_reserve_pages_set(leaf, 10)
        assert r.mem_reserve_connect(leaf, r.root) == 0
        assert r.root.pages == 20 and r.page_alloc.var_free_kbytes == 80
        with pytest.raises(KernelBug, match="in the tree twice"):
            r.check()


def test_b11_mended_it_is_eexist(r):
    leaf = r.mem_reserve_init("leaf", r.root)
    r.mem_reserve_pages_set(leaf, 10)
    assert r.mem_reserve_connect(leaf, r.root) == -EEXIST
    assert r.root.pages == 10


# b18b: a negative tunable


@pytest.mark.parametrize("connected", [True, False])
def test_b18b_mended_a_negative_size_is_refused(r, connected):
    leaf = r.mem_reserve_init("leaf", r.root if connected else None)
    assert r.mem_reserve_kmalloc_set(leaf, -1) == -EINVAL
    assert r.mem_reserve_kmem_cache_set(leaf, r.slub.kmalloc_caches[3], -1) == -EINVAL
    assert (leaf.pages, leaf.limit) == (0, 0)


def test_b18b_as_posted_no_machine_has_that_many_pages():
    with reserves(fixes="all,-b18b") as r:
        leaf = r.mem_reserve_init("leaf", r.root)
        assert r.mem_reserve_kmalloc_set(leaf, -1) == -ENOMEM
        assert (leaf.pages, leaf.limit) == (0, 0)
        r.check()


def test_b18b_as_posted_the_absurd_number_waits_where_nothing_is_connected():
    with reserves(fixes="all,-b18b") as r:
        net = r.mem_reserve_init("net")
        leaf = r.mem_reserve_init("leaf", net)
        assert r.mem_reserve_kmalloc_set(leaf, -1) == 0
        assert leaf.pages > 1 << 50
        assert r.mem_reserve_connect(net, r.root) == -ENOMEM  # so no swap socket can ever be made


def test_a_reserve_shows_itself():
    assert repr(MemReserve("leaf")) == "<MemReserve 'leaf' pages=0 usage=0 limit=0 children=0>"
