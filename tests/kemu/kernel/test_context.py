"""Where the code runs: time, the context that the counter tells, and oopses in atomic context."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.cpu import HARDIRQ_OFFSET, SOFTIRQ_OFFSET
from kemu.kernel.timer import NSEC_PER_JIFFY
from kemu.kernel.wait import WaitQueue


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
