"""Patch 09: whoever may use the reserve may use that of all nodes, whatever the task's policy says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.task import PF_MEMALLOC, TIF_MEMDIE
from kemu.mm import gfp as g
from kemu.mm.cpuset import Cpuset, attach_task
from kemu.mm.mempolicy import MPOL_BIND, Mempolicy
from mm_ground import MIB, GaveUpError, ground

ENTITLED = g.GFP_ATOMIC | g._GFP_MEMALLOC | g._GFP_NOWARN
OFF = "all,-9"
SOFTIRQ = 1 << 8


def two_nodes(patches="all", **kwargs):
    """64 MiB on two nodes of one CPU each: DMA and DMA32 on node 0, DMA32 on node 1."""
    return ground(64 * MIB, patches, ncpus=2, nodes=2, **kwargs)


def bound_to(machine, *nodes):
    machine.task.mempolicy = Mempolicy(MPOL_BIND, nodes)
    return machine


def home(machine, cpu):
    """Let the node of a CPU be the local one."""
    machine.pa.numa_node_id = lambda: machine.pa.topology.cpu_to_node[cpu]


# the one observable failure


@pytest.mark.parametrize(("patches", "served"), [("all", True), (OFF, False)])
@pytest.mark.parametrize("entitled_by", ["request", "PF_MEMALLOC", "TIF_MEMDIE"])
def test_bound_to_a_full_node_the_reserve_of_the_other_one_is_had(patches, served, entitled_by):
    with two_nodes(patches) as machine:
        bound_to(machine, 1)
        machine.starve_node(1)
        machine.starve_node(0, 10)
        gfp = g.GFP_ATOMIC | g._GFP_NOWARN
        if entitled_by == "request":
            gfp |= g._GFP_MEMALLOC
        elif entitled_by == "PF_MEMALLOC":
            machine.task.flags |= PF_MEMALLOC
        else:
            machine.task.thread_flags |= TIF_MEMDIE
        page = machine.pa.alloc_page(gfp)
        assert (page is not None) == served
        assert not served or page.zone.node == 0
        machine.task.flags &= ~PF_MEMALLOC
        machine.pa.check()


# (a) an entitled request fails only if no allowed zone of any node has a free page


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(0,), (1,), (2,), (0, 2), (1, 2)]),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
    st.sampled_from([0, g.GFP_DMA, g._GFP_DMA32]),
    st.booleans(),
)
def test_an_entitled_request_gets_every_page_that_its_zones_have_on_all_nodes(nodes, free, modifier, on):
    with ground(48 * MIB, "all" if on else OFF, ncpus=3, nodes=3) as machine:
        bound_to(machine, *nodes)
        for nid, pages in enumerate(free):
            machine.starve_node(nid, pages)
        highest = machine.pa.nodes[0].gfp_zone(modifier)
        allowed = [zone for zone in machine.pa.zones if zone.zone_idx <= highest]
        if not on and modifier != g.GFP_DMA:
            allowed = [zone for zone in allowed if zone.node in nodes]  # DMA is below the policy zone: no policy
        count = sum(zone.free_pages for zone in allowed)
        assert len(machine.take(ENTITLED | modifier)) == count
        machine.pa.check()


# (b) a request that is not entitled never leaves the list of its policy


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([g.GFP_ATOMIC, g.GFP_NOWAIT, g.GFP_KERNEL | g._GFP_NORETRY, ENTITLED | g._GFP_NOMEMALLOC]),
    st.integers(0, 2),
    st.integers(0, 300),
    st.booleans(),
)
def test_who_is_not_entitled_stays_on_the_nodes_of_the_policy(gfp, order, free, on):
    with two_nodes("all" if on else OFF) as machine:
        bound_to(machine, 1)
        machine.starve_node(1, free)
        machine.script()
        assert all(page.zone.node == 1 for page in machine.take(gfp | g._GFP_NOWARN, order))


# (c) the type of zone still binds


def test_a_dma_request_is_not_served_from_another_zone():
    with two_nodes() as machine:
        bound_to(machine, 1)
        machine.hold(0, "DMA")
        assert machine.pa.alloc_page(ENTITLED | g.GFP_DMA) is None
        assert machine.pa.zones[1].free_pages and machine.pa.nodes[1].zones[1].free_pages


def test_a_lowmem_request_is_not_served_from_highmem():
    """i386, three nodes of 512 MiB: NORMAL ends inside node 1, node 2 is all highmem."""
    with ground(1536 * MIB, ncpus=3, nodes=3, arch="i386") as machine:
        dma, normal, high = machine.pa.nodes[2].zones
        assert not dma.present_pages and not normal.present_pages and high.free_pages
        assert all(not zone.highmem for node in machine.pa.nodes for zone in node.zonelists[0])


# (d) the first two attempts use the list of the policy


@pytest.mark.parametrize("patches", ["all", OFF])
def test_the_first_two_attempts_obey_the_policy(patches):
    with two_nodes(patches) as machine:
        bound_to(machine, 1)
        machine.starve_node(1)
        seen = []
        real = machine.pa.get_page_from_freelist

        def spy(gfp, order, zonelist, alloc_flags):
            seen.append((alloc_flags & g.ALLOC_NO_WATERMARKS != 0, [zone.node for zone in zonelist]))
            return real(gfp, order, zonelist, alloc_flags)

        machine.pa.get_page_from_freelist = spy
        machine.pa.alloc_page(ENTITLED)
        last = [0, 0, 1] if patches == "all" else [1]
        assert seen == [(False, [1]), (False, [1]), (True, last)]


@pytest.mark.parametrize("patches", ["all", OFF])
def test_an_entitled_request_stays_at_home_while_marks_are_kept(patches):
    with two_nodes(patches) as machine:
        bound_to(machine, 1)
        assert machine.pa.alloc_page(ENTITLED).zone.node == 1


# (e) on one node there is no difference


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([ENTITLED, g.GFP_ATOMIC, g.GFP_KERNEL | g._GFP_NORETRY, ENTITLED | g.GFP_DMA]), max_size=30))
def test_on_one_node_there_is_no_difference(requests):
    results = []
    for patches in ("all", OFF):
        with ground(2 * MIB, patches) as machine:
            machine.take()
            results.append([page and page.pfn for page in (machine.pa.alloc_page(gfp | g._GFP_NOWARN) for gfp in requests)])
    assert results[0] == results[1]


# every lap, and from then on


def test_each_lap_of_nofail_asks_for_the_local_node_anew():
    """A task that waited may have come to another CPU."""
    with two_nodes() as machine:
        bound_to(machine, 1)
        machine.starve_node(0)
        machine.starve_node(1)
        machine.task.flags |= PF_MEMALLOC
        firsts = []
        real = machine.pa.get_page_from_freelist

        def spy(gfp, order, zonelist, alloc_flags):
            if alloc_flags & g.ALLOC_NO_WATERMARKS:
                firsts.append(zonelist[0].node)
            return real(gfp, order, zonelist, alloc_flags)

        machine.pa.get_page_from_freelist = spy
        reclaim = machine.script(patience=3)
        reclaim.on_wait = lambda: home(machine, len(firsts) % 2)
        with pytest.raises(GaveUpError):
            machine.pa.alloc_page(g.GFP_NOIO | g._GFP_NOFAIL)
        machine.task.flags &= ~PF_MEMALLOC
        assert firsts == [0, 1, 0, 1]


def test_a_nofail_request_of_a_bound_task_ends_when_any_node_has_a_page():
    results = {}
    for patches in ("all", OFF):
        with two_nodes(patches) as machine:
            bound_to(machine, 1)
            machine.starve_node(0, 1)
            machine.starve_node(1)
            machine.task.flags |= PF_MEMALLOC
            machine.script(patience=5)
            try:
                results[patches] = machine.pa.alloc_page(g.GFP_NOIO | g._GFP_NOFAIL).zone.node
            except GaveUpError:
                results[patches] = "waits for ever"
            machine.task.flags &= ~PF_MEMALLOC
    assert results == {"all": 0, OFF: "waits for ever"}


# cpusets are ignored there already


@pytest.mark.parametrize("patches", ["all", OFF])
def test_the_attempt_without_watermarks_asks_no_cpuset(patches):
    with two_nodes(patches) as machine:
        attach_task(machine.task, Cpuset((1,), mem_exclusive=True))
        machine.starve_node(1)
        machine.task.flags |= PF_MEMALLOC
        assert machine.pa.alloc_page(g.GFP_KERNEL).zone.node == 0
        machine.task.flags &= ~PF_MEMALLOC


# b09


@pytest.mark.parametrize(("fixes", "node"), [("all", 1), ("none", 0)])
def test_b09_a_request_for_one_node_is_served_from_the_local_one(fixes, node):
    with two_nodes(fixes=fixes) as machine:
        machine.starve_node(0, 5)
        machine.starve_node(1, 5)
        page = machine.pa.alloc_pages_node(1, ENTITLED | g._GFP_THISNODE)
        assert page.zone.node == node


@pytest.mark.parametrize(("fixes", "served"), [("all", False), ("none", True)])
def test_b09_when_its_node_is_empty(fixes, served):
    """Mended, it gets NULL: the one thing that it forbade is a page of another node."""
    with two_nodes(fixes=fixes) as machine:
        machine.starve_node(0, 5)
        machine.starve_node(1)
        assert (machine.pa.alloc_pages_node(1, ENTITLED | g._GFP_THISNODE) is not None) == served


@pytest.mark.parametrize("fixes", ["all", "none"])
def test_b09_off_the_request_keeps_its_node(fixes):
    with two_nodes(OFF, fixes=fixes) as machine:
        machine.starve_node(1, 5)
        assert machine.pa.alloc_pages_node(1, ENTITLED | g._GFP_THISNODE).zone.node == 1


@pytest.mark.parametrize("fixes", ["all", "none"])
def test_in_a_softirq_there_is_no_policy_to_break_out_of(fixes):
    with two_nodes(fixes=fixes) as machine:
        bound_to(machine, 1)
        machine.starve_node(1)
        with machine.preempt_count(SOFTIRQ):
            assert machine.pa.alloc_page(g.GFP_ATOMIC).zone.node == 0
