"""The page allocator of several nodes as a whole: who may end up with a page of which node."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.fixes import FixSet
from kemu.kernel.core import Kernel
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm import gfp as g
from kemu.mm.cpuset import Cpuset, attach_task
from kemu.mm.mempolicy import MPOL_BIND, MPOL_INTERLEAVE, MPOL_PREFERRED
from kemu.mm.nodes import topology
from kemu.mm.numa import NumaPageAllocator
from kemu.mm.page_alloc import PageAllocator
from kemu.patches import PatchSet
from mm_ground import MIB, ground

GIB = 1 << 30
SOFTIRQ = 1 << 8

GFPS = [
    g.GFP_ATOMIC,
    g.GFP_NOWAIT,
    g.GFP_USER | g._GFP_NORETRY,
    g.GFP_KERNEL | g._GFP_NORETRY,
    g.GFP_ATOMIC | g._GFP_MEMALLOC,
    g.GFP_ATOMIC | g._GFP_MEMALLOC | g._GFP_NOMEMALLOC,
]

requests = st.fixed_dictionaries(
    {
        "gfp": st.sampled_from(GFPS),
        "modifier": st.sampled_from([0, 0, g.GFP_DMA]),
        "thisnode": st.booleans(),
        "softirq": st.booleans(),
        "cpu": st.integers(0, 2),
        "order": st.sampled_from([0, 0, 0, 1, 3]),
    }
)


def nodes_that_may_serve(request, bound, cpuset, patches):
    """Say what the texts allow: a set of nodes."""
    gfp, local = request["gfp"], request["cpu"]
    everywhere = {0, 1, 2}
    if request["thisnode"]:
        return {local}  # b09 is mended
    policed = bound and not request["softirq"] and not request["modifier"]
    usable = policed and (cpuset is None or set(bound) & set(cpuset))
    may = set(bound) if usable else everywhere
    if gfp & g._GFP_MEMALLOC and not gfp & g._GFP_NOMEMALLOC:
        return everywhere if 9 in patches else may
    if cpuset is not None and gfp & g._GFP_HARDWALL:  # and can wait, so it is in no interrupt
        return may & set(cpuset)
    return may


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["all", "all,-9", "none"]),
    st.sampled_from([(), (0,), (1,), (2,), (0, 1), (1, 2)]),
    st.sampled_from([None, (0,), (1,), (0, 2)]),
    st.lists(st.integers(0, 200), min_size=3, max_size=3),
    st.lists(requests, min_size=1, max_size=12),
)
def test_a_page_is_of_a_node_that_the_request_may_have(patches, bound, cpuset, free, wanted):
    with ground(24 * MIB, patches, ncpus=3, nodes=3) as machine:
        pa = machine.pa
        for node, pages in enumerate(free):
            machine.starve_node(node, pages)
        if bound:
            assert pa.set_mempolicy(MPOL_BIND, bound) == 0
        attach_task(machine.task, Cpuset(cpuset) if cpuset else None)
        for request in wanted:
            pa.numa_node_id = lambda request=request: request["cpu"]
            gfp = request["gfp"] | request["modifier"] | g._GFP_NOWARN
            if request["thisnode"]:
                gfp |= g._GFP_THISNODE
                if request["modifier"]:
                    continue  # not all nodes have DMA: see below
            request["softirq"] = request["softirq"] and not gfp & g._GFP_WAIT
            with machine.preempt_count(SOFTIRQ if request["softirq"] else 0):
                page = pa.alloc_pages(gfp, request["order"])
            if page is not None:
                assert page.zone.node in nodes_that_may_serve(request, bound, cpuset, PatchSet.parse(patches))
                pa.free_pages(page, request["order"])
        pa.check()


def test_a_list_that_begins_elsewhere_serves_from_there():
    """2.6.23 compares with the list's first zone: a node without a zone of the type hands the request on, whole."""
    with ground(64 * MIB, ncpus=2, nodes=2) as machine:
        page = machine.pa.alloc_pages_node(1, g.GFP_ATOMIC | g.GFP_DMA | g._GFP_THISNODE)
        assert page.zone.node == 0


