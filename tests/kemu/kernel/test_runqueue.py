"""Tasks and run queues: beginning and end of a task, who gives way, which CPU a task runs on."""

from __future__ import annotations

from kemu.kernel.task import TASK_DEAD
from kemu.kernel.wait import WaitQueue

MS = 1_000_000


def test_a_task_that_exits_in_atomic_context_is_an_oops(kernel):
    kernel.sched.spawn("bad", kernel.sched.preempt_disable)
    kernel.world.run()
    assert "exits in atomic context" in kernel.judge.reason


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


def test_return_to_user_delivers_what_is_due(kernel):
    log = []
    kernel.sched.msleep(1)
    kernel.cpus[0].post(kernel.sched.now, log.append, 1)
    kernel.sched.return_to_user()
    assert log == [1]


def test_an_rt_task_goes_to_the_front(kernel):
    log = []
    for name in "abc":
        task = kernel.sched.spawn(name, lambda name=name: log.append(name), start=False)
        task.rt = name == "c"
        kernel.sched.wake_up_process(task)
    kernel.world.run()
    assert log == list("cab")


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
