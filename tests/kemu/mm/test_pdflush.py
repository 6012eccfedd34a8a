"""The flushing threads (mm/pdflush.py)."""

from __future__ import annotations

import pytest

from file_ground import file_ground
from kemu.kernel.task import PF_FLUSHER, PF_MEMALLOC, PF_SWAPWRITE
from kemu.kernel.timer import HZ

SECOND = 10**9


@pytest.fixture
def ground():
    with file_ground() as g:
        g.pdflush = g.machine.pdflush
        g.world.run(for_ns=1_000_000)
        yield g


def threads(ground):
    return [task for task in ground.sched.tasks.values() if task.comm == "pdflush"]


def test_two_threads_sleep_from_boot_on(ground):
    assert len(threads(ground)) == ground.pdflush.nr_threads == len(ground.pdflush.idle) == 2
    assert all(task.flags & (PF_FLUSHER | PF_SWAPWRITE) == PF_FLUSHER | PF_SWAPWRITE for task in threads(ground))
    assert not any(task.flags & PF_MEMALLOC for task in threads(ground))
    assert ground.kernel.sysctl.read("vm.nr_pdflush_threads") == "2\n"


def test_work_is_done_by_a_thread(ground):
    done = []
    assert ground.pdflush.pdflush_operation(lambda arg: done.append((arg, ground.sched.current.comm)), 42) == 0
    ground.world.run(for_ns=1_000_000)
    assert done == [(42, "pdflush")]
    assert len(ground.pdflush.idle) == 2


def test_who_slept_last_works_first(ground):
    first = ground.pdflush.idle[0].who
    done = []
    ground.pdflush.pdflush_operation(lambda _: done.append(ground.sched.current))
    ground.world.run(for_ns=1_000_000)
    assert done == [first]
    assert ground.pdflush.idle[0].who is first


def test_work_without_a_thread_is_refused(ground):
    for _ in range(2):
        assert ground.pdflush.pdflush_operation(lambda _: ground.sched.msleep(100)) == 0
    assert ground.pdflush.pdflush_operation(lambda _: None) == -1


def busy_for(ground, jiffies):
    return lambda _: ground.sched.schedule_timeout(jiffies, ("sleep", None))


def test_a_thread_is_started_when_there_has_been_none_idle_for_a_second(ground):
    ground.pdflush.pdflush_operation(busy_for(ground, 2 * HZ))
    ground.pdflush.pdflush_operation(busy_for(ground, 3 * HZ))
    ground.world.run(for_ns=int(2.5 * SECOND))
    assert ground.pdflush.nr_threads == 3
    assert len(ground.pdflush.idle) == 2  # the one that started it, and the new one


def test_there_are_never_more_than_eight(ground):
    def again(_):
        ground.sched.schedule_timeout(2 * HZ, ("sleep", None))

    for _ in range(40):
        while ground.pdflush.pdflush_operation(again) == 0:
            pass
        ground.world.run(for_ns=SECOND)
        assert ground.pdflush.nr_threads <= 8
    assert ground.pdflush.nr_threads == 8


def test_a_thread_too_many_leaves_after_a_second(ground):
    ground.pdflush.pdflush_operation(busy_for(ground, 2 * HZ))
    ground.pdflush.pdflush_operation(busy_for(ground, 3 * HZ))
    ground.world.run(for_ns=4 * SECOND)
    assert ground.pdflush.nr_threads == 3
    ground.world.run(for_ns=2 * SECOND)
    ground.pdflush.pdflush_operation(lambda _: None)
    ground.world.run(for_ns=SECOND)
    assert ground.pdflush.nr_threads == 2
    ground.pdflush.pdflush_operation(lambda _: None)
    ground.world.run(for_ns=2 * SECOND)
    ground.pdflush.pdflush_operation(lambda _: None)
    ground.world.run(for_ns=SECOND)
    assert ground.pdflush.nr_threads == 2  # never fewer
    assert len([task for task in threads(ground) if task.exit_code is None]) == 2


def test_a_wake_up_without_work_is_ignored(ground):
    ground.sched.wake_up_process(ground.pdflush.idle[0].who)
    ground.world.run(for_ns=1_000_000)
    assert len(ground.pdflush.idle) == 2


def test_short_work_starts_no_thread(ground):
    ground.world.run(for_ns=5 * SECOND)
    for _ in range(2):
        ground.pdflush.pdflush_operation(busy_for(ground, HZ // 10))
    ground.world.run(for_ns=SECOND)
    assert ground.pdflush.nr_threads == 2
