"""Work queues with one worker task (2.6.23 kernel/workqueue.c: create_singlethread_workqueue()).

Interface: ``Workqueue(kernel, "rpciod")``; ``Work(name, fn, data)``; ``queue_work()``, ``queue_delayed_work()``, ``cancel()``,
``flush()``.

A work that is queued and has not started is not queued twice; once started it may be queued again, also by itself.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from kemu.kernel import costs
from kemu.kernel.task import PF_NOFREEZE, TASK_INTERRUPTIBLE
from kemu.kernel.timer import Timer
from kemu.kernel.wait import WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel


class Work:
    """``struct work_struct`` and ``struct delayed_work``: ``fn(data)``, some time."""

    __slots__ = ("data", "fn", "name", "pending", "timer", "wq")

    def __init__(self, name: str, fn: Callable[[Any], object], data: Any = None) -> None:
        self.name = name
        self.fn = fn
        self.data = data
        self.pending = False
        self.timer: Timer | None = None
        self.wq: Workqueue | None = None

    def __repr__(self) -> str:
        """Name the work."""
        return f"<work {self.name}{' pending' if self.pending else ''}>"


class Workqueue:
    """``struct workqueue_struct`` with a single thread.

    :ivar task: the worker.
    :ivar running: the work that it does just now.
    """

    def __init__(self, kernel: Kernel, name: str, *, flags: int = PF_NOFREEZE) -> None:
        self._kernel = kernel
        self._sched = kernel.sched
        self.name = name
        self.works: deque[Work] = deque()
        self.running: Work | None = None
        self._done = 0
        self._queued = 0
        self._flushers = WaitQueue(f"{name} flush")
        self._stopping = False
        self.task = self._sched.spawn(name, self._worker, flags=flags, start=False)
        self.task.nice = -5

    def queue_work(self, work: Work) -> bool:
        """Queue a work; False if it is pending already. Legal in interrupts."""
        if work.pending:
            return False
        work.pending = True
        self._insert(work)
        return True

    def queue_delayed_work(self, work: Work, delay: int) -> bool:
        """Queue a work after a delay in jiffies; False if it is pending already."""
        if not delay:
            return self.queue_work(work)
        if work.pending:
            return False
        work.pending = True
        work.wq = self
        if work.timer is None:
            work.timer = Timer(f"delayed work {work.name}", self._delay_over, work)
        work.timer.fn = self._delay_over
        self._kernel.timers.mod_timer(work.timer, self._sched.jiffies + delay)
        return True

    def cancel(self, work: Work) -> bool:
        """Take a pending work back; False if there was nothing to take back. Does not wait for one that runs."""
        if not work.pending:
            return False
        if work.timer is not None and self._kernel.timers.del_timer(work.timer):
            work.pending = False
            return True
        self.works.remove(work)
        self._queued -= 1
        work.pending = False
        return True

    def cancel_sync(self, work: Work) -> bool:
        """Take a pending work back, and wait for it if it runs (cancel_work_sync())."""
        cancelled = self.cancel(work)
        if self.running is work and self._sched.current is not self.task:
            self._sched.wait_event(self._flushers, lambda: self.running is not work, ("workqueue", self))
        return cancelled

    def flush(self) -> None:
        """Wait until all works that are queued now are done (flush_workqueue()); delayed works count once they are queued."""
        target = self._queued
        if self._sched.current is self.task:
            return
        self._sched.wait_event(self._flushers, lambda: self._done >= target, ("workqueue", self))

    def destroy(self) -> None:
        """Flush, then end the worker (destroy_workqueue())."""
        self.flush()
        self._stopping = True
        self._sched.wake_up_process(self.task)
        self._sched.join(self.task, ("workqueue", self))

    def _insert(self, work: Work) -> None:
        work.wq = self
        self.works.append(work)
        self._queued += 1
        self._sched.wake_up_process(self.task)

    def _delay_over(self, work: Work) -> None:
        self._insert(work)

    def _worker(self) -> None:
        """Do works in order; sleep when there are none (worker_thread(), run_workqueue())."""
        sched = self._sched
        works = self.works
        while not self._stopping:
            while works:
                work = works.popleft()
                work.pending = False
                self.running = work
                sched.spend(costs.WORK_ITEM)
                work.fn(work.data)
                self.running = None
                self._done += 1
                if self._flushers.waiters:
                    sched.wake_up_all(self._flushers)
                sched.cond_resched()
            sched.current.state = TASK_INTERRUPTIBLE
            if works or self._stopping:
                sched.current.state = 0
                continue
            sched.schedule()
