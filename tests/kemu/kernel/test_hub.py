"""The hub: CPUs side by side, lookahead between machines, world events."""

from __future__ import annotations

import pytest

from kemu.kernel.wait import WaitQueue
from kemu.kernel.world import QUANTUM

MS = 1_000_000


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


def test_until_is_asked_although_a_lone_task_never_blocks(machine):
    def body():
        while True:
            machine.sched.spend(1000)

    task = machine.sched.spawn("t", body)
    machine.world.run(until=lambda: machine.cpus[0].now > 50 * MS)
    assert machine.world.now < 70 * MS
    machine.world.run(for_ns=10 * MS)
    assert task in machine.cpus[0].queue


def test_an_exception_of_until_reaches_the_caller(machine):
    machine.sched.spawn("t", lambda: machine.sched.msleep(30))
    with pytest.raises(ZeroDivisionError):
        machine.world.run(until=lambda: 1 // 0)


def test_world_events_run_in_order_of_time_then_of_posting(machine):
    log = []
    world = machine.world
    world.post(5 * MS, log.append, "b")
    world.post(3 * MS, log.append, "a")
    world.post(5 * MS, log.append, "c")
    cancelled = world.post(4 * MS, log.append, "never")
    assert cancelled.cancel()
    assert not cancelled.cancel()
    world.run()
    assert log == ["a", "b", "c"]


def test_a_world_event_sees_its_time_and_may_wake_tasks(machine):
    queue, log, world = WaitQueue("q"), [], machine.world

    def event(_arg):
        log.append(world.now)
        machine.sched.wake_up(queue)

    def body():
        machine.sched.wait_event(queue, lambda: log)
        log.append(machine.sched.now)

    machine.sched.spawn("t", body)
    world.post(7 * MS, event)
    world.run()
    assert log[0] == 7 * MS
    assert 7 * MS <= log[1] < 7 * MS + 10_000


def test_a_running_cpu_does_not_pass_a_world_event(machine):
    log = []

    def body():
        for _ in range(1000):
            machine.sched.spend(1000)

    machine.sched.spawn("t", body)
    machine.world.post(300_000, lambda _arg: log.append(machine.cpus[0].now))
    machine.world.run()
    assert 300_000 <= log[0] <= 301_000


def test_a_world_event_must_not_block(machine):
    machine.world.post(MS, lambda _arg: machine.sched.msleep(1))
    machine.world.run()
    assert machine.judge.outcome == "oops"
    assert "scheduling while atomic" in machine.judge.reason or "invalid context" in machine.judge.reason


def test_machines_run_at_the_same_time(pair):
    spans = {}

    def body(kernel):
        def run():
            start = kernel.sched.now
            for _ in range(100):
                kernel.sched.spend(10_000)
            spans[kernel.name] = (start, kernel.sched.now)

        return run

    for kernel in pair:
        kernel.sched.spawn("t", body(kernel))
    pair[0].world.run()
    assert spans["a"][0] < 10_000 and spans["b"][0] < 10_000
    assert abs(spans["a"][1] - spans["b"][1]) < 10_000


def test_no_machine_runs_ahead_by_more_than_the_lookahead(pair):
    a, b = pair
    a.world.lookahead_ns = 100_000
    worst = 0

    def body(kernel, other):
        def run():
            nonlocal worst
            for _ in range(1000):
                kernel.sched.spend(1_000)
                worst = max(worst, kernel.sched.now - other.cpus[0].now)

        return run

    a.sched.spawn("t", body(a, b))
    b.sched.spawn("t", body(b, a))
    a.world.run()
    assert 50_000 < worst <= 102_000


def test_an_event_for_another_machine_arrives_at_its_time(pair):
    a, b = pair
    a.world.lookahead_ns = 50_000
    late = []

    def body_a():
        for _ in range(200):
            a.sched.spend(5_000)
            at = a.sched.now + 50_000
            b.cpus[0].post(at, lambda at: late.append(b.sched.now - at), at)

    def body_b():
        for _ in range(200):
            b.sched.spend(7_000)

    a.sched.spawn("t", body_a)
    b.sched.spawn("t", body_b)
    a.world.run()
    assert len(late) == 200
    assert max(late) <= 8_000 + 1_000


def test_a_caller_that_spends_time_on_one_machine_lets_the_other_work(pair):
    a, b = pair
    log = []
    b.sched.spawn("tb", lambda: log.append(1))
    for _ in range(1000):
        a.sched.spend(5_000)
    assert log == [1]
