"""Where the code runs: time, and the context that ``preempt_count`` tells (2.6.23 include/linux/hardirq.h, preempt.h).

The lowest part of the scheduler (sched.py). Time passes in :meth:`Context.spend` only. Interrupts, softirqs and other CPUs run
inside it: never call it with half-updated structures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel.cpu import HARDIRQ_MASK, INTERRUPT_MASK, SOFTIRQ_MASK
from kemu.kernel.timer import NSEC_PER_JIFFY

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.kernel.cpu import Cpu
    from kemu.kernel.task import Task
    from kemu.kernel.world import World


class Context:
    """The running CPU and task of one machine.

    :ivar cpu: the CPU that runs.
    :ivar current: the task whose stack it runs on; interrupts borrow it.
    """

    cpu: Cpu
    current: Task

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.world: World = kernel.world

    # ---- time

    @property
    def now(self) -> int:
        """Local time of the running CPU in ns."""
        return self.cpu.now

    @property
    def jiffies(self) -> int:
        """Local time of the running CPU in ticks of 4 ms."""
        return self.cpu.now // NSEC_PER_JIFFY

    def spend(self, ns: int) -> None:
        """Let ``ns`` of CPU time pass. Interrupts, softirqs and other CPUs may run here."""
        cpu = self.cpu
        cpu.now = now = cpu.now + ns
        if now >= cpu.horizon:
            self._look_around(cpu)

    def _look_around(self, cpu: Cpu) -> None:
        """Deliver what is due; if others are behind, let them run."""
        world = self.world
        if world.in_hub:
            return
        world.running = cpu
        events = cpu.events
        if events.first <= cpu.now:
            self.kernel.irq.deliver(cpu)
        limit = world.limit_of(cpu)
        if cpu.now >= limit:
            world.enter_hub(cpu.current.stack, cpu)
            if events.first <= cpu.now:
                self.kernel.irq.deliver(cpu)
            return
        if events.first < limit and not cpu.irq_disabled:
            limit = events.first
        cpu.horizon = limit

    # ---- context

    def in_irq(self) -> bool:
        """Tell whether a hard interrupt runs (include/linux/hardirq.h)."""
        return bool(self.cpu.preempt_count & HARDIRQ_MASK)

    def in_softirq(self) -> bool:
        """Tell whether a softirq runs or bottom halves are disabled."""
        return bool(self.cpu.preempt_count & SOFTIRQ_MASK)

    def in_interrupt(self) -> bool:
        """Tell whether either is the case; true between local_bh_disable() and local_bh_enable() too."""
        return bool(self.cpu.preempt_count & INTERRUPT_MASK)

    def in_atomic(self) -> bool:
        """Tell whether sleeping is forbidden."""
        return bool(self.cpu.preempt_count)

    def irqs_disabled(self) -> bool:
        """Tell whether interrupts are disabled on this CPU."""
        return self.cpu.irq_disabled > 0

    def might_sleep(self) -> None:
        """Oops if sleeping is forbidden here, whether or not the caller would sleep this time."""
        cpu = self.cpu
        if cpu.preempt_count or cpu.irq_disabled:
            task = self.current
            raise KernelBug(
                "BUG: sleeping function called from invalid context: "
                f"in_atomic():{int(bool(cpu.preempt_count))}, irqs_disabled():{int(cpu.irq_disabled > 0)}, {task.comm}/{task.pid}",
                cpu,
            )

    def preempt_disable(self) -> None:
        """Forbid sleeping until preempt_enable()."""
        self.cpu.preempt_count += 1

    def preempt_enable(self) -> None:
        """Undo one preempt_disable()."""
        self.cpu.preempt_count -= 1

    def local_irq_save(self) -> int:
        """Disable interrupts; give what local_irq_restore() wants back."""
        cpu = self.cpu
        flags = cpu.irq_disabled
        cpu.irq_disabled = flags + 1
        return flags

    def local_irq_restore(self, flags: int) -> None:
        """Go back to ``flags``; what came meanwhile is delivered at the next spend()."""
        cpu = self.cpu
        cpu.irq_disabled = flags
        if not flags:
            time = cpu.events.first
            if time < cpu.horizon:
                cpu.horizon = time
