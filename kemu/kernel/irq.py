"""Hard interrupts (2.6.23 kernel/irq/handle.c, include/linux/hardirq.h).

A due event of a CPU is an interrupt: it borrows ``current``, runs with interrupts disabled and the HARDIRQ count raised, and on the
way out softirqs run unless they were interrupted themselves. ``spend()`` and the idle task deliver; nobody else does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.costs import IRQ_ENTRY
from kemu.kernel.cpu import HARDIRQ_OFFSET, INTERRUPT_MASK

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.kernel.cpu import Cpu


class Irq:
    """Delivers a machine's interrupts."""

    __slots__ = ("_kernel", "count")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.count = 0

    def deliver(self, cpu: Cpu) -> None:
        """Run all due events of the running CPU, if it has interrupts enabled.

        The second half is irq_exit(): softirqs run if the interrupt came neither in a softirq nor in a section with them disabled.
        """
        events = cpu.events
        while events.first <= cpu.now and not cpu.irq_disabled:
            event = events.pop()
            self.count += 1
            cpu.preempt_count += HARDIRQ_OFFSET
            cpu.irq_disabled += 1
            cpu.now += IRQ_ENTRY
            event.fn(event.arg)
            cpu.irq_disabled -= 1
            cpu.preempt_count -= HARDIRQ_OFFSET
            if cpu.softirq_pending and not cpu.preempt_count & INTERRUPT_MASK:
                self._kernel.softirq.do_softirq()
