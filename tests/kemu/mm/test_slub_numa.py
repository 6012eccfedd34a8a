"""SLUB on several nodes: whose memory an object is of, and when slabs of other nodes are filled up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.cpuset import Cpuset, attach_task
from kemu.mm.gfp import _GFP_NOWARN, _GFP_THISNODE, GFP_ATOMIC, GFP_KERNEL
from kemu.mm.mempolicy import MPOL_INTERLEAVE, MPOL_PREFERRED
from slab_ground import MIB, slab_ground

OTHER_NODES_TURN = 5  # of the clock: below the ratio of 100 in 1024
LOCAL_TURN = 500


@pytest.fixture
def sg():
    """Two nodes with a CPU each."""
    with slab_ground(64 * MIB, ncpus=2, nodes=2) as machine:
        yield machine
        machine.slub.check()
        machine.pa.check()


def node_of(sg, address):
    return sg.slub.virt_to_head_page(address).zone.node


def set_clock(sg, turn):
    cpu = sg.kernel.sched.cpu
    cpu.now += -cpu.now % 1024 + turn


def test_objects_are_local(sg):
    for cpu in (0, 1):
        sg.cpu(cpu)
        assert node_of(sg, sg.slub.kmalloc(64, GFP_KERNEL)) == cpu


@pytest.mark.parametrize("node", [0, 1])
def test_the_node_that_is_asked_for_is_given(sg, node):
    objects = [sg.slub.kmalloc_node(64, GFP_KERNEL, node) for _ in range(70)]
    assert [node_of(sg, address) for address in objects] == [node] * 70
    assert len(sg.cache(64).slabs) == 2


def test_any_node_is_the_ordinary_way(sg):
    assert node_of(sg, sg.slub.kmalloc_node(64, GFP_KERNEL, -1)) == 0
    assert node_of(sg, sg.slub.kmem_cache_alloc_node(sg.cache(64), GFP_KERNEL, -1)) == 0


def test_another_nodes_request_puts_the_cpu_slab_on_its_nodes_list(sg):
    cache = sg.cache(64)
    here = sg.slub.kmalloc(64, GFP_KERNEL)
    sg.slub.kmalloc_node(64, GFP_KERNEL, 1)
    assert [list(partial) for partial in cache.partials] == [[sg.slub.virt_to_page(here).pfn], []]
    assert cache.cpu_slab[0].node == 1
    # and the next of this node takes it from there
    assert sg.slub.virt_to_page(sg.slub.kmalloc_node(64, GFP_KERNEL, 0)) is sg.slub.virt_to_page(here)
    assert len(cache.slabs) == 2


def test_a_freed_object_returns_to_the_list_of_its_own_node(sg):
    cache = sg.cache(1024)
    objects = [sg.slub.kmalloc_node(1024, GFP_KERNEL, 1) for _ in range(4)]
    sg.slub.kmalloc(1024, GFP_KERNEL)
    sg.slub.kfree(objects[0])
    assert [len(partial) for partial in cache.partials] == [0, 1]


def test_empty_slabs_are_kept_per_node(sg):
    cache = sg.cache(1024)
    for node in (0, 1):
        held = [sg.slub.kmalloc_node(1024, GFP_KERNEL, node) for _ in range(4 * 3)]
        for address in held:
            sg.slub.kfree(address)
        sg.slub.flush_cpu_slab(cache, 0)
    assert [len(partial) <= cache.min_partial for partial in cache.partials] == [True, True]
    assert sum(map(len, cache.partials)) == cache.nr_partial == len(cache.slabs)


def remote_partials(sg, count):
    """Leave ``count`` partial slabs on node 1, and nothing on node 0."""
    objects = [sg.slub.kmalloc_node(1024, GFP_KERNEL, 1) for _ in range(4 * count)]
    sg.slub.flush_cpu_slab(sg.cache(1024), 0)
    for address in objects[::4]:
        sg.slub.kfree(address)
    assert [len(partial) for partial in sg.cache(1024).partials] == [0, count]


@pytest.mark.parametrize(("count", "turn", "node"), [(3, OTHER_NODES_TURN, 1), (3, LOCAL_TURN, 0), (2, OTHER_NODES_TURN, 0)])
def test_slabs_of_other_nodes_are_filled_up_now_and_then_if_there_are_many(sg, count, turn, node):
    remote_partials(sg, count)
    set_clock(sg, turn)
    assert node_of(sg, sg.slub.kmalloc(1024, GFP_KERNEL)) == node


def test_with_a_ratio_of_zero_objects_are_local_always(sg):
    remote_partials(sg, 3)
    sg.cache(1024).defrag_ratio = 0
    set_clock(sg, 0)
    assert node_of(sg, sg.slub.kmalloc(1024, GFP_KERNEL)) == 0


def test_thisnode_looks_nowhere_else(sg):
    remote_partials(sg, 3)
    set_clock(sg, OTHER_NODES_TURN)
    assert node_of(sg, sg.slub.kmalloc(1024, GFP_KERNEL | _GFP_THISNODE)) == 0


def test_a_cpuset_forbids_the_slabs_of_other_nodes(sg):
    remote_partials(sg, 3)
    attach_task(sg.task, Cpuset((0,)))
    set_clock(sg, OTHER_NODES_TURN)
    assert node_of(sg, sg.slub.kmalloc(1024, GFP_KERNEL)) == 0
    attach_task(sg.task, None)


@pytest.mark.parametrize("mode", [MPOL_PREFERRED, MPOL_INTERLEAVE])
def test_a_policy_says_where_the_search_begins(sg, mode):
    assert sg.pa.set_mempolicy(mode, (1,)) == 0
    assert sg.slub._slab_node() == 1
    sg.task.mempolicy = None
    assert sg.slub._slab_node() == 0


def test_a_full_node_is_helped_by_the_other(sg):
    starve(sg, 1)
    address = sg.slub.kmalloc_node(64, GFP_ATOMIC | _GFP_NOWARN, 1)
    assert node_of(sg, address) == 0
    assert sg.slub.kmalloc_node(64, GFP_ATOMIC | _GFP_NOWARN | _GFP_THISNODE, 1) is None


@pytest.mark.parametrize("node", [2, 64])
def test_a_node_that_there_is_not_is_a_bug(sg, node):
    with pytest.raises(KernelBug, match=f"node {node} of 2 nodes"):
        sg.slub.kmalloc_node(64, GFP_KERNEL, node)


def starve(sg, node):
    while (page := sg.pa.alloc_pages_node(node, GFP_ATOMIC | _GFP_NOWARN | _GFP_THISNODE)) is not None:
        sg.ground.held.append(page)


def test_a_rationed_slab_matches_no_node():
    """After an object was handed out singly c->node is -1: an entitled caller for a node gets the same slab by way of its list."""
    with slab_ground(64 * MIB, ncpus=2, nodes=2) as sg:
        sg.floor()
        sg.task.flags |= PF_MEMALLOC
        first, second = (sg.slub.kmalloc_node(64, GFP_ATOMIC, 0) for _ in range(2))
        sg.task.flags &= ~PF_MEMALLOC
        assert sg.cache(64).cpu_slab[0].node == -1
        assert sg.slub.virt_to_page(first) is sg.slub.virt_to_page(second)
        assert sg.slub.kmalloc(64, GFP_ATOMIC | _GFP_NOWARN) is None
        sg.slub.check()


def test_a_slab_that_came_meanwhile_must_be_of_the_wanted_node(sg, monkeypatch):
    """The -mm1 rule: what another context installed is used if the node matches; if not it makes room."""
    real = sg.pa.alloc_pages_node
    inner = []

    def interrupted(node, gfp, order=0):
        monkeypatch.setattr(sg.pa, "alloc_pages_node", real)
        inner.append(sg.slub.kmalloc(512, GFP_ATOMIC))
        return real(node, gfp, order)

    monkeypatch.setattr(sg.pa, "alloc_pages_node", interrupted)
    address = sg.slub.kmalloc_node(512, GFP_KERNEL, 1)
    assert (node_of(sg, inner[0]), node_of(sg, address)) == (0, 1)
    cache = sg.cache(512)
    assert cache.cpu_slab[0].node == 1 and [len(partial) for partial in cache.partials] == [1, 0]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["all", "none"]),
    st.lists(
        st.tuples(st.sampled_from([32, 1024, 2048]), st.sampled_from(["local", 0, 1, "free", "cpu", "flush"]), st.integers(0, 9)),
        max_size=60,
    ),
)
def test_whatever_is_asked_of_two_nodes_the_lists_stay_sound(patches, steps):
    with slab_ground(32 * MIB, patches, ncpus=2, nodes=2) as sg:
        live = []
        for size, what, number in steps:
            if what == "cpu":
                sg.cpu(number % 2)
            elif what == "flush":
                sg.slub.flush_cpu_slab(sg.cache(size), number % 2)
            elif what == "free":
                if live:
                    sg.slub.kfree(live.pop(number % len(live)))
            else:
                for _ in range(number + 1):
                    address = sg.slub.kmalloc_node(size, GFP_KERNEL, -1 if what == "local" else what)
                    assert what == "local" or node_of(sg, address) == what
                    live.append(address)
            sg.slub.check()
        for address in live:
            sg.slub.kfree(address)
        sg.slub.shrink_all()
        assert sg.pa.vmstat.nr_slab == 0
