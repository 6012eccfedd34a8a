"""Work queues with one worker."""

from __future__ import annotations

import pytest

from kemu.kernel.task import TASK_DEAD, TASK_INTERRUPTIBLE
from kemu.kernel.timer import NSEC_PER_JIFFY
from kemu.kernel.workqueue import Work, Workqueue


@pytest.fixture
def wq(kernel):
    return Workqueue(kernel, "rpciod")


def test_works_are_done_in_order_by_the_worker(kernel, wq):
    log = []
    for n in range(3):
        assert wq.queue_work(Work(f"w{n}", lambda data: log.append((data, kernel.sched.current.comm)), n))
    assert log == []
    wq.flush()
    assert log == [(n, "rpciod") for n in range(3)]


def test_a_pending_work_is_not_queued_twice(wq):
    log = []
    work = Work("w", log.append, 1)
    assert wq.queue_work(work)
    assert not wq.queue_work(work)
    assert not wq.queue_delayed_work(work, 5)
    wq.flush()
    assert log == [1]
    assert not work.pending


def test_a_work_may_queue_itself_while_it_runs(kernel, wq):
    log = []

    def fn(data):
        log.append(data)
        if len(log) < 3:
            assert wq.queue_work(work)

    work = Work("w", fn, 1)
    wq.queue_work(work)
    kernel.world.run()
    assert log == [1, 1, 1]


def test_a_delayed_work_is_done_after_its_delay(kernel, wq):
    log = []
    work = Work("w", lambda _data: log.append(kernel.sched.now))
    assert wq.queue_delayed_work(work, 25)
    assert work.pending
    kernel.world.run()
    assert 25 * NSEC_PER_JIFFY <= log[0] < 26 * NSEC_PER_JIFFY


def test_without_delay_it_is_queued_at_once(wq):
    log = []
    wq.queue_delayed_work(Work("w", log.append, 1), 0)
    wq.flush()
    assert log == [1]


@pytest.mark.parametrize("delay", [0, 10])
def test_a_cancelled_work_is_not_done_and_can_be_queued_again(kernel, wq, delay):
    log = []
    work = Work("w", log.append, 1)
    wq.queue_delayed_work(work, delay)
    assert wq.cancel(work)
    assert not wq.cancel(work)
    kernel.world.run()
    assert log == []
    assert wq.queue_delayed_work(work, delay)
    kernel.world.run()
    assert log == [1]


def test_flush_waits_for_a_work_that_sleeps(kernel, wq):
    log = []
    wq.queue_work(Work("w", lambda _data: (kernel.sched.msleep(50), log.append(1))))
    wq.flush()
    assert log == [1]


def test_flush_after_a_cancel_does_not_wait_for_ever(kernel, wq):
    works = [Work("w", lambda _data: kernel.sched.msleep(5)) for _ in range(3)]
    for work in works:
        wq.queue_work(work)
    wq.cancel(works[1])
    wq.flush()
    assert kernel.sched.now > 0


def test_cancel_sync_waits_for_a_work_that_runs(kernel, wq):
    log = []
    work = Work("w", lambda _data: (kernel.sched.msleep(50), log.append(1)))
    wq.queue_work(work)
    kernel.sched.msleep(5)
    assert wq.running is work
    assert not wq.cancel_sync(work)
    assert log == [1]
    assert wq.running is None


def test_works_may_be_queued_in_interrupts(kernel, wq):
    log = []
    work = Work("w", log.append, 1)
    kernel.cpus[0].post(1_000_000, lambda _arg: wq.queue_work(work))
    kernel.world.run()
    assert log == [1]


def test_a_worker_without_work_sleeps_interruptibly_and_is_not_stuck(kernel, wq):
    wq.queue_work(Work("w", lambda _data: None))
    kernel.world.run()
    assert wq.task.state == TASK_INTERRUPTIBLE
    assert kernel.judge.stuck_tasks() == []


def test_destroy_does_what_is_queued_and_ends_the_worker(wq):
    log = []
    wq.queue_work(Work("w", log.append, 1))
    wq.destroy()
    assert log == [1]
    assert wq.task.state == TASK_DEAD
