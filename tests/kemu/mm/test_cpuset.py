"""Cpusets: the nodes from which a task's requests may be served, and who may leave them."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EINVAL
from kemu.kernel.task import PF_EXITING, TIF_MEMDIE
from kemu.mm import gfp as g
from kemu.mm.cpuset import Cpuset, attach_task, cpuset_zone_allowed_hardwall, cpuset_zone_allowed_softwall
from kemu.mm.mempolicy import MPOL_BIND
from mm_ground import MIB, GaveUpError, ground

SOFTIRQ = 1 << 8
ATOMIC = g.GFP_ATOMIC | g._GFP_NOWARN


@pytest.fixture
def machine():
    """Two nodes of 32 MiB; the task may have the second one's memory."""
    with ground(64 * MIB, ncpus=2, nodes=2) as machine:
        attach_task(machine.task, Cpuset((1,)))
        yield machine
        machine.pa.check()


def soft(machine, gfp, node=0):
    return cpuset_zone_allowed_softwall(machine.kernel.sched, node, gfp)


def hard(machine, gfp, node=0):
    return cpuset_zone_allowed_hardwall(machine.kernel.sched, node, gfp)


# the walls


def test_the_own_nodes_are_allowed(machine):
    assert soft(machine, g.GFP_USER, 1) and hard(machine, g.GFP_KERNEL, 1)


def test_gfp_user_stays_inside(machine):
    assert not soft(machine, g.GFP_USER)


def test_gfp_kernel_may_have_what_the_nearest_exclusive_ancestor_has(machine):
    assert soft(machine, g.GFP_KERNEL)  # the top cpuset: all
    attach_task(machine.task, Cpuset((1,), mem_exclusive=True))
    assert not soft(machine, g.GFP_KERNEL)
    attach_task(machine.task, Cpuset((1,), parent=Cpuset((0, 1), mem_exclusive=True)))
    assert soft(machine, g.GFP_KERNEL)
    attach_task(machine.task, Cpuset((1,), parent=Cpuset((1,), mem_exclusive=True)))
    assert not soft(machine, g.GFP_KERNEL)


def test_the_hard_wall_knows_no_ancestors(machine):
    assert not hard(machine, g.GFP_KERNEL)


@pytest.mark.parametrize("wall", [soft, hard])
def test_interrupts_requests_for_a_node_and_victims_are_not_asked(machine, wall):
    with machine.preempt_count(SOFTIRQ):
        assert wall(machine, g.GFP_USER)
    assert wall(machine, g.GFP_USER | g._GFP_THISNODE)
    machine.task.thread_flags |= TIF_MEMDIE
    assert wall(machine, g.GFP_USER)
    machine.task.thread_flags = 0


def test_a_dying_task_may_leave_through_the_soft_wall(machine):
    attach_task(machine.task, Cpuset((1,), mem_exclusive=True))
    machine.task.flags |= PF_EXITING
    assert soft(machine, g.GFP_KERNEL) and not soft(machine, g.GFP_USER) and not hard(machine, g.GFP_KERNEL)
    machine.task.flags &= ~PF_EXITING


def test_asking_the_ancestors_may_sleep(machine):
    with machine.preempt_count(1), pytest.raises(KernelBug, match="sleeping function"):
        soft(machine, g.GFP_KERNEL)
    machine.kernel.sched.cpu.preempt_count = 0


def test_the_top_cpuset_has_all_nodes(machine):
    attach_task(machine.task, None)
    assert machine.task.mems_allowed is None and soft(machine, g.GFP_USER) and hard(machine, g.GFP_KERNEL)


# requests


@pytest.mark.parametrize("gfp", [g.GFP_USER, g.GFP_KERNEL, ATOMIC])
def test_at_pages_low_everybody_stays_inside(machine, gfp):
    """The first attempt has __GFP_HARDWALL, whoever asks."""
    assert machine.pa.alloc_page(gfp).zone.node == 1


def test_gfp_user_gets_nothing_from_outside(machine):
    machine.starve_node(1)
    machine.script()
    assert machine.pa.alloc_page(g.GFP_USER | g._GFP_NORETRY | g._GFP_NOWARN) is None


def test_gfp_kernel_leaves_at_the_second_attempt(machine):
    machine.starve_node(1)
    assert machine.pa.alloc_page(g.GFP_KERNEL).zone.node == 0
    assert machine.pa.vmstat.alloc_min == 1


def test_gfp_atomic_ignores_it_at_the_second_attempt(machine):
    attach_task(machine.task, Cpuset((1,), mem_exclusive=True))
    machine.starve_node(1)
    assert machine.pa.alloc_page(ATOMIC).zone.node == 0


def test_the_mark_is_that_of_the_lists_first_zone_even_if_it_is_left_out():
    """lowmem_reserve is kept from the class zone of the whole list."""
    with ground(64 * MIB, nodes=2, ncpus=2) as machine:
        attach_task(machine.task, Cpuset((0,), mem_exclusive=True))
        machine.hold(0, "DMA32")
        machine.hold(16 + 80, "DMA")  # pages_low is 80, lowmem_reserve 16
        machine.script(patience=0)
        page = machine.pa.get_page_from_freelist(
            g.GFP_USER, 0, machine.pa.nodes[1].zonelists[0], g.ALLOC_WMARK_LOW | g.ALLOC_CPUSET
        )
        assert page is None


def test_before_a_kill_the_wall_is_hard(machine):
    machine.starve_node(1)
    machine.starve_node(0)

    def victim_elsewhere():
        for page in machine.held[-3000:]:
            assert page.zone.node == 0
            machine.pa.free_pages(page)
        del machine.held[-3000:]
        machine.pa.drain_pages(0)
        return 0

    reclaim = machine.script(victim_elsewhere, patience=0)
    with pytest.raises(GaveUpError):
        machine.pa.alloc_page(g.GFP_KERNEL)
    assert reclaim.calls[-1] == "oom"


# policies


def test_a_policy_is_set_inside_the_cpuset_only(machine):
    assert machine.pa.set_mempolicy(MPOL_BIND, (0,)) == -EINVAL
    assert machine.pa.set_mempolicy(MPOL_BIND, (1,)) == 0


def test_a_bound_list_that_the_cpuset_forbids_altogether_is_not_used(machine):
    machine.pa.set_mempolicy(MPOL_BIND, (1,))
    attach_task(machine.task, Cpuset((0,), mem_exclusive=True))
    assert machine.pa.alloc_page(g.GFP_KERNEL).zone.node == 0
