"""Worlds: the outside stack, run(), verdicts, several machines, determinism, teardown."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import greenlet
import pytest

from kemu.errors import Deadlock, KemuError, KernelBug, KernelPanic
from kemu.kernel.core import Kernel
from kemu.kernel.switch import TaskKilled
from kemu.kernel.wait import WaitQueue
from kemu.kernel.world import World, live_worlds

MS = 1_000_000
SEC = 1_000_000_000


# ---- the outside stack is init


def test_the_caller_is_init(machine):
    assert (machine.sched.current.comm, machine.sched.current.pid) == ("init", 1)
    assert machine.sched.cpu is machine.cpus[0]


def test_a_caller_that_sleeps_lets_tasks_run(machine):
    log = []
    machine.sched.spawn("t", lambda: log.append(machine.sched.current.comm))
    assert log == []
    machine.sched.msleep(1)
    assert log == ["t"]
    assert machine.sched.current is machine.init


def test_a_caller_that_can_never_be_woken_gets_deadlock_with_the_chain(machine):
    with pytest.raises(Deadlock, match=r"init:1 D.*\n.*init:1 on linux waits for slot 0x7"):
        machine.sched.wait_event(WaitQueue("never"), lambda: False, ("slot", 7))


def test_after_a_deadlock_the_machine_can_still_be_used(machine):
    with pytest.raises(Deadlock):
        machine.sched.wait_event(WaitQueue("never"), lambda: False)
    before = machine.sched.now
    machine.sched.msleep(10)
    assert machine.sched.now > before
    machine.check()


def test_tasks_that_sleep_for_ever_do_not_make_the_caller_deadlock(machine):
    machine.sched.spawn("sleeper", lambda: machine.sched.wait_event(WaitQueue("never"), lambda: False))
    machine.sched.msleep(5)


def test_an_oops_of_a_task_reaches_a_blocked_caller(machine):
    def body():
        raise KernelBug("BUG at mm/slub.c")

    machine.sched.spawn("bad", body)
    with pytest.raises(KernelBug, match=r"mm/slub\.c"):
        machine.sched.msleep(10)
    assert machine.judge.outcome == "oops"


def test_a_defect_in_a_task_is_raised_as_it_is_and_the_world_goes_on(machine):
    def body():
        raise ZeroDivisionError

    machine.sched.spawn("bad", body)
    with pytest.raises(ZeroDivisionError):
        machine.sched.msleep(10)
    assert machine.judge.outcome is None
    machine.sched.msleep(10)


# ---- run()


def test_run_for_a_time_ends_at_that_time(machine):
    start = machine.world.now
    machine.world.run(for_ns=3 * SEC)
    assert machine.world.now == start + 3 * SEC == machine.sched.now


def test_run_ends_when_nothing_is_left(machine):
    machine.sched.spawn("t", lambda: machine.sched.msleep(30))
    machine.world.run()
    assert machine.world.idle
    assert 30 * MS <= machine.world.now < 50 * MS


def test_run_ends_when_until_is_true(machine):
    ticks = []

    def body():
        while True:
            machine.sched.msleep(10)
            ticks.append(1)

    machine.sched.spawn("t", body)
    machine.world.run(until=lambda: len(ticks) == 4)
    assert len(ticks) == 4
    assert not machine.world.idle


def test_run_is_not_for_tasks(machine):
    log = []

    def body():
        with pytest.raises(KemuError, match="stack outside"):
            machine.world.run()
        log.append(1)

    machine.sched.spawn("t", body)
    machine.world.run()
    assert log == [1]


def test_run_in_atomic_context_is_an_oops(machine):
    machine.sched.preempt_disable()
    with pytest.raises(KernelBug, match="atomic"):
        machine.world.run()


@pytest.mark.parametrize(("error", "outcome"), [(KernelBug("dead"), "oops"), (KernelPanic("no init"), "panic")])
def test_an_oops_ends_run_with_a_verdict_and_no_exception(machine, error, outcome):
    def body():
        raise error

    machine.sched.spawn("bad", body)
    machine.sched.spawn("other", lambda: machine.sched.msleep(1000))
    machine.world.run()
    assert machine.judge.outcome == outcome
    assert machine.world.failure is error
    assert machine.world.now < 100 * MS


def test_an_oops_in_an_interrupt_of_a_resting_cpu_is_a_verdict(machine):
    def handler(_arg):
        raise KernelBug("in interrupt")

    machine.cpus[0].post(MS, handler)
    machine.world.run()
    assert machine.judge.outcome == "oops"


def test_after_a_verdict_run_returns_at_once_and_a_blocking_caller_is_told(machine):
    machine.judge.report("data_loss", "page 7")
    before = machine.world.now
    machine.world.run(for_ns=SEC)
    assert machine.world.now == before
    with pytest.raises(Deadlock, match="data_loss: page 7"):
        machine.sched.msleep(5)


def test_a_fatal_verdict_ends_the_run_where_it_is_given(machine):
    def body():
        machine.sched.msleep(20)
        machine.judge.report("data_loss", "page 7")
        while True:
            machine.sched.msleep(20)

    machine.sched.spawn("t", body)
    machine.world.run()
    assert machine.world.now < 60 * MS


def test_an_oom_kill_does_not_end_the_run(machine):
    machine.judge.report("oom_kill", "hog")
    machine.world.run(for_ns=SEC)
    assert machine.world.now >= SEC


# ---- several machines


def test_the_caller_may_call_into_all_machines_in_turn(pair):
    a, b = pair
    log = []
    a.sched.spawn("ta", lambda: log.append("ta"))
    b.sched.spawn("tb", lambda: log.append("tb"))
    a.sched.msleep(1)
    assert b.sched.current is b.init
    b.sched.msleep(1)
    assert a.sched.current is a.init
    assert sorted(log) == ["ta", "tb"]


def test_the_caller_goes_on_only_when_other_machines_have_left_their_softirqs(pair):
    a, b = pair
    b.softirq.open_softirq(3, lambda: [b.sched.spend(9_000) for _ in range(30)])
    for ms in range(1, 40):
        b.cpus[0].post(ms * MS // 10, lambda _arg: b.softirq.raise_softirq(3))
    for _ in range(10):
        a.sched.usleep(333_333)
        assert b.sched.current is b.init
        assert b.cpus[0].preempt_count == 0
        b.sched.might_sleep()


def test_a_task_that_the_caller_pushed_aside_goes_on_later(kernel):
    log = []

    def body():
        for _ in range(1000):
            kernel.sched.spend(10_000)
        log.append("done")

    kernel.sched.spawn("t", body)
    kernel.world.run(for_ns=MS)
    assert kernel.sched.current is kernel.init
    kernel.check()
    kernel.world.run()
    assert log == ["done"]


# ---- the same history


HISTORY = """
import sys
from kemu.kernel.core import Kernel
from kemu.kernel.policy import Seeded
from kemu.kernel.world import World
from kemu.kernel.timer import Timer
world = World(seed=5, vehicle=sys.argv[1])
machines = [Kernel("a", world, ncpus=2), Kernel("b", world)]
for kernel in machines:
    kernel.trace.enable("*") if len(sys.argv) > 2 else None
    kernel.sched.policy = Seeded(kernel.rng.randrange(100), one_in=3)
    timer = Timer("t", lambda k: k.history.add("frame", k.sched.now, 1), kernel)
    kernel.timers.mod_timer(timer, 20)
    def body(kernel=kernel, n=0):
        names = {f"name{i}" for i in range(20)}
        for _ in range(10):
            kernel.sched.spend(kernel.rng.randrange(9000))
            kernel.sched.preemption_point("here")
            kernel.sched.msleep(kernel.rng.randrange(20))
        kernel.history.add("page_out", kernel.sched.now, kernel.rng.randrange(1 << 40), 3)
    for n in range(6):
        kernel.sched.spawn(f"t{n}", body)
