"""Spinlocks and mutexes (2.6.23 include/linux/spinlock.h, lib/spinlock_debug.c, kernel/mutex.c).

A spinlock raises the PREEMPT count. It can be contended by another CPU when its holder spends time; who spins lets time pass, so
that the holder goes on. Taking a lock that the same CPU holds, or spinning for a second, is an oops, as with
CONFIG_DEBUG_SPINLOCK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.wait import WaitQueue

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.kernel.cpu import Cpu
    from kemu.kernel.task import Task, Why

LOCKUP_NS = 1_000_000_000


class Spinlock:
    """``spinlock_t``; ``contended`` counts how often somebody had to spin."""

    __slots__ = ("_sched", "_softirq", "contended", "name", "owner")

    def __init__(self, kernel: Kernel, name: str) -> None:
        self._sched = kernel.sched
        self._softirq = kernel.softirq
        self.name = name
        self.owner: Cpu | None = None
        self.contended = 0

    def spin_lock(self) -> None:
        """Take the lock; spin as long as another CPU holds it."""
        cpu = self._sched.cpu
        cpu.preempt_count += 1
        if self.owner is not None:
            self._spin(cpu)
        self.owner = cpu

    def spin_trylock(self) -> bool:
        """Take the lock if it is free."""
        if self.owner is not None:
            return False
        cpu = self._sched.cpu
        cpu.preempt_count += 1
        self.owner = cpu
        return True

    def spin_unlock(self) -> None:
        """Let go."""
        cpu = self._sched.cpu
        if self.owner is not cpu:
            raise KernelBug(f"BUG: spinlock {self.name}: wrong CPU unlocks, owner {self.owner!r}", cpu)
        self.owner = None
        cpu.preempt_count -= 1

    def spin_lock_irqsave(self) -> int:
        """Take the lock with interrupts disabled; give what spin_unlock_irqrestore() wants back."""
        flags = self._sched.local_irq_save()
        self.spin_lock()
        return flags

    def spin_unlock_irqrestore(self, flags: int) -> None:
        """Undo spin_lock_irqsave()."""
        self.spin_unlock()
        self._sched.local_irq_restore(flags)

    def spin_lock_bh(self) -> None:
        """Take the lock with softirqs disabled."""
        self._softirq.local_bh_disable()
        self.spin_lock()

    def spin_unlock_bh(self) -> None:
        """Undo spin_lock_bh(); pending softirqs run."""
        self.spin_unlock()
        self._softirq.local_bh_enable()

    def _spin(self, cpu: Cpu) -> None:
        if self.owner is cpu:
            raise KernelBug(f"BUG: spinlock recursion on {self.name}, {self._sched.current!r}", cpu)
        self.contended += 1
        give_up = cpu.now + LOCKUP_NS
        while self.owner is not None:
            ahead = cpu.horizon - cpu.now  # until then nobody else can do anything
            self._sched.spend(ahead if costs.SPIN < ahead < LOCKUP_NS else costs.SPIN)
            if cpu.now >= give_up:
                raise KernelBug(f"BUG: spinlock lockup on {self.name}, {self._sched.current!r}", cpu)


class Mutex:
    """``struct mutex``: sleeps where a spinlock spins; may not be taken in atomic context."""

    __slots__ = ("_sched", "name", "owner", "queue")

    def __init__(self, kernel: Kernel, name: str) -> None:
        self._sched = kernel.sched
        self.name = name
        self.owner: Task | None = None
        self.queue = WaitQueue(name)

    def mutex_lock(self, why: Why | None = None) -> None:
        """Take the mutex; sleep as long as another task holds it."""
        sched = self._sched
        sched.might_sleep()
        if self.owner is sched.current:
            raise KernelBug(f"BUG: mutex {self.name}: recursive locking by {sched.current!r}", self.owner)
        if self.owner is not None:
            sched.wait_event(self.queue, self._is_free, why or ("mutex", self), exclusive=True)
        self.owner = sched.current

    def mutex_trylock(self) -> bool:
        """Take the mutex if it is free."""
        if self.owner is not None:
            return False
        self.owner = self._sched.current
        return True

    def mutex_unlock(self) -> None:
        """Let go; the first waiter may try."""
        if self.owner is not self._sched.current:
            raise KernelBug(f"BUG: mutex {self.name}: unlocked by {self._sched.current!r}, held by {self.owner!r}", self._sched.cpu)
        self.owner = None
        self._sched.wake_up(self.queue)

    def is_locked(self) -> bool:
        """Tell whether somebody holds it."""
        return self.owner is not None

    def _is_free(self) -> bool:
        return self.owner is None