def test_in_zone_order_a_request_for_one_node_has_its_highest_zone_alone():
    """The scan stops at the other node's NORMAL, before the own DMA32."""
    with ground(16 * GIB, ncpus=2, nodes=2) as machine:
        zones = machine.pa._zones_to_try(machine.pa.nodes[0].zonelists[0], g._GFP_THISNODE, 0)
        assert [(zone.node, zone.name) for zone in zones] == [(0, "NORMAL")]


@pytest.mark.parametrize("mode", [MPOL_BIND, MPOL_PREFERRED, MPOL_INTERLEAVE])
def test_every_policy_can_be_drained_and_given_back(mode):
    with ground(64 * MIB, ncpus=2, nodes=2) as machine:
        machine.pa.set_mempolicy(mode, (1,))
        machine.take()
        machine.task.flags |= PF_MEMALLOC
        machine.take()
        machine.task.flags &= ~PF_MEMALLOC
        assert machine.pa.nr_free_pages() == 0
        machine.give_back()
        machine.pa.drain_pages(1)
        assert machine.pa.nr_free_pages() == machine.pa.total_pages
        machine.pa.check()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["all", "none"]), st.sampled_from([2, 32, 128]), st.data())
def test_of_one_node_both_allocators_do_the_same(patches, mib, data):
    """Nothing of this class is asked when there is one node; so it must not matter which one is there."""
    modifiers = st.sampled_from([0, 0, g.GFP_DMA, g._GFP_THISNODE])
    asked = st.tuples(st.sampled_from(GFPS), st.sampled_from([0, 0, 1, 4, 11]), modifiers)
    steps = data.draw(st.lists(st.one_of(asked, st.integers(0, 30), st.just("drain")), max_size=40))
    traces = []
    for allocator in (PageAllocator, NumaPageAllocator):
        kernel = Kernel(ncpus=2, patched=PatchSet.parse(patches), fixed=FixSet.all())
        try:
            traces.append(list(_drive(allocator(kernel, mib * MIB, topo=topology(1, 2)), steps)))
        finally:
            kernel.shutdown()
    assert traces[0] == traces[1]


def _drive(pa, steps):
    blocks = []
    for step in steps:
        if step == "drain":
            pa.drain_pages(0)
        elif isinstance(step, int):
            if blocks:
                pa.free_pages(*blocks.pop(step % len(blocks)))
        else:
            gfp, order, more = step
            page = pa.alloc_pages(gfp | more | g._GFP_NOWARN, order)
            if page is not None:
                blocks.append((page, order))
            yield page and (page.pfn, page.zone.name, page.reserve)
        yield pa.nr_free_pages(), pa.vmstat.as_dict()
    pa.check()


@pytest.mark.parametrize("order", [-1, 11, 1000])
def test_an_order_that_is_none_gets_null(order):
    with ground(64 * MIB, ncpus=2, nodes=2) as machine:
        assert machine.pa.alloc_pages(g.GFP_KERNEL, order) is None
        assert machine.pa.alloc_pages_node(1, g.GFP_KERNEL, order) is None
        machine.pa.check()


def test_a_node_that_is_not_there_is_a_bug():
    with ground(64 * MIB, ncpus=2, nodes=2) as machine, pytest.raises(KernelBug, match="there are 2 nodes"):
        machine.pa.alloc_pages_node(2, g.GFP_KERNEL)


def test_no_node_named_is_the_running_cpus():
    with ground(64 * MIB, ncpus=2, nodes=2) as machine:
        machine.pa.numa_node_id = lambda: 1
        assert machine.pa.alloc_pages_node(-1, g.GFP_KERNEL).zone.node == 1
