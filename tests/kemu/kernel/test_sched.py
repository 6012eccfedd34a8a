"""Tasks, time, run queues, sleeping and waking."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import ERESTARTSYS
from kemu.kernel.task import TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE, signal_pending
from kemu.kernel.timer import NSEC_PER_JIFFY
from kemu.kernel.wait import WaitQueue

MS = 1_000_000


# ---- sleeping


def test_usleep_is_exact(kernel):
    start = kernel.sched.now
    kernel.sched.usleep(123_456)
    assert start + 123_456 <= kernel.sched.now < start + 123_456 + 5_000


@pytest.mark.parametrize("ms", [1, 4, 5, 100])
def test_msleep_sleeps_at_least_that_long(kernel, ms):
    start = kernel.sched.now
    kernel.sched.msleep(ms)
    assert ms * MS <= kernel.sched.now - start <= ms * MS + 3 * NSEC_PER_JIFFY


def test_schedule_timeout_gives_what_is_left_when_woken(kernel):
    def sleeper():
        left.append(kernel.sched.schedule_timeout(100))

    left = []
    task = kernel.sched.spawn("sleeper", sleeper)
    kernel.sched.msleep(40)
    assert task.state == TASK_UNINTERRUPTIBLE
    kernel.sched.wake_up_process(task)
    kernel.world.run()
    assert 85 <= left[0] <= 91


def test_schedule_timeout_gives_zero_after_its_time(kernel):
    assert kernel.sched.schedule_timeout(3) == 0


def test_a_task_says_why_it_sleeps_only_while_it_sleeps(kernel):
    task = kernel.sched.spawn("t", lambda: kernel.sched.schedule_timeout(10, ("slot", 5)))
    kernel.sched.msleep(4)
    assert task.why == ("slot", 5)
    kernel.sched.join(task)
    assert task.why is None


# ---- wait queues


def waiters(kernel, queue, log, names, *, exclusive=False, condition=lambda: False):
    def body(name):
        def run():
            kernel.sched.wait_event(queue, condition, exclusive=exclusive)
            log.append(name)

        return run

    for name in names:
        kernel.sched.spawn(name, body(name))
    kernel.world.run()


def test_wait_event_does_not_sleep_if_the_condition_holds(kernel):
    turns = kernel.world.turns
    kernel.sched.wait_event(WaitQueue(), lambda: True)
    assert kernel.world.turns == turns


def test_a_wake_up_wakes_all_who_are_not_exclusive_and_one_who_is(kernel):
    queue, log, go = WaitQueue("q"), [], []
    waiters(kernel, queue, log, "abc", condition=lambda: go)
    waiters(kernel, queue, log, "xyz", exclusive=True, condition=lambda: go)
    go.append(1)
    assert kernel.sched.wake_up(queue) == 4
    kernel.world.run()
    assert sorted(log) == ["a", "b", "c", "x"]
    assert kernel.sched.wake_up_all(queue) == 2
    kernel.world.run()
    assert log[4:] == ["y", "z"]
    assert not queue.active()


def test_a_waiter_whose_condition_is_still_false_goes_back_to_sleep(kernel):
    queue, log = WaitQueue(), []
    waiters(kernel, queue, log, "a")
    kernel.sched.wake_up(queue)
    kernel.world.run()
    assert log == []
    assert queue.active()


def test_a_wake_up_between_condition_and_sleep_is_not_lost(kernel):
    queue, asked = WaitQueue(), []

    def condition():
        asked.append(1)
        if len(asked) == 2:
            kernel.sched.wake_up(queue)
        return len(asked) > 2

    kernel.sched.wait_event(queue, condition)
    assert len(asked) == 3


def test_wait_event_timeout_gives_zero_after_the_timeout_and_at_least_one_otherwise(kernel):
    queue, go = WaitQueue(), []
    assert kernel.sched.wait_event_timeout(queue, lambda: False, 5) == 0
    assert kernel.sched.wait_event_timeout(queue, lambda: True, 0) == 1
    kernel.world.post(kernel.world.now + 30 * MS, lambda _arg: (go.append(1), kernel.sched.wake_up(queue)))
    assert 1 <= kernel.sched.wait_event_timeout(queue, lambda: go, 100) <= 95
    assert not queue.active()


def test_a_signal_ends_an_interruptible_wait_and_only_that(kernel):
    queue, results = WaitQueue(), {}

    def soft():
        results["soft"] = kernel.sched.wait_event_interruptible(queue, lambda: False)

    def hard():
        kernel.sched.wait_event(queue, lambda: False)

    tasks = [kernel.sched.spawn("soft", soft), kernel.sched.spawn("hard", hard)]
    kernel.world.run()
    assert tasks[0].state == TASK_INTERRUPTIBLE
    for task in tasks:
        kernel.sched.send_sigkill(task)
        assert task.killed and signal_pending(task)
    kernel.world.run()
    assert results == {"soft": -ERESTARTSYS}
    assert tasks[1].state == TASK_UNINTERRUPTIBLE


def test_interruptible_waits_report_what_happened(kernel):
    sched, queue = kernel.sched, WaitQueue()
    assert sched.wait_event_interruptible(queue, lambda: True) == 0
    assert sched.wait_event_interruptible_timeout(queue, lambda: False, 3) == 0
    assert sched.wait_event_interruptible_timeout(queue, lambda: True, 3) == 3
    sched.send_sigkill(sched.current)
    assert sched.wait_event_interruptible_timeout(queue, lambda: False, 3) == -ERESTARTSYS
    assert sched.schedule_timeout_interruptible(50) == 50


def test_wake_ups_are_legal_in_interrupts(kernel):
    queue, go = WaitQueue(), []

    def handler(_arg):
        go.append(kernel.sched.in_irq())
        kernel.sched.wake_up(queue)

    kernel.cpus[0].post(kernel.sched.now + MS, handler)
    kernel.sched.wait_event(queue, lambda: go)
    assert go == [True]
