"""Memory policies of tasks, and what cpusets leave of a zonelist."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu import Machine, MachineConfig
from kemu.kernel.errno import EINVAL
from kemu.mm import gfp as g
from kemu.mm.mempolicy import MPOL_BIND, MPOL_DEFAULT, MPOL_INTERLEAVE, MPOL_PREFERRED, Mempolicy, bind_zonelist, mpol_new
from mm_ground import MIB, ground

ATOMIC = g.GFP_ATOMIC | g._GFP_NOWARN


@pytest.fixture
def machine():
    """Three nodes of 32 MiB with a CPU each: DMA and DMA32, DMA32, DMA32."""
    with ground(96 * MIB, ncpus=3, nodes=3) as machine:
        yield machine
        machine.pa.check()


def node_of(machine, gfp=g.GFP_KERNEL, order=0):
    page = machine.pa.alloc_pages(gfp, order)
    assert page is not None
    machine.pa.free_pages(page, order)
    return page.zone.node


def local(machine, node):
    machine.pa.numa_node_id = lambda: node


# the default


def test_without_a_policy_the_local_node_serves(machine):
    nodes = []
    for node in range(3):
        local(machine, node)
        nodes.append(node_of(machine))
    assert nodes == [0, 1, 2]


# bind


def test_bind_has_the_highest_zones_of_all_its_nodes_first(machine):
    zonelist = bind_zonelist((0, 2), machine.pa.nodes)
    assert [(zone.node, zone.name) for zone in zonelist] == [(0, "DMA32"), (2, "DMA32"), (0, "DMA")]


def test_bind_serves_from_the_lowest_number_whatever_the_distance(machine):
    machine.pa.set_mempolicy(MPOL_BIND, (2, 1))
    local(machine, 2)
    assert node_of(machine) == 1


@pytest.mark.parametrize("order", [0, 1, 3])
def test_bind_never_leaves_its_nodes(machine, order):
    machine.pa.set_mempolicy(MPOL_BIND, (1,))
    taken = machine.take(ATOMIC, order)
    assert taken and {page.zone.node for page in taken} == {1}


def test_a_bound_task_reclaims_from_its_nodes_alone(machine):
    machine.pa.set_mempolicy(MPOL_BIND, (1,))
    machine.take(ATOMIC)
    asked = []
    reclaim = machine.script(lambda: machine.give_back(100))
    real = reclaim.try_to_free_pages
    reclaim.try_to_free_pages = lambda zones, order, gfp: asked.append([z.node for z in zones]) or real(zones, order, gfp)
    assert node_of(machine) == 1
    assert asked == [[1]]


def test_lower_zones_are_under_no_policy(machine):
    machine.pa.set_mempolicy(MPOL_BIND, (1,))
    assert node_of(machine, g.GFP_DMA | ATOMIC) == 0


def test_on_i386_with_highmem_only_highmem_is_under_policy():
    with ground(2048 * MIB, ncpus=2, nodes=2, arch="i386") as machine:
        machine.pa.set_mempolicy(MPOL_BIND, (1,))
        assert node_of(machine, g.GFP_KERNEL) == 0
        assert node_of(machine, g.GFP_HIGHUSER) == 1


@pytest.mark.parametrize("context", [1 << 8, 1 << 16])
def test_interrupts_have_no_policy(machine, context):
    machine.pa.set_mempolicy(MPOL_BIND, (1,))
    with machine.preempt_count(context):
        assert node_of(machine, ATOMIC) == 0
    with machine.preempt_count(1):
        assert node_of(machine, ATOMIC) == 1


def test_a_request_for_this_node_only_has_no_policy(machine):
    machine.pa.set_mempolicy(MPOL_BIND, (1,))
    assert node_of(machine, g.GFP_KERNEL | g._GFP_THISNODE) == 0


def test_a_request_that_names_a_node_has_no_policy(machine):
    machine.pa.set_mempolicy(MPOL_BIND, (1,))
    assert machine.pa.alloc_pages_node(2, g.GFP_KERNEL).zone.node == 2


def test_the_policy_is_the_tasks_own(machine):
    machine.pa.set_mempolicy(MPOL_BIND, (2,))
    nodes = []
    task = machine.kernel.sched.spawn("other", lambda: nodes.append(node_of(machine)))
    machine.kernel.sched.join(task)
    assert nodes == [1] and node_of(machine) == 2  # it runs on the idle CPU of node 1


def test_a_policy_made_by_hand_finds_its_list(machine):
    machine.task.mempolicy = Mempolicy(MPOL_BIND, (2,))
    assert node_of(machine) == 2 and machine.task.mempolicy.zonelist == bind_zonelist((2,), machine.pa.nodes)


# preferred, interleave


def test_preferred_comes_first_and_falls_back(machine):
    machine.pa.set_mempolicy(MPOL_PREFERRED, (2,))
    assert node_of(machine) == 2
    machine.starve_node(2)
    assert node_of(machine) == 0


def test_preferred_without_a_node_is_the_local_one(machine):
    machine.pa.set_mempolicy(MPOL_PREFERRED, ())
    local(machine, 1)
    assert node_of(machine) == 1


def test_interleave_goes_round(machine):
    machine.pa.set_mempolicy(MPOL_INTERLEAVE, (0, 2))
    assert [machine.pa.alloc_page(g.GFP_KERNEL).zone.node for _ in range(5)] == [0, 2, 0, 2, 0]


def test_the_default_again_takes_a_policy_away(machine):
    machine.pa.set_mempolicy(MPOL_BIND, (1,))
    assert machine.pa.set_mempolicy(MPOL_DEFAULT, ()) == 0
    assert machine.task.mempolicy is None


@pytest.mark.parametrize(
    ("mode", "nodes"),
    [
        (MPOL_DEFAULT, (0,)),
        (MPOL_BIND, ()),
        (MPOL_INTERLEAVE, ()),
        (MPOL_BIND, (3,)),
        (MPOL_BIND, (-1,)),
        (MPOL_PREFERRED, (7,)),
        (4, (0,)),
    ],
)
def test_a_policy_that_cannot_be_is_refused_and_the_old_one_stays(machine, mode, nodes):
    machine.pa.set_mempolicy(MPOL_BIND, (1,))
    old = machine.task.mempolicy
    assert machine.pa.set_mempolicy(mode, nodes) == -EINVAL
    assert machine.task.mempolicy is old


@settings(max_examples=40, deadline=None)
@given(st.integers(-1, 5), st.lists(st.integers(-1, 4), max_size=4))
def test_mpol_new_gives_a_policy_or_says_no(mode, nodes):
    with ground(96 * MIB, nodes=3) as machine:
        policy = mpol_new(mode, nodes, machine.pa.nodes)
        if isinstance(policy, Mempolicy):
            assert policy.nodes == tuple(sorted(set(nodes)))[: 1 if mode == MPOL_PREFERRED else None]
            assert (policy.zonelist is not None) == (mode == MPOL_BIND)
        else:
            assert policy == -EINVAL or (policy is None and mode == MPOL_DEFAULT and not nodes)


def test_slab_pages_of_a_bound_task_come_from_its_nodes():
    """The policy reaches whoever calls alloc_pages()."""
    with Machine(MachineConfig(mem=64 * MIB, cpus=2, nodes=2)) as machine:
        machine.page_alloc.set_mempolicy(MPOL_BIND, (1,))
        address = machine.slub.kmalloc(2 * g.PAGE_SIZE, g.GFP_KERNEL)
        assert machine.page_alloc.virt_to_page(address).zone.node == 1
        machine.slub.kfree(address)
        machine.check()
