"""The OOM killer (mm/oom_kill.py)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelPanic
from kemu.kernel.task import PF_EXITING, PF_SWAPOFF, TIF_MEMDIE
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.oom_kill import WORST
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


def test_an_exiting_task_only_gets_the_key(ground):
    ground.process(10)
    task = sleeper(ground, 10)
    task.flags |= PF_EXITING
    ground.sched.current.flags |= PF_EXITING
    ground.oom._oom_kill_process(task, 1)
    ground.sched.current.flags &= ~PF_EXITING
    task.flags &= ~PF_EXITING
    assert task.thread_flags & TIF_MEMDIE and not task.killed
    assert ground.vmstat.oom_kills == 0


def test_the_one_who_asks_and_is_exiting_is_chosen_at_once(ground):
    found = []

    def body():
        ground.memory.mm_alloc(ground.sched.current)
        ground.sched.current.flags |= PF_EXITING
        found.append(ground.oom.select_bad_process())
        ground.memory.exit_mmap(ground.sched.current)

    task = ground.sched.spawn("leaver", body)
    ground.run(task)
    assert found == [(task, WORST, False)]


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
