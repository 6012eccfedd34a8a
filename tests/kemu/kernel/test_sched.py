"""Tasks, time, run queues, sleeping and waking."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.cpu import HARDIRQ_OFFSET, SOFTIRQ_OFFSET
from kemu.kernel.errno import ERESTARTSYS
from kemu.kernel.policy import Explorer, Seeded
from kemu.kernel.task import TASK_DEAD, TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE, signal_pending
from kemu.kernel.timer import NSEC_PER_JIFFY
from kemu.kernel.wait import Completion, WaitQueue
from kemu.kernel.world import QUANTUM

MS = 1_000_000


# ---- time


def test_spend_lets_exactly_that_much_time_pass(kernel):
    start = kernel.sched.now
    kernel.sched.spend(1234)
    assert kernel.sched.now == start + 1234
    assert kernel.sched.jiffies == kernel.sched.now // NSEC_PER_JIFFY


def test_an_event_is_delivered_in_spend_at_its_time(kernel):
    log = []
    kernel.cpus[0].post(kernel.sched.now + 500, lambda arg: log.append((kernel.sched.in_irq(), arg)), "x")
    kernel.sched.spend(499)
    assert log == []
    kernel.sched.spend(1)
    assert log == [(True, "x")]
    assert not kernel.sched.in_interrupt()


def test_an_interrupt_borrows_current(kernel):
    seen = []
    kernel.cpus[0].post(0, lambda _arg: seen.append(kernel.sched.current))
    kernel.sched.spend(1)
    assert seen == [kernel.init]


def test_with_interrupts_disabled_nothing_is_delivered_until_they_are_enabled_and_time_passes(kernel):
    log = []
    outer = kernel.sched.local_irq_save()
    inner = kernel.sched.local_irq_save()
    kernel.cpus[0].post(0, log.append, 1)
    kernel.sched.spend(1_000)
    kernel.sched.local_irq_restore(inner)
    kernel.sched.spend(1_000)
    assert log == []
    assert kernel.sched.irqs_disabled()
    kernel.sched.local_irq_restore(outer)
    assert log == []
    kernel.sched.spend(1)
    assert log == [1]


def test_handlers_run_with_interrupts_disabled(kernel):
    log = []

    def first(_arg):
        kernel.cpus[0].post(kernel.sched.now, lambda _arg: log.append("second"))
        kernel.sched.spend(1_000)
        log.append("first")

    kernel.cpus[0].post(0, first)
    kernel.sched.spend(1)
    assert log == ["first", "second"]


def test_cancelled_events_are_dropped_and_the_heap_is_compacted(kernel):
    cpu = kernel.cpus[0]
    before = len(cpu.events)
    events = [cpu.post(10**9, lambda _arg: None) for _ in range(100)]
    for event in events[:90]:
        event.cancel()
    assert len(cpu.events) == before + 10
    assert len(cpu.events.heap) < 30


# ---- context


def test_context_is_read_from_the_counter(kernel):
    sched, cpu = kernel.sched, kernel.cpus[0]
    answers = {}
    for name, count in (("process", 0), ("preempt", 1), ("bh", SOFTIRQ_OFFSET), ("irq", HARDIRQ_OFFSET)):
        cpu.preempt_count = count
        answers[name] = (sched.in_irq(), sched.in_softirq(), sched.in_interrupt(), sched.in_atomic())
    cpu.preempt_count = 0
    assert answers == {
        "process": (False, False, False, False),
        "preempt": (False, False, False, True),
        "bh": (False, True, True, True),
        "irq": (True, False, True, True),
    }


def test_sleeping_in_atomic_context_is_an_oops(kernel):
    kernel.sched.preempt_disable()
    with pytest.raises(KernelBug, match="scheduling while atomic: init/0x00000001/1"):
        kernel.sched.schedule()
    with pytest.raises(KernelBug, match="invalid context"):
        kernel.sched.might_sleep()
    with pytest.raises(KernelBug, match="invalid context"):
        kernel.sched.wait_event(WaitQueue(), lambda: False)
    kernel.sched.preempt_enable()
    kernel.sched.might_sleep()


def test_sleeping_with_interrupts_disabled_is_an_oops(kernel):
    kernel.sched.local_irq_save()
    with pytest.raises(KernelBug, match=r"irqs_disabled\(\):1"):
        kernel.sched.msleep(1)


def test_a_task_that_exits_in_atomic_context_is_an_oops(kernel):
    kernel.sched.spawn("bad", kernel.sched.preempt_disable)
    kernel.world.run()
    assert "exits in atomic context" in kernel.judge.reason


# ---- tasks


def test_a_task_runs_and_ends(kernel):
    task = kernel.sched.spawn("t", lambda: kernel.sched.spend(5_000), uid=7)
    assert (task.uid, task.exit_code, task.state) == (7, None, 0)
    assert kernel.sched.join(task) == 0
    assert task.state == TASK_DEAD
    assert task.pid not in kernel.sched.tasks
    assert 5_000 <= task.utime_ns < 10_000


def test_a_task_made_with_start_false_waits_for_its_wake_up(kernel):
    log = []
    task = kernel.sched.spawn("t", lambda: log.append(1), start=False)
    kernel.world.run()
    assert log == []
    assert kernel.sched.wake_up_process(task)
    kernel.world.run()
    assert log == [1]
    assert not kernel.sched.wake_up_process(task)


def test_pids_are_counted_per_machine(pair):
    assert pair[0].sched.spawn("t", int).pid == pair[1].sched.spawn("t", int).pid


# ---- who goes next


def record(kernel, log, name, steps=2):
    def body():
        for _ in range(steps):
            log.append(name)
            kernel.sched.yield_()

    return body


def test_first_in_first_out(kernel):
    log = []
    for name in "abc":
        kernel.sched.spawn(name, record(kernel, log, name))
    kernel.world.run()
    assert log == list("abcabc")


def test_the_seeded_policy_repeats_itself_and_differs_by_seed(kernel):
    def order(seed):
        log = []
        kernel.sched.policy = Seeded(seed)
        for name in "abcdef":
            kernel.sched.spawn(name, record(kernel, log, name, 4))
        kernel.world.run()
        return "".join(log)

    assert order(1) == order(1)
    assert len({order(seed) for seed in range(5)}) > 1


def test_an_explorer_is_asked(kernel):
    log = []
    kernel.sched.policy = Explorer(lambda runnable: len(runnable) - 1)
    for name in "abc":
        kernel.sched.spawn(name, record(kernel, log, name, 1))
    kernel.world.run()
    assert log == list("cba")


def test_preemption_points_do_nothing_unless_the_policy_asks(kernel):
    log = []

    def body(name):
        def run():
            log.append(name + "1")
            kernel.sched.preemption_point("middle")
            log.append(name + "2")

        return run

    for _ in range(2):
        for name in "ab":
            kernel.sched.spawn(name, body(name))
        kernel.world.run()
        kernel.sched.policy = Explorer(lambda _runnable: 0, lambda label, _current: label == "middle")
    assert log == ["a1", "a2", "b1", "b2", "a1", "b1", "a2", "b2"]


def test_a_preemption_point_in_atomic_context_does_nothing(kernel):
    log = []
    kernel.sched.policy = Explorer(lambda _runnable: 0, lambda _label, _current: True)

    def body():
        kernel.sched.preempt_disable()
        kernel.sched.preemption_point("here")
        log.append("a")
        kernel.sched.preempt_enable()

    kernel.sched.spawn("a", body)
    kernel.sched.spawn("b", lambda: log.append("b"))
    kernel.world.run()
    assert log == ["a", "b"]


def test_a_user_task_gives_way_after_its_slice(kernel):
    log = []

    def hog():
        for _ in range(3_000):
            kernel.sched.spend(5_000)
            kernel.sched.return_to_user()
        log.append("hog")

    kernel.sched.spawn("hog", hog)
    kernel.sched.spawn("other", lambda: log.append(kernel.sched.now))
    kernel.world.run()
    assert 10 * MS <= log[0] < 11 * MS
    assert log[1] == "hog"


def test_a_woken_task_runs_when_the_current_one_returns_to_user_code(kernel):
    queue, log = WaitQueue(), []

    def waiter():
        kernel.sched.wait_event(queue, lambda: log)
        log.append("woken")

    def user():
        log.append("wakes")
        kernel.sched.wake_up(queue)
        log.append("goes on")
        kernel.sched.return_to_user()
        log.append("again")

    kernel.sched.spawn("waiter", waiter)
    kernel.sched.spawn("user", user)
    kernel.world.run()
    assert log == ["wakes", "goes on", "woken", "again"]


def test_cond_resched_gives_way_only_when_asked_to(kernel):
    kernel.sched.spawn("t", int)
    kernel.sched.msleep(1)
    assert not kernel.sched.cond_resched()
    kernel.sched.spawn("t", int)
    assert kernel.sched.cond_resched()


def test_yield_lets_time_pass_even_alone(kernel):
    before = kernel.sched.now
    kernel.sched.yield_()
    assert kernel.sched.now > before


def test_an_rt_task_goes_to_the_front(kernel):
    log = []
    for name in "abc":
        task = kernel.sched.spawn(name, record(kernel, log, name, 1), start=False)
        task.rt = name == "c"
        kernel.sched.wake_up_process(task)
    kernel.world.run()
    assert log == list("cab")


# ---- two CPUs


def test_two_cpus_work_at_the_same_time(smp):
    seen = {}

    def body():
        for _ in range(100):
            smp.sched.spend(1_000)
        seen[smp.sched.current.comm] = (smp.sched.cpu.id, smp.sched.now)

    smp.sched.spawn("a", body)
    smp.sched.spawn("b", body)
    smp.world.run()
    assert {cpu for cpu, _ in seen.values()} == {0, 1}
    assert abs(seen["a"][1] - seen["b"][1]) < QUANTUM


def test_a_wake_up_goes_to_a_resting_cpu(smp):
    queue, where = WaitQueue(), []

    def waiter():
        smp.sched.wait_event(queue, lambda: where)
        where.append(smp.sched.cpu.id)

    def waker():
        where.append(None)
        smp.sched.wake_up(queue)
        for _ in range(1000):
            smp.sched.spend(1_000)
        where.append(smp.sched.cpu.id)

    smp.sched.spawn("waiter", waiter)
    smp.world.run()
    smp.sched.spawn("waker", waker)
    smp.world.run()
    assert len(where) == 3
    assert where[1] != where[2]


def test_a_cpu_with_nothing_left_takes_waiting_tasks(smp):
    done = []

    def body():
        for _ in range(100):
            smp.sched.spend(10_000)
        done.append((smp.sched.now, smp.sched.cpu.id))

    for _ in range(6):
        smp.sched.spawn("t", body)
    smp.world.run()
    assert len([cpu for _, cpu in done if cpu == 0]) == 3
    assert max(now for now, _ in done) < 3_200_000


def test_current_and_cpu_belong_to_who_runs(smp):
    wrong = []

    def body():
        me, cpu = smp.sched.current, smp.sched.cpu
        for _ in range(200):
            smp.sched.spend(3_000)
            if smp.sched.current is not me or smp.sched.cpu is not cpu:
                wrong.append(me)

    for _ in range(2):
        smp.sched.spawn("t", body)
    smp.world.run()
    assert wrong == []


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


def test_completions_count(kernel):
    done, log = Completion(kernel.sched, "done"), []

    def body(n):
        def run():
            done.wait()
            log.append(n)

        return run

    done.complete()
    done.wait()
    for n in range(3):
        kernel.sched.spawn("t", body(n))
    kernel.world.run()
    assert done.wait_timeout(2) == 0
    done.complete()
    kernel.world.run()
    assert log == [0]
    done.complete_all()
    kernel.world.run()
    assert log == [0, 1, 2]
    assert done.wait_timeout(5) == 5


# ---- both at once


def test_a_cpu_takes_over_what_waits_for_a_busy_one(smp):
    done = {}

    def body(name, steps):
        def run():
            for _ in range(steps):
                smp.sched.spend(10_000)
            done[name] = smp.sched.cpu.id

        return run

    for name, steps in (("long 1", 300), ("short 1", 10), ("long 2", 300), ("short 2", 10)):
        smp.sched.spawn(name, body(name, steps))
    smp.world.run()
    assert done["long 1"] != done["long 2"]
    assert smp.world.now < 4_000_000


def test_bound_tasks_are_never_moved(smp):
    where = []

    def body():
        for _ in range(100):
            smp.sched.spend(10_000)
        where.append(smp.sched.cpu.id)

    for _ in range(3):
        task = smp.sched.spawn("bound", body, start=False)
        task.cpu = smp.cpus[1]
        task.bound = True
        smp.sched.wake_up_process(task)
    smp.world.run()
    assert where == [1, 1, 1]


def test_a_task_pushed_aside_between_condition_and_sleep_is_still_woken(kernel):
    queue, go, log = WaitQueue(), [], []

    def condition():
        kernel.sched.spend(9_000)
        return go

    def body():
        kernel.sched.wait_event(queue, condition)
        log.append("woken")

    task = kernel.sched.spawn("t", body)
    for _ in range(30):
        kernel.world.run(for_ns=2_000)
        kernel.check()
    go.append(1)
    kernel.sched.wake_up(queue)
    kernel.world.run()
    assert log == ["woken"]
    assert task.state == TASK_DEAD


def test_return_to_user_delivers_what_is_due(kernel):
    log = []
    kernel.sched.msleep(1)
    kernel.cpus[0].post(kernel.sched.now, log.append, 1)
    kernel.sched.return_to_user()
    assert log == [1]
