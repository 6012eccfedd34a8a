"""One processor: local time, the interrupt state, its run queue and its timed events.

Interface: :class:`Cpu`, :class:`Event`, :class:`EventQueue`, the fields of ``preempt_count``.

Rules of this file
    * ``preempt_count`` is 2.6.23's: PREEMPT 8 bits, SOFTIRQ 8 bits, HARDIRQ 12 bits (include/linux/hardirq.h). It stands on the
      CPU, not on the task: who leaves a CPU voluntarily has it at zero.
    * Events are ordered by (time, sequence). A cancelled event stays in its heap until it is popped, or until more than half of the
      heap is cancelled.
    * An event of a CPU runs there as a hard interrupt (irq.py); the one who posts never runs it.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.kernel.task import Task

PREEMPT_OFFSET = 1
SOFTIRQ_OFFSET = 1 << 8
HARDIRQ_OFFSET = 1 << 16
PREEMPT_MASK = 0xFF
SOFTIRQ_MASK = 0xFF << 8
HARDIRQ_MASK = 0xFFF << 16
INTERRUPT_MASK = SOFTIRQ_MASK | HARDIRQ_MASK

#: A time that never comes.
FOREVER = 1 << 62


class Event:
    """Something that happens at a time: ``fn(arg)``."""

    __slots__ = ("arg", "cancelled", "fn", "queue", "time")

    def __init__(self, time: int, fn: Callable[[Any], object], arg: Any, queue: EventQueue) -> None:
        self.time = time
        self.fn = fn
        self.arg = arg
        self.queue: EventQueue | None = queue
        self.cancelled = False

    def cancel(self) -> bool:
        """Take the event back; False if it has run or was cancelled before."""
        queue = self.queue
        if queue is None:
            return False
        self.queue = None
        self.cancelled = True
        queue.note_cancelled()
        return True


class EventQueue:
    """A heap of timed events."""

    __slots__ = ("cancelled", "heap", "sequence")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Event]] = []
        self.cancelled = 0
        self.sequence = 0

    def push(self, time: int, fn: Callable[[Any], object], arg: Any) -> Event:
        """Add an event."""
        event = Event(time, fn, arg, self)
        self.sequence = sequence = self.sequence + 1
        heappush(self.heap, (time, sequence, event))
        return event

    def next_time(self) -> int:
        """Give the time of the first live event, or FOREVER."""
        heap = self.heap
        while heap:
            time, _, event = heap[0]
            if not event.cancelled:
                return time
            heappop(heap)
            self.cancelled -= 1
        return FOREVER

    def pop_due(self, now: int) -> Event | None:
        """Take the first live event out if its time has come."""
        if self.next_time() > now:
            return None
        event = heappop(self.heap)[2]
        event.queue = None
        return event

    def note_cancelled(self) -> None:
        """Count a cancelled entry; drop them all when they are more than half."""
        self.cancelled += 1
        if self.cancelled * 2 > len(self.heap) and self.cancelled > 8:
            self.heap[:] = [entry for entry in self.heap if not entry[2].cancelled]
            heapify(self.heap)
            self.cancelled = 0

    def __len__(self) -> int:
        """Count live events."""
        return len(self.heap) - self.cancelled


class Cpu:
    """One processor of one machine.

    :ivar now: local time in ns; never goes back.
    :ivar current: the task whose stack it runs; interrupts and softirqs borrow it.
    :ivar picked_at: local time at which ``current`` was put on; ``slice_start`` is where its slice began.
    :ivar resting: the idle task is current and has nothing to do.
    :ivar irq_disabled: depth of local_irq_save().
    :ivar heap: the heap of ``events``, for the hub, which looks at it at each turn.
    :ivar horizon: the local time at which spend() must look around.
    :ivar rank: (machine index, cpu id) as one number: breaks ties.
    """

    __slots__ = (
        "__weakref__",
        "current",
        "events",
        "heap",
        "horizon",
        "id",
        "idle",
        "irq_disabled",
        "kernel",
        "last",
        "machine",
        "need_resched",
        "now",
        "percpu",
        "picked_at",
        "preempt_count",
        "queue",
        "rank",
        "resting",
        "slice_start",
        "softirq_pending",
    )

    current: Task
    idle: Task
    last: Task

    def __init__(self, kernel: Kernel, cpu_id: int, now: int) -> None:
        self.kernel = kernel
        self.id = cpu_id
        self.machine = kernel.index
        self.rank = (kernel.index << 8) | cpu_id
        self.now = now
        self.preempt_count = 0
        self.irq_disabled = 0
        self.softirq_pending = 0
        self.horizon = 0
        self.events = EventQueue()
        self.heap = self.events.heap
        self.queue: deque[Task] = deque()
        self.resting = True
        self.need_resched = False
        self.slice_start = now
        self.picked_at = now
        self.percpu: dict[str, Any] = {}

    def post(self, time: int, fn: Callable[[Any], object], arg: Any = None) -> Event:
        """Let ``fn(arg)`` run here as a hard interrupt, at ``time`` or as soon after it as interrupts are enabled."""
        event = self.events.push(time, fn, arg)
        self.horizon = min(self.horizon, time)
        self.kernel.world.note_event(self, time)
        return event

    def __repr__(self) -> str:
        """Name machine and CPU, with the state that a bug report needs."""
        state = f"preempt_count={self.preempt_count:#010x} irqs_off={self.irq_disabled}"
        return f"<cpu {self.kernel.name}/{self.id} now={self.now} {state}>"
