"""Wait queues and completions (2.6.23 include/linux/wait.h, kernel/sched.c: __wake_up_common()).

The waiting itself is in sched.py (``sched.wait_event(queue, condition, why)``); here are the data. A wake-up wakes all waiters that
are not exclusive, and as many exclusive ones as it was told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kemu.kernel.sched import Sched
    from kemu.kernel.task import Task, Why


class Waiter:
    """``wait_queue_t``: one task on one queue; taken off by the wake-up that wakes it (autoremove_wake_function())."""

    __slots__ = ("exclusive", "queued", "task")

    def __init__(self, task: Task, exclusive: bool) -> None:
        self.task = task
        self.exclusive = exclusive
        self.queued = False


class WaitQueue:
    """``wait_queue_head_t``."""

    __slots__ = ("name", "waiters")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.waiters: list[Waiter] = []

    def active(self) -> bool:
        """Tell whether somebody waits (include/linux/wait.h: waitqueue_active())."""
        return bool(self.waiters)

    def __repr__(self) -> str:
        """Name the queue and who waits on it."""
        return f"<wait queue {self.name}: {[waiter.task for waiter in self.waiters]}>"


class Completion:
    """``struct completion``: a counter of things done, and who waits for them (kernel/sched.c)."""

    __slots__ = ("done", "queue", "sched")

    def __init__(self, sched: Sched, name: str = "") -> None:
        self.sched = sched
        self.done = 0
        self.queue = WaitQueue(name)

    def complete(self) -> None:
        """Let one waiter go, now or when it comes."""
        self.done += 1
        self.sched.wake_up(self.queue)

    def complete_all(self) -> None:
        """Let everybody go, for ever."""
        self.done += 1 << 30
        self.sched.wake_up_all(self.queue)

    def wait(self, why: Why | None = None) -> None:
        """Wait for one ``complete()``."""
        self.sched.wait_event(self.queue, self._is_done, why, exclusive=True)
        self.done -= 1

    def wait_timeout(self, jiffies: int, why: Why | None = None) -> int:
        """Wait for one ``complete()``; give the jiffies that were left, 0 after a timeout."""
        left = self.sched.wait_event_timeout(self.queue, self._is_done, jiffies, why, exclusive=True)
        if left:
            self.done -= 1
        return left

    def _is_done(self) -> bool:
        return self.done > 0
