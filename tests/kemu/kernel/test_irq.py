"""Hard interrupts: when they are delivered, and what they find."""

from __future__ import annotations


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
