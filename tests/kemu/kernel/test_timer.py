"""Timers and jiffies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.core import Kernel
from kemu.kernel.timer import NSEC_PER_JIFFY, Timer, jiffies_to_msecs, msecs_to_jiffies, ns_to_jiffies


@pytest.fixture
def log():
    return []


@pytest.fixture
def timer(kernel, log):
    return Timer("t", lambda data: log.append((kernel.sched.jiffies, data)), "data")


@pytest.mark.parametrize(("ms", "jiffies"), [(0, 0), (1, 1), (4, 1), (5, 2), (1000, 250)])
def test_milliseconds_are_rounded_up(ms, jiffies):
    assert msecs_to_jiffies(ms) == jiffies
    assert jiffies_to_msecs(jiffies) >= ms
    assert ns_to_jiffies(ms * 1_000_000) == jiffies


def test_a_timer_runs_at_its_jiffy_in_softirq_context(kernel, log):
    timer = Timer("t", lambda _data: log.append((kernel.sched.now, kernel.sched.in_softirq(), kernel.sched.in_irq())))
    assert not kernel.timers.mod_timer(timer, 10)
    assert timer.pending
    kernel.world.run()
    now, softirq, irq = log[0]
    assert 10 * NSEC_PER_JIFFY <= now < 10 * NSEC_PER_JIFFY + 5_000
    assert softirq and not irq
    assert not timer.pending


def test_a_timer_in_the_past_runs_at_once(kernel, timer, log):
    kernel.world.run(for_ns=100 * NSEC_PER_JIFFY)
    kernel.timers.mod_timer(timer, 5)
    kernel.sched.spend(1)
    assert log == [(100, "data")]


def test_a_deleted_timer_does_not_run(kernel, timer, log):
    kernel.timers.mod_timer(timer, 10)
    assert kernel.timers.del_timer(timer)
    assert not kernel.timers.del_timer(timer)
    kernel.world.run()
    assert log == []


@pytest.mark.parametrize(("first", "second"), [(10, 30), (30, 10)])
def test_a_moved_timer_runs_once_at_its_last_time(kernel, timer, log, first, second):
    kernel.timers.mod_timer(timer, first)
    assert kernel.timers.mod_timer(timer, second)
    kernel.world.run()
    assert log == [(second, "data")]


def test_a_timer_that_only_moves_later_keeps_one_heap_entry(kernel, timer, log):
    base = kernel.timers._bases[0]
    for expires in range(100, 1000):
        kernel.timers.mod_timer(timer, expires)
    assert len(base.heap) == 1
    kernel.world.run()
    assert log == [(999, "data")]


def test_deleted_timers_do_not_pile_up(kernel):
    base = kernel.timers._bases[0]
    for _ in range(1000):
        timer = Timer("t", lambda _data: None)
        kernel.timers.mod_timer(timer, 1_000_000)
        kernel.timers.del_timer(timer)
    assert len(base.heap) < 100


def test_a_timer_may_arm_itself_again(kernel, log):
    def fn(_data):
        log.append(kernel.sched.jiffies)
        if len(log) < 3:
            kernel.timers.mod_timer(timer, kernel.sched.jiffies + 7)

    timer = Timer("t", fn)
    kernel.timers.mod_timer(timer, 7)
    kernel.world.run()
    assert log == [7, 14, 21]


def test_timers_of_one_jiffy_run_in_the_order_of_arming(kernel, log):
    for name in "abc":
        kernel.timers.mod_timer(Timer(name, log.append, name), 9)
    kernel.world.run()
    assert log == list("abc")


def test_a_timer_runs_on_the_cpu_that_armed_it(smp, log):
    def body():
        timer = Timer("t", lambda data: log.append((data, smp.sched.cpu.id)), smp.sched.cpu.id)
        smp.timers.mod_timer(timer, smp.sched.jiffies + 5)
        for _ in range(100):
            smp.sched.spend(1_000)

    for _ in range(2):
        smp.sched.spawn("t", body)
    smp.world.run()
    assert sorted(log) == [(0, 0), (1, 1)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["mod", "del", "run"]), st.integers(0, 4), st.integers(1, 60)), max_size=40))
def test_timers_do_what_a_simple_model_does(steps):
    kernel = Kernel()
    fired = []
    model = {}
    timers = [Timer(str(n), fired.append, n) for n in range(5)]
    for what, n, arg in steps:
        if what == "mod":
            kernel.timers.mod_timer(timers[n], kernel.sched.jiffies + arg)
            model[n] = kernel.sched.jiffies + arg
        elif what == "del":
            assert kernel.timers.del_timer(timers[n]) == (model.pop(n, None) is not None)
        else:
            kernel.world.run(for_ns=arg * NSEC_PER_JIFFY)
            due = {k for k, at in model.items() if at * NSEC_PER_JIFFY < kernel.world.now}
            assert due <= set(fired) <= {k for k, at in model.items() if at * NSEC_PER_JIFFY <= kernel.world.now}
            for k in fired:
                del model[k]
            fired.clear()
        assert [timer.pending for timer in timers] == [n in model for n in range(5)]
    kernel.shutdown()
