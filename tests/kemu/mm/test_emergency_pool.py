"""The pool itself; patch 08's invariants are in tests/patches/test_p08_emergency_pool.py."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu import Machine, MachineConfig
from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm import gfp as g
from kemu.mm.mempolicy import MPOL_BIND
from kemu.mm.watermark import highmem_min
from mm_ground import MIB, ground


def marks(machine):
    return [(zone.pages_min, zone.pages_low, zone.pages_high, zone.pages_emerg) for zone in machine.page_alloc.zones]


@pytest.mark.parametrize("pages", [1, 100, 500])
def test_up_and_down_again_restores_every_mark(pages):
    with Machine(MachineConfig(mem=16 << 20)) as machine:
        before = marks(machine)

        assert machine.page_alloc.adjust_memalloc_reserve(pages) == 0
        assert sum(zone.pages_emerg for zone in machine.page_alloc.zones) == pages
        assert machine.page_alloc.adjust_memalloc_reserve(-pages) == 0
        assert marks(machine) == before


def test_less_than_nothing_is_a_bug():
    with Machine(MachineConfig(mem=16 << 20)) as machine, pytest.raises(KernelBug):
        machine.page_alloc.adjust_memalloc_reserve(-1)


def test_the_new_size_is_logged_in_kilobytes():
    with Machine(MachineConfig(mem=16 << 20)) as machine:
        machine.page_alloc.adjust_memalloc_reserve(25)

        assert "Emergency reserve: 100" in [text for _, _, text in machine.kernel.printk.buffer]


def test_without_the_patch_nothing_changes():
    with Machine(MachineConfig(mem=16 << 20, patches="all,-8")) as machine:
        before = marks(machine)

        assert machine.page_alloc.adjust_memalloc_reserve(100) == 0
        assert marks(machine) == before


# several nodes


@pytest.fixture
def two_nodes():
    with ground(64 * MIB, ncpus=2, nodes=2) as machine:
        yield machine
        machine.pa.check()


def probes(machine):
    """Remember for which nodes pages are asked by name."""
    asked = []
    real = machine.pa.alloc_pages_node
    machine.pa.alloc_pages_node = lambda nid, gfp, order=0: asked.append((nid, gfp, order)) or real(nid, gfp, order)
    return asked


def test_a_page_is_asked_of_every_node(two_nodes):
    asked = probes(two_nodes)
    assert two_nodes.pa.adjust_memalloc_reserve(100) == 0
    assert asked == [(0, g.GFP_KERNEL, 0), (1, g.GFP_KERNEL, 0)]
    assert two_nodes.pa.allocated_pages() == 0


def test_nobody_is_asked_for_a_smaller_pool(two_nodes):
    two_nodes.pa.adjust_memalloc_reserve(100)
    asked = probes(two_nodes)
    assert two_nodes.pa.adjust_memalloc_reserve(-100) == 0 and asked == []


def test_kswapd_is_woken_for_the_zones_of_all_nodes(two_nodes):
    woken = []
    two_nodes.script().wakeup_kswapd = lambda zone, order: woken.append((zone.node, zone.name, order))
    two_nodes.pa.adjust_memalloc_reserve(100)
    assert woken == [(node, name, 0) for node in (0, 1) for name in ("DMA", "DMA32", "NORMAL")]


def test_the_policy_of_the_task_that_does_swapon_does_not_matter(two_nodes):
    two_nodes.pa.set_mempolicy(MPOL_BIND, (1,))
    two_nodes.starve_node(1)
    assert two_nodes.pa.adjust_memalloc_reserve(100) == 0


def test_a_full_node_borrows_from_the_other(two_nodes):
    two_nodes.starve_node(1)
    assert two_nodes.pa.adjust_memalloc_reserve(100) == 0


def test_the_second_nodes_failure_takes_all_back(two_nodes):
    before = [(zone.pages_min, zone.pages_emerg) for zone in two_nodes.pa.zones]
    real = two_nodes.pa.alloc_pages_node
    two_nodes.pa.alloc_pages_node = lambda nid, gfp, order=0: None if nid == 1 else real(nid, gfp, order)
    assert two_nodes.pa.adjust_memalloc_reserve(100) == -ENOMEM
    assert [(zone.pages_min, zone.pages_emerg) for zone in two_nodes.pa.zones] == before
    assert two_nodes.pa.var_free_kbytes == 0 and two_nodes.pa.allocated_pages() == 0


def test_no_node_has_a_page_for_a_task_that_may_not_reclaim(two_nodes):
    two_nodes.starve_node(0)
    two_nodes.starve_node(1)
    two_nodes.task.flags |= PF_MEMALLOC
    assert two_nodes.pa.adjust_memalloc_reserve(100) == -ENOMEM
    two_nodes.task.flags &= ~PF_MEMALLOC


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 900))
def test_shares_of_all_zones_fall_short_by_less_than_a_page_each(nodes, pages):
    with ground(80 * MIB, nodes=nodes) as machine:
        assert machine.pa.adjust_memalloc_reserve(pages) == 0
        zones = [zone for zone in machine.pa.zones if zone.present_pages]
        assert pages - len(zones) < sum(zone.pages_emerg for zone in zones) <= pages


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 600), st.sampled_from([g.GFP_ATOMIC, g.GFP_NOWAIT]), st.integers(0, 1))
def test_a_flood_leaves_the_pool_of_every_node(pool, gfp, local):
    with ground(64 * MIB, ncpus=2, nodes=2) as machine:
        machine.pa.adjust_memalloc_reserve(pool)
        machine.pa.numa_node_id = lambda: local
        machine.take(gfp | g._GFP_NOWARN)
        assert all(zone.free_pages >= zone.pages_emerg for zone in machine.pa.zones)
        assert machine.pa.nr_free_pages() >= sum(zone.pages_emerg for zone in machine.pa.zones)
        entitled = machine.take(g.GFP_ATOMIC | g._GFP_MEMALLOC | g._GFP_NOWARN)
        assert machine.pa.nr_free_pages() == 0 and len(entitled) >= sum(zone.pages_emerg for zone in machine.pa.zones)


# b08: a highmem zone's own pool


@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize("reserve", [0, 1000])
@pytest.mark.parametrize("fixes", ["all", "none"])
def test_b08_every_highmem_zone_has_pages_min_as_pool_or_none(nodes, reserve, fixes):
    with ground(1536 * MIB, fixes=fixes, nodes=nodes, arch="i386") as machine:
        machine.pa.adjust_memalloc_reserve(reserve)
        high = [zone for zone in machine.pa.zones if zone.highmem]
        assert any(zone.present_pages for zone in high)
        expected = [0 if fixes == "all" else highmem_min(zone.present_pages) for zone in high]
        assert [zone.pages_emerg for zone in high] == expected
        lowmem = sum(zone.pages_emerg for zone in machine.pa.zones if not zone.highmem)
        assert reserve - 6 < lowmem <= reserve


@pytest.mark.parametrize(("fixes", "doubled"), [("all", False), ("none", True)])
def test_b08_doubles_the_lowest_mark_for_user_pages(fixes, doubled):
    """A user page may take highmem down to pages_min; with the pool that nobody asked for, to twice as much."""
    with ground(1024 * MIB, fixes=fixes, arch="i386") as machine:
        high = machine.pa.zones[2]
        floor = 64 if doubled else 32
        machine.hold(floor, "HIGHMEM")
        assert high.pages_min == 32 and not high.allows(0, 2, g.ALLOC_WMARK_MIN)
        machine.give_back(1)
        assert high.free_pages == floor + 1 and high.allows(0, 2, g.ALLOC_WMARK_MIN)


def test_b08_with_the_patch_off_there_is_no_pool():
    with ground(1024 * MIB, "all,-8", fixes="none", arch="i386") as machine:
        assert [zone.pages_emerg for zone in machine.pa.zones] == [0, 0, 0]
