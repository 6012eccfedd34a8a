"""Softirqs: when they run, on whose stack, how often, and who does the rest."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.softirq import MAX_SOFTIRQ_RESTART, NET_RX_SOFTIRQ, NET_TX_SOFTIRQ

MS = 1_000_000


def interrupt(kernel, fn):
    """Let ``fn()`` run as a hard interrupt, now."""
    kernel.cpus[0].post(0, lambda _arg: fn())
    kernel.sched.spend(1)


def test_a_softirq_runs_when_the_interrupt_is_over(kernel):
    log = []
    kernel.softirq.open_softirq(NET_RX_SOFTIRQ, lambda: log.append((kernel.sched.in_irq(), kernel.sched.in_softirq())))

    def handler():
        kernel.softirq.raise_softirq(NET_RX_SOFTIRQ)
        log.append("handler")

    interrupt(kernel, handler)
    assert log == ["handler", (False, True)]
    assert not kernel.sched.in_interrupt()


def test_it_borrows_the_current_of_what_was_interrupted(kernel):
    log = []
    kernel.softirq.open_softirq(NET_RX_SOFTIRQ, lambda: log.append(kernel.sched.current))
    interrupt(kernel, lambda: kernel.softirq.raise_softirq(NET_RX_SOFTIRQ))
    assert log == [kernel.init]


def test_on_a_resting_cpu_current_is_the_idle_task(kernel):
    log = []
    kernel.softirq.open_softirq(NET_RX_SOFTIRQ, lambda: log.append(kernel.sched.current.pid))
    kernel.cpus[0].post(MS, lambda _arg: kernel.softirq.raise_softirq(NET_RX_SOFTIRQ))
    kernel.world.run()
    assert log == [0]


def test_lower_numbers_run_first(kernel):
    log = []
    kernel.softirq.open_softirq(NET_RX_SOFTIRQ, lambda: log.append("rx"))
    kernel.softirq.open_softirq(NET_TX_SOFTIRQ, lambda: log.append("tx"))

    def handler():
        kernel.softirq.raise_softirq(NET_RX_SOFTIRQ)
        kernel.softirq.raise_softirq(NET_TX_SOFTIRQ)

    interrupt(kernel, handler)
    assert log == ["tx", "rx"]


def test_bottom_halves_disabled_keep_it_off_until_the_last_enable(kernel):
    log, softirq = [], kernel.softirq
    softirq.open_softirq(NET_RX_SOFTIRQ, lambda: log.append(1))
    softirq.local_bh_disable()
    softirq.local_bh_disable()
    interrupt(kernel, lambda: softirq.raise_softirq(NET_RX_SOFTIRQ))
    softirq.local_bh_enable()
    assert log == []
    softirq.local_bh_enable()
    assert log == [1]


def test_an_enable_too_many_is_an_oops(kernel):
    with pytest.raises(KernelBug, match="without local_bh_disable"):
        kernel.softirq.local_bh_enable()


def test_a_softirq_is_not_interrupted_by_another_but_by_interrupts(kernel):
    log = []

    def softirq():
        log.append("begin")
        kernel.cpus[0].post(kernel.sched.now, lambda _arg: (log.append("irq"), kernel.softirq.raise_softirq(NET_TX_SOFTIRQ)))
        kernel.sched.spend(1_000)
        log.append("end")

    kernel.softirq.open_softirq(NET_RX_SOFTIRQ, softirq)
    kernel.softirq.open_softirq(NET_TX_SOFTIRQ, lambda: log.append("tx"))
    interrupt(kernel, lambda: kernel.softirq.raise_softirq(NET_RX_SOFTIRQ))
    assert log == ["begin", "irq", "end", "tx"]


def test_after_ten_rounds_ksoftirqd_does_the_rest(kernel):
    who = []

    def again():
        who.append(kernel.sched.current.comm)
        if len(who) < 15:
            kernel.softirq.raise_softirq(NET_RX_SOFTIRQ)

    kernel.softirq.open_softirq(NET_RX_SOFTIRQ, again)
    interrupt(kernel, lambda: kernel.softirq.raise_softirq(NET_RX_SOFTIRQ))
    assert who == ["init"] * MAX_SOFTIRQ_RESTART
    kernel.world.run()
    assert who[10:] == ["ksoftirqd/0"] * 5


def test_raised_in_process_context_it_runs_in_ksoftirqd(kernel):
    who = []
    kernel.softirq.open_softirq(NET_RX_SOFTIRQ, lambda: who.append(kernel.sched.current.comm))
    kernel.softirq.raise_softirq(NET_RX_SOFTIRQ)
    assert who == []
    kernel.world.run()
    assert who == ["ksoftirqd/0"]


def test_sleeping_in_a_softirq_is_an_oops(kernel):
    kernel.softirq.open_softirq(NET_RX_SOFTIRQ, lambda: kernel.sched.msleep(1))
    kernel.cpus[0].post(MS, lambda _arg: kernel.softirq.raise_softirq(NET_RX_SOFTIRQ))
    kernel.world.run()
    assert kernel.judge.outcome == "oops"


def test_a_softirq_that_nobody_opened_is_an_oops(kernel):
    kernel.cpus[0].post(MS, lambda _arg: kernel.softirq.raise_softirq(NET_TX_SOFTIRQ))
    kernel.world.run()
    assert "nobody has opened it" in kernel.judge.reason


def test_each_cpu_has_its_own_pending_softirqs(smp):
    where = []
    smp.softirq.open_softirq(NET_RX_SOFTIRQ, lambda: where.append(smp.sched.cpu.id))
    for cpu in smp.cpus:
        cpu.post(MS, lambda _arg: smp.softirq.raise_softirq(NET_RX_SOFTIRQ))
    smp.world.run()
    assert where == [0, 1]
