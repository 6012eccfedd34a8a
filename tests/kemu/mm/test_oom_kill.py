"""The OOM killer (mm/oom_kill.py)."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug, KernelPanic
from kemu.kernel.task import CAP_SYS_ADMIN, CAP_SYS_RAWIO, PF_EXITING, PF_SWAPOFF, TIF_MEMDIE
from kemu.kernel.timer import NSEC_PER_JIFFY
from kemu.mm.cpuset import Cpuset, attach_task
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.oom_kill import CONSTRAINT_CPUSET, CONSTRAINT_MEMORY_POLICY, CONSTRAINT_NONE, WORST
from swap_ground import MIB, Script, Touch, swap_ground


@pytest.fixture
def ground():
    with swap_ground(mem=4 * MIB, kswapd=False) as g:
        yield g


def sleeper(ground, pages, uid=1, **attributes):
    task = ground.processes.spawn(f"p{pages}", Script(("sleep", None)), uid=uid)
    task.mm.total_vm = pages
    for name, value in attributes.items():
        setattr(task, name, value)
    return task


@pytest.mark.parametrize(
    ("attributes", "points"),
    [
        ({}, 1600),
        ({"nice": 5}, 3200),
        ({"uid": 0}, 100),
        ({"oomkilladj": 2}, 6400),
        ({"oomkilladj": -3}, 200),
        ({"utime_ns": 8 * 8192 * 10**6 // 2}, 800),  # four units of 8.192 s
        ({"flags": PF_SWAPOFF}, WORST),
    ],
)
def test_badness(ground, attributes, points):
    assert ground.oom.badness(sleeper(ground, 1600, **attributes)) == points


def test_a_task_that_has_run_for_hours_is_better(ground):
    task = sleeper(ground, 1600)
    task.start_ns = ground.sched.now - 16 * 1024 * 10**9
    assert ground.oom.badness(task) == 800


def test_a_positive_adjustment_makes_even_nothing_something(ground):
    assert ground.oom.badness(sleeper(ground, 0, oomkilladj=4)) == 16


def test_kernel_threads_have_no_badness(ground):
    assert ground.oom.badness(ground.task) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(-16, 15), st.integers(-20, 19), st.integers(0, 10**13))
def test_badness_is_never_negative_and_grows_with_memory(pages, adj, nice, utime):
    with swap_ground(mem=1 * MIB, kswapd=False) as ground:
        task = sleeper(ground, pages, oomkilladj=adj, nice=nice, utime_ns=utime)
        points = ground.oom.badness(task)
        task.mm.total_vm = pages + 1000
        assert 0 <= points <= ground.oom.badness(task)


def test_the_worst_is_chosen_init_and_the_exempt_never(ground):
    ground.process(10**6)
    small, big, exempt = sleeper(ground, 100), sleeper(ground, 200), sleeper(ground, 999, oomkilladj=-17)
    assert ground.oom.select_bad_process() == (big, 200, False)
    assert small.mm and exempt.mm


def test_while_one_is_dying_nobody_else_is_chosen(ground):
    dying = sleeper(ground, 100)
    sleeper(ground, 200)
    dying.thread_flags |= TIF_MEMDIE
    assert ground.oom.select_bad_process() == (None, 0, True)
    dying.thread_flags = 0
    dying.flags |= PF_EXITING
    assert ground.oom.select_bad_process() == (None, 0, True)
    dying.flags &= ~PF_EXITING


def test_the_victim_gets_sigkill_and_the_key_to_the_reserve(ground):
    victim = sleeper(ground, 100)
    ground.sched.usleep(1000)
    ground.oom.out_of_memory(ground.pa.zonelist, GFP_KERNEL, 0)
    assert victim.thread_flags & TIF_MEMDIE and victim.killed
    assert ground.vmstat.oom_kills == 1
    assert ground.judge.outcome == "oom_kill"
    assert any("Killed process" in text for _, _, text in ground.kernel.printk.buffer)
    ground.run(victim)
    assert victim.exit_code == 137


def kill(ground, task, points=1):
    return ground.oom._oom_kill_process(task, points, GFP_KERNEL, 0, "Out of memory")


def test_an_exiting_task_gets_the_key_and_nobody_is_told(ground):
    ground.process(10)
    task = sleeper(ground, 10)
    task.flags |= PF_EXITING
    assert kill(ground, task)
    task.flags &= ~PF_EXITING
    assert task.thread_flags & TIF_MEMDIE and task.killed
    assert ground.vmstat.oom_kills == 0 and "Killed" not in said(ground)


def said(ground):
    return "\n".join(text for _, _, text in ground.kernel.printk.buffer)


# children


def test_half_of_the_childrens_memory_counts_and_one_page_for_each(ground):
    parent, one, two = sleeper(ground, 100), sleeper(ground, 301), sleeper(ground, 40)
    stranger = sleeper(ground, 1000)
    one.parent = two.parent = parent
    assert ground.oom.badness(parent) == 100 + 150 + 1 + 20 + 1
    two.mm, shared = parent.mm, two.mm
    assert ground.oom.badness(parent) == 100 + 150 + 1, "a thread's memory is the parent's own"
    two.mm = shared
    assert ground.oom.badness(stranger) == 1000


def test_a_child_with_memory_of_its_own_goes_in_place_of_its_parent(ground):
    parent, thread, child, younger = (sleeper(ground, pages) for pages in (100, 1, 50, 60))
    thread.parent = child.parent = younger.parent = parent
    own, thread.mm = thread.mm, parent.mm
    assert kill(ground, parent)
    assert (child.killed, parent.killed, thread.killed, younger.killed) == (True, False, False, False)
    thread.mm = own


def test_an_exempt_child_is_passed_over(ground):
    parent, exempt, child = sleeper(ground, 100), sleeper(ground, 50, oomkilladj=-17), sleeper(ground, 10)
    exempt.parent = child.parent = parent
    assert kill(ground, parent)
    assert (exempt.killed, child.killed) == (False, True)


def test_a_parent_without_children_that_can_go_goes_itself(ground):
    parent, exempt = sleeper(ground, 100), sleeper(ground, 50, oomkilladj=-17)
    exempt.parent = parent
    assert kill(ground, parent)
    assert parent.killed and not exempt.killed


# who shares the memory


def test_all_who_share_the_memory_are_killed_but_one_only_may_use_the_reserve(ground):
    victim, other = sleeper(ground, 100), sleeper(ground, 1)
    own, other.mm = other.mm, victim.mm
    assert kill(ground, victim)
    assert victim.killed and other.killed
    assert victim.thread_flags & TIF_MEMDIE and not other.thread_flags & TIF_MEMDIE
    other.mm = own


def test_one_exempt_sharer_saves_the_others_and_the_kernel_spins(ground):
    ground.process(1)
    victim, other = sleeper(ground, 100), sleeper(ground, 1, oomkilladj=-17)
    own, other.mm = other.mm, victim.mm
    assert not kill(ground, victim)
    with pytest.raises(KernelBug, match="for ever"):
        ground.oom.out_of_memory(ground.pa.zonelist, GFP_KERNEL, 0)
    assert not victim.killed
    other.mm = own


def test_who_has_no_memory_is_not_killed(ground):
    task = sleeper(ground, 10)
    own, task.mm = task.mm, None
    assert not kill(ground, task) and not task.killed
    task.mm = own


def test_init_is_not_killed_even_if_it_asks(ground):
    """vm.oom_kill_allocating_task, and pid 1 asks."""
    ground.kernel.sysctl.write("vm.oom_kill_allocating_task", "1")
    ground.process(10)
    assert ground.task.pid == 1
    ground.oom.out_of_memory(ground.pa.zonelist, GFP_KERNEL, 0)
    assert not ground.task.killed and "tried to kill init!" in said(ground)


# capabilities and cpusets


def test_capabilities_spare_a_task_as_root_is_spared(ground):
    assert ground.oom.badness(sleeper(ground, 1600, cap_effective=1 << CAP_SYS_ADMIN)) == 400
    assert ground.oom.badness(sleeper(ground, 1600, cap_effective=1 << CAP_SYS_RAWIO)) == 400
    assert ground.oom.badness(sleeper(ground, 1600, uid=0, cap_effective=0)) == 400


def test_memory_on_other_nodes_counts_an_eighth(ground):
    task = sleeper(ground, 1600, mems_allowed=(1,))
    ground.task.mems_allowed = (0,)
    assert ground.oom.badness(task) == 200
    ground.task.mems_allowed = (0, 1)
    assert ground.oom.badness(task) == 1600
    ground.task.mems_allowed = None
    assert ground.oom.badness(task) == 1600


# sysctls


def test_whoever_asks_may_be_the_one_who_goes(ground):
    assert ground.kernel.sysctl.write("vm.oom_kill_allocating_task", "1") == 0
    big = sleeper(ground, 9000)
    asked = []

    def body():
        ground.memory.mm_alloc(ground.sched.current)
        ground.oom.out_of_memory(ground.pa.zonelist, GFP_KERNEL, 0)
        asked.append(bool(ground.sched.current.thread_flags & TIF_MEMDIE))
        ground.memory.exit_mmap(ground.sched.current)

    ground.run(ground.sched.spawn("asker", body, uid=1))
    assert asked == [True] and not big.killed
    assert "Out of memory (oom_kill_allocating_task): kill process" in said(ground)


@pytest.mark.parametrize(("value", "text"), [("1", "panic_on_oom is selected"), ("2", "Compulsory panic_on_oom")])
def test_a_machine_may_panic_rather_than_kill(ground, value, text):
    assert ground.kernel.sysctl.write("vm.panic_on_oom", value) == 0
    sleeper(ground, 100)
    with pytest.raises(KernelPanic, match=text):
        ground.oom.out_of_memory(ground.pa.zonelist, GFP_KERNEL, 0)


# nodes


class TwoNodes:
    """Makes the machine believe in a second node."""

    def __init__(self, ground):
        self.real, zone = ground.pa.nodes, ground.pa.zones[0]
        self.zones = [attrs.evolve(zone, node=1)]
        self.node_id = 1


@pytest.mark.parametrize(("compulsory", "panics"), [("1", False), ("2", True)])
def test_a_policy_kills_who_asks_and_panics_only_if_it_must(ground, compulsory, panics):
    ground.kernel.sysctl.write("vm.panic_on_oom", compulsory)
    big = sleeper(ground, 9000)
    node = TwoNodes(ground)
    ground.pa.nodes = [*node.real, node]
    ground.memory.mm_alloc(ground.task)
    ground.task.pid, pid = 99, ground.task.pid
    try:
        if panics:
            with pytest.raises(KernelPanic, match="Compulsory"):
                ground.oom.out_of_memory(ground.pa.zonelist, GFP_KERNEL, 0)
        else:
            ground.oom.out_of_memory(ground.pa.zonelist, GFP_KERNEL, 0)
            assert ground.task.killed and not big.killed and "No available memory (MPOL_BIND)" in said(ground)
    finally:
        ground.task.pid, ground.pa.nodes = pid, node.real


def test_a_cpuset_that_shuts_a_node_out_is_looked_at_first(ground):
    node = TwoNodes(ground)
    ground.pa.nodes = [*node.real, node]
    ground.task.mems_allowed = (1,)
    attach_task(ground.task, Cpuset((1,), mem_exclusive=True))
    assert ground.oom._constrained_alloc(ground.pa.zonelist, GFP_KERNEL) == CONSTRAINT_CPUSET
    attach_task(ground.task, None)
    assert ground.oom._constrained_alloc(ground.pa.zonelist, GFP_KERNEL) == CONSTRAINT_MEMORY_POLICY
    assert ground.oom._constrained_alloc([*ground.pa.zonelist, *node.zones], GFP_KERNEL) == CONSTRAINT_NONE
    ground.pa.nodes = node.real
    assert ground.oom._constrained_alloc(ground.pa.zonelist, GFP_KERNEL) == CONSTRAINT_NONE


@pytest.mark.parametrize("another_dies", [False, True])
def test_the_one_who_asks_and_is_exiting_is_chosen_unless_another_dies_already(ground, another_dies):
    found = []

    def body():
        current = ground.sched.current
        ground.memory.mm_alloc(current)
        current.flags |= PF_EXITING
        later = sleeper(ground, 9000)
        if another_dies:
            later.thread_flags |= TIF_MEMDIE
        found.append(ground.oom.select_bad_process())
        ground.memory.exit_mmap(current)

    task = ground.sched.spawn("leaver", body)
    ground.run(task)
    assert found == [(None, 0, True) if another_dies else (task, WORST, False)]


@pytest.mark.parametrize(("memdie", "slept"), [(0, True), (TIF_MEMDIE, False)])
def test_who_asks_gives_the_victim_a_tick_unless_it_is_the_victim(ground, memdie, slept):
    sleeper(ground, 100)
    ground.task.thread_flags |= memdie
    before = ground.sched.now
    ground.oom.out_of_memory(ground.pa.zonelist, GFP_KERNEL, 0)
    assert (ground.sched.now - before >= NSEC_PER_JIFFY // 2) is slept
    ground.task.thread_flags &= ~TIF_MEMDIE


def test_nobody_to_kill_is_a_panic(ground):
    with pytest.raises(KernelPanic, match="no killable"):
        ground.oom.out_of_memory(ground.pa.zonelist, GFP_KERNEL, 0)
    assert ground.judge.outcome == "panic"


def test_without_swap_the_hog_is_killed_and_the_machine_goes_on():
    with swap_ground(mem=4 * MIB) as ground:
        ground.memory.overcommit_memory = 1
        hog = ground.processes.spawn("hog", Touch(1500), uid=1)
        other = ground.processes.spawn("other", Touch(50, rounds=20), uid=1)
        ground.run(hog, other)
        assert (hog.exit_code, other.exit_code) == (137, 0)
        assert ground.vmstat.oom_kills == 1
        assert ground.judge.outcome == "oom_kill"
        ground.check()


def test_a_process_that_grows_in_steps_is_refused_before_anybody_is_killed():
    with swap_ground(mem=4 * MIB) as ground:
        task = ground.processes.spawn("big", Script(("grow", 4000)), uid=1)
        ground.run(task)
        assert task.exit_code == 12
        assert ground.vmstat.oom_kills == 0