world.run()
print(world.history.hexdigest(), world.history.counts)
world.shutdown()
"""


def run_history(vehicle, hash_seed, *more):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", HISTORY, vehicle, *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_history_is_the_same_in_every_process_on_both_vehicles_traced_or_not():
    outputs = {run_history("greenlet", "1"), run_history("greenlet", "2", "traced"), run_history("threads", "3")}
    assert len(outputs) == 1
    assert outputs.pop().startswith("sha256:")


def test_another_seed_is_another_history():
    def digest(seed):
        with World(seed=seed) as world:
            kernel = Kernel(world=world)
            for ms in [kernel.rng.randrange(1000) for _ in range(5)]:
                kernel.sched.spawn("t", lambda ms=ms: kernel.sched.msleep(ms))
            world.run()
            return world.history.hexdigest()

    assert digest(1) == digest(1) != digest(2)


# ---- teardown


def test_shutdown_unwinds_every_sleeper(machine):
    log = []

    def body(n):
        def run():
            try:
                machine.sched.wait_event(WaitQueue("never"), lambda: False)
            except TaskKilled:
                log.append(n)
                machine.sched.msleep(5)

        return run

    for n in range(3):
        machine.sched.spawn(f"t{n}", body(n))
    machine.world.run()
    machine.world.shutdown()
    assert log == [0, 1, 2]
    machine.world.shutdown()
    with pytest.raises(KemuError, match="shut down"):
        machine.world.run()


def test_a_half_way_task_is_unwound_too(machine):
    log = []

    def body():
        try:
            while True:
                machine.sched.spend(5_000)
        finally:
            log.append("gone")

    machine.sched.spawn("t", body)
    machine.world.run(for_ns=MS)
    machine.world.shutdown()
    assert log == ["gone"]


def test_a_task_cannot_shut_its_world_down(machine):
    log = []

    def body():
        with pytest.raises(KemuError, match="from outside"):
            machine.world.shutdown()
        log.append(1)

    machine.sched.spawn("t", body)
    machine.world.run()
    assert log == [1]


def count_stacks():
    gc.collect()
    greenlets = sum(isinstance(each, greenlet.greenlet) and not each.dead for each in gc.get_objects())
    return greenlets, sum(thread.name == "kemu" for thread in threading.enumerate())


def make_and_drop(vehicle):
    """One world that has done something, with a sleeping task, that nobody refers to any more but its handle."""

    class Handle:
        pass

    handle = Handle()
    world = World(vehicle=vehicle)
    world.shutdown_with(handle)
    kernel = Kernel(world=world)
    kernel.sched.spawn("kthread", lambda: kernel.sched.wait_event(WaitQueue("never"), lambda: False))
    kernel.cpus[0].post(MS, lambda _arg: None)
    kernel.sched.msleep(1)


def test_300_worlds_with_sleeping_tasks_leave_nothing_when_their_handles_go(vehicle):
    before = count_stacks()
    for _ in range(300):
        make_and_drop(vehicle)
    assert count_stacks() == before


def test_a_world_without_sleeping_tasks_is_collected_by_itself(vehicle):
    before, worlds = count_stacks(), len(live_worlds)
    for _ in range(20):
        kernel = Kernel(vehicle=vehicle)
        kernel.sched.spawn("t", lambda kernel=kernel: kernel.sched.msleep(3))
        kernel.cpus[0].post(MS, lambda _arg: None)
        kernel.world.run()
        del kernel
    assert count_stacks() == before
    assert len(live_worlds) == worlds


def test_a_world_belongs_to_its_thread(machine):
    errors = []

    def elsewhere():
        try:
            machine.world.run(for_ns=MS)
        except KemuError as error:
            errors.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert errors == ["a world belongs to the thread that made it"]


# ---- Ctrl-C


@pytest.fixture
def ctrl_c():
    """Have Ctrl-C raise KeyboardInterrupt, also where a shell started the tests in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_reaches_the_caller_and_leaves_a_world_that_can_only_be_shut_down(machine):
    def body():
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100_000):
            machine.sched.spend(9_000)
            time.sleep(0)

    machine.sched.spawn("busy", body)
    machine.sched.spawn("sleeper", lambda: machine.sched.msleep(10_000))
    with pytest.raises(KeyboardInterrupt):
        machine.world.run(until=lambda: False)
    with pytest.raises(KemuError, match="interrupted"):
        machine.world.run()
    with pytest.raises(KemuError, match="interrupted"):
        machine.sched.msleep(1)
    machine.world.shutdown()


# ---- verdicts and a caller that is half-way


def spend_long(kernel):
    for _ in range(1000):
        kernel.sched.spend(5_000)


def test_a_caller_that_is_half_way_when_a_verdict_comes_goes_on(pair):
    a, b = pair
    b.sched.spawn("t", lambda: b.judge.report("data_loss", "page 7"))
    spend_long(a)
    assert a.judge.outcome == "data_loss"
    assert a.sched.current is a.init


def test_a_defect_elsewhere_reaches_a_caller_that_is_half_way(pair):
    a, b = pair

    def body():
        raise ZeroDivisionError

    b.sched.spawn("bad", body)
    with pytest.raises(ZeroDivisionError):
        spend_long(a)
    b.sched.msleep(1)
    a.sched.msleep(1)


def test_run_waits_for_a_softirq_that_is_half_way_when_time_is_over(pair):
    a, b = pair
    b.softirq.open_softirq(3, lambda: [b.sched.spend(9_000) for _ in range(30)])
    b.cpus[0].post(MS, lambda _arg: b.softirq.raise_softirq(3))
    a.world.run(for_ns=MS + 100_000)
    assert b.cpus[0].preempt_count == 0
    assert b.sched.now >= MS + 270_000
