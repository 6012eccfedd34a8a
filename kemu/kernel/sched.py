"""The scheduler of one machine: sleeping and waking on queues (2.6.23 kernel/timer.c: schedule_timeout(), include/linux/wait.h).

Interface: class :class:`Sched`; every machine has one, ``kernel.sched``. Time and context are in context.py, tasks and run queues
in runqueue.py; here is everything that sleeps.

Rules of this file
    * ``why`` says what a task waits for, ``(kind, obj)``, as long as it sleeps; the judge follows it.
    * ``wait_event()`` asks its condition before it sleeps and at each wake-up. The condition must not sleep.
    * Wake-ups are legal in interrupts. A wake-up between the question and the sleep is not lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import ERESTARTSYS
from kemu.kernel.runqueue import TIMESLICE_NS, RunQueues
from kemu.kernel.task import TASK_DEAD, TASK_INTERRUPTIBLE, TASK_RUNNING, TASK_UNINTERRUPTIBLE, Task, Why, signal_pending
from kemu.kernel.timer import HZ, MAX_SCHEDULE_TIMEOUT, NSEC_PER_JIFFY, Timer, msecs_to_jiffies
from kemu.kernel.wait import Waiter, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HZ", "NSEC_PER_JIFFY", "TIMESLICE_NS", "Sched"]


class Sched(RunQueues):
    """The scheduler of one machine."""

    # ---- sleeping

    def schedule_timeout(self, timeout: int | None, why: Why | None = None) -> int:
        """Sleep for that many jiffies or until woken; give what is left. None or MAX_SCHEDULE_TIMEOUT: until woken.

        Uninterruptible unless the caller has set ``current.state``.
        """
        self.might_sleep()
        task = self.current
        if task.state == TASK_RUNNING:
            task.state = TASK_UNINTERRUPTIBLE
        return self._sleep(task, timeout, why)

    def schedule_timeout_interruptible(self, timeout: int | None, why: Why | None = None) -> int:
        """Sleep, and wake for a signal too."""
        task = self.current
        task.state = TASK_INTERRUPTIBLE
        if signal_pending(task):
            task.state = TASK_RUNNING
            return MAX_SCHEDULE_TIMEOUT if timeout is None else timeout
        return self._sleep(task, timeout, why)

    def _sleep(self, task: Task, timeout: int | None, why: Why | None) -> int:
        task.why = why
        if timeout is None or timeout >= MAX_SCHEDULE_TIMEOUT:
            self._block(task)
            return MAX_SCHEDULE_TIMEOUT
        expires = self.jiffies + timeout
        timer = Timer("schedule_timeout", self.wake_up_process, task)
        self.kernel.timers.mod_timer(timer, expires)
        try:
            self._block(task)
        finally:
            self.kernel.timers.del_timer(timer)
        return max(0, expires - self.jiffies)

    def _block(self, task: Task) -> None:
        try:
            while task.state != TASK_RUNNING:
                self.schedule()
        finally:
            task.state = TASK_RUNNING
            task.why = None

    def usleep(self, ns: int, why: Why | None = ("sleep", None)) -> None:
        """Sleep for that many nanoseconds exactly (an hrtimer), uninterruptibly."""
        task = self.current
        self.might_sleep()
        task.state = TASK_UNINTERRUPTIBLE
        task.why = why
        event = self.cpu.post(self.cpu.now + ns, self.wake_up_process, task)
        try:
            self._block(task)
        finally:
            event.cancel()

    def msleep(self, ms: int, why: Why | None = ("sleep", None)) -> None:
        """Sleep for at least that many milliseconds (kernel/timer.c)."""
        timeout = msecs_to_jiffies(ms) + 1
        while timeout:
            timeout = self.schedule_timeout(timeout, why)

    # ---- wait queues

    def add_wait_queue(self, queue: WaitQueue, waiter: Waiter) -> None:
        """Put a waiter on a queue; exclusive ones go to the end."""
        if waiter.queued:
            return
        waiter.queued = True
        if waiter.exclusive:
            queue.waiters.append(waiter)
        else:
            queue.waiters.insert(0, waiter)

    def remove_wait_queue(self, queue: WaitQueue, waiter: Waiter) -> None:
        """Take a waiter off, if it is still on."""
        if waiter.queued:
            waiter.queued = False
            queue.waiters.remove(waiter)

    def wait_event(
        self, queue: WaitQueue, condition: Callable[[], Any], why: Why | None = None, *, exclusive: bool = False
    ) -> None:
        """Sleep until ``condition()`` is true; it is asked at each wake-up of ``queue``."""
        if not condition():
            self._wait(queue, condition, MAX_SCHEDULE_TIMEOUT, why, TASK_UNINTERRUPTIBLE, exclusive)

    def wait_event_timeout(
        self, queue: WaitQueue, condition: Callable[[], Any], timeout: int, why: Why | None = None, *, exclusive: bool = False
    ) -> int:
        """Sleep until ``condition()`` or a timeout in jiffies; give what is left (at least 1), 0 after the timeout."""
        if condition():
            return max(timeout, 1)
        return self._wait(queue, condition, timeout, why, TASK_UNINTERRUPTIBLE, exclusive)

    def wait_event_interruptible(
        self, queue: WaitQueue, condition: Callable[[], Any], why: Why | None = None, *, exclusive: bool = False
    ) -> int:
        """Sleep until ``condition()`` or a signal: 0 or -ERESTARTSYS."""
        if condition():
            return 0
        return min(self._wait(queue, condition, MAX_SCHEDULE_TIMEOUT, why, TASK_INTERRUPTIBLE, exclusive), 0)

    def wait_event_interruptible_timeout(
        self, queue: WaitQueue, condition: Callable[[], Any], timeout: int, why: Why | None = None, *, exclusive: bool = False
    ) -> int:
        """Sleep until ``condition()``, a timeout or a signal: what is left, 0, or -ERESTARTSYS."""
        if condition():
            return max(timeout, 1)
        return self._wait(queue, condition, timeout, why, TASK_INTERRUPTIBLE, exclusive)

    def _wait(
        self, queue: WaitQueue, condition: Callable[[], Any], timeout: int, why: Why | None, state: int, exclusive: bool
    ) -> int:
        self.might_sleep()
        task = self.current
        waiter = Waiter(task, exclusive)
        left = timeout
        try:
            while True:
                self.add_wait_queue(queue, waiter)
                task.state = state
                if condition():
                    return max(left, 1)
                if state == TASK_INTERRUPTIBLE and signal_pending(task):
                    return -ERESTARTSYS
                if left <= 0:
                    return 0
                left = self._sleep(task, left, why)
        finally:
            task.state = TASK_RUNNING
            self.remove_wait_queue(queue, waiter)

    def wake_up(self, queue: WaitQueue, nr: int = 1) -> int:
        """Wake all waiters that are not exclusive and up to ``nr`` that are; legal in interrupts. Give how many were woken."""
        if not queue.waiters:
            return 0
        woken = 0
        for waiter in list(queue.waiters):
            if waiter.queued and self.wake_up_process(waiter.task):
                woken += 1
                waiter.queued = False
                queue.waiters.remove(waiter)
                if waiter.exclusive:
                    nr -= 1
                    if nr == 0:
                        break
        return woken

    def wake_up_all(self, queue: WaitQueue) -> int:
        """Wake every waiter."""
        return self.wake_up(queue, 0)

    def join(self, task: Task, why: Why | None = None) -> int | None:
        """Wait until a task is over; give its exit code."""
        self.wait_event(task.exit_queue, lambda: task.state == TASK_DEAD, why)
        return task.exit_code
