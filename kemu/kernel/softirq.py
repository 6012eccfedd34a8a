"""Softirqs (2.6.23 kernel/softirq.c).

A softirq runs on the stack and the ``current`` of whatever it interrupted. After ``MAX_SOFTIRQ_RESTART`` rounds the rest is left to
ksoftirqd, a task of each CPU.

Interface: ``open_softirq(nr, fn)``, ``raise_softirq(nr)``, ``local_bh_disable()``, ``local_bh_enable()``, ``do_softirq()``.

Left out: tasklets; accounting of time to softirqs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.cpu import INTERRUPT_MASK, SOFTIRQ_MASK, SOFTIRQ_OFFSET
from kemu.kernel.task import PF_MEMALLOC, PF_NOFREEZE, TASK_INTERRUPTIBLE, Task, tsk_restore_flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.kernel.cpu import Cpu

HI_SOFTIRQ = 0
TIMER_SOFTIRQ = 1
NET_TX_SOFTIRQ = 2
NET_RX_SOFTIRQ = 3
BLOCK_SOFTIRQ = 4
TASKLET_SOFTIRQ = 5
NR_SOFTIRQS = 6

MAX_SOFTIRQ_RESTART = 10


class Softirq:
    """The softirqs of one machine."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._sched = kernel.sched
        self.patched = kernel.patched
        self._vector: list[Callable[[], object] | None] = [None] * NR_SOFTIRQS
        self._ksoftirqd: list[Task] = []
        self.rounds = 0
        self.ksoftirqd_wakes = 0

    def start_ksoftirqd(self) -> None:
        """Make one ksoftirqd per CPU, bound to it."""
        for cpu in self._kernel.cpus:
            task = self._sched.spawn(f"ksoftirqd/{cpu.id}", self._ksoftirqd_body(cpu), flags=PF_NOFREEZE, start=False)
            task.cpu = cpu
            task.bound = True
            task.nice = 19
            self._ksoftirqd.append(task)

    def open_softirq(self, nr: int, fn: Callable[[], object]) -> None:
        """Say what softirq ``nr`` does."""
        self._vector[nr] = fn

    def raise_softirq(self, nr: int) -> None:
        """Mark ``nr`` pending on this CPU; it runs at irq_exit(), local_bh_enable(), or in ksoftirqd if nothing else comes."""
        cpu = self._sched.cpu
        cpu.softirq_pending |= 1 << nr
        if not cpu.preempt_count & INTERRUPT_MASK:
            self._wakeup_softirqd(cpu)

    def local_bh_disable(self) -> None:
        """Keep softirqs off this CPU; nests."""
        self._sched.cpu.preempt_count += SOFTIRQ_OFFSET

    def local_bh_enable(self) -> None:
        """Undo one local_bh_disable(); run what has become pending, if this was the last."""
        cpu = self._sched.cpu
        if not cpu.preempt_count & SOFTIRQ_MASK:
            raise KernelBug("BUG: local_bh_enable() without local_bh_disable()", cpu)
        cpu.preempt_count -= SOFTIRQ_OFFSET
        if cpu.softirq_pending and not cpu.preempt_count & INTERRUPT_MASK:
            self.do_softirq()

    def do_softirq(self) -> None:
        """Run pending softirqs, unless this is an interrupt already (kernel/softirq.c)."""
        cpu = self._sched.cpu
        if cpu.preempt_count & INTERRUPT_MASK or cpu.irq_disabled:
            return
        if cpu.softirq_pending:
            self._do_softirq(cpu)

    def _do_softirq(self, cpu: Cpu) -> None:
        """Run up to MAX_SOFTIRQ_RESTART rounds of handlers on the borrowed ``current`` (__do_softirq()).

        Patch 06: whoever was interrupted keeps its PF_MEMALLOC for itself. The bit is saved and cleared here and restored, that bit
        alone, when the handlers are done.
        """
        sched = self._sched
        current = sched.current
        saved = current.flags
        if self.patched.softirq_memalloc:  # [p06]
            current.flags &= ~PF_MEMALLOC
        cpu.preempt_count += SOFTIRQ_OFFSET
        restart = MAX_SOFTIRQ_RESTART
        while cpu.softirq_pending and restart:
            restart -= 1
            self.rounds += 1
            pending = cpu.softirq_pending
            cpu.softirq_pending = 0
            while pending:
                lowest = pending & -pending
                pending ^= lowest
                nr = lowest.bit_length() - 1
                handler = self._vector[nr]
                if handler is None:
                    raise KernelBug(f"BUG: softirq {nr} raised, but nobody has opened it", cpu)
                sched.spend(costs.SOFTIRQ_ENTRY)
                handler()
        if cpu.softirq_pending:
            self._wakeup_softirqd(cpu)
        cpu.preempt_count -= SOFTIRQ_OFFSET
        if self.patched.softirq_memalloc:  # [p06]
            tsk_restore_flags(current, saved, PF_MEMALLOC)

    def _wakeup_softirqd(self, cpu: Cpu) -> None:
        self.ksoftirqd_wakes += self._sched.wake_up_process(self._ksoftirqd[cpu.id])

    def _ksoftirqd_body(self, cpu: Cpu) -> Callable[[], None]:
        """Give the body of ksoftirqd: do what is pending, let others run, sleep when nothing is (kernel/softirq.c: ksoftirqd())."""
        sched = self._sched

        def ksoftirqd() -> None:
            while True:
                while cpu.softirq_pending:
                    self.do_softirq()
                    sched.cond_resched()
                sched.current.state = TASK_INTERRUPTIBLE
                sched.schedule()

        return ksoftirqd
