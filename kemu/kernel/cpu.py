"""One processor: local time, the interrupt state, its run queue and its timed events.

Interface: :class:`Cpu`, :class:`Event`, :class:`EventQueue`, the fields of ``preempt_count``.

Rules of this file
    * ``preempt_count`` is 2.6.23's: PREEMPT 8 bits, SOFTIRQ 8 bits, HARDIRQ 12 bits (include/linux/hardirq.h). It stands on the
      CPU, not on the task: who leaves a CPU voluntarily has it at zero.
    * Events are ordered by (time, sequence). A cancelled event stays in its heap until it would be the first there, or until more
      than half of the heap is cancelled: the first entry is always a live one, and its time is kept in ``first``, which the hub
      reads twice per choice.
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
        queue.note_cancelled(self)
        return True


class EventQueue:
    """A heap of timed events.

    :ivar first: the time of the first event, or FOREVER; changed here only.
    """

    __slots__ = ("cancelled", "first", "heap", "sequence")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Event]] = []
        self.first = FOREVER
        self.cancelled = 0
        self.sequence = 0

    def push(self, time: int, fn: Callable[[Any], object], arg: Any) -> Event:
        """Add an event."""
        event = Event(time, fn, arg, self)
        self.sequence = sequence = self.sequence + 1
        heappush(self.heap, (time, sequence, event))
        if time < self.first:
            self.first = time
        return event

    def pop(self) -> Event:
        """Take the first event out; there must be one."""
        heap = self.heap
        event = heappop(heap)[2]
        event.queue = None
        if heap and not heap[0][2].cancelled:
            self.first = heap[0][0]
        else:
            self._settle()
        return event

    def _settle(self) -> None:
        """Drop cancelled entries from the top until the first one is live."""
        heap = self.heap
        while heap and heap[0][2].cancelled:
            heappop(heap)
            self.cancelled -= 1
        self.first = heap[0][0] if heap else FOREVER

    def note_cancelled(self, event: Event) -> None:
        """Count a cancelled entry; drop them all when they are more than half."""
        self.cancelled += 1
        if self.cancelled * 2 > len(self.heap) and self.cancelled > 8:
            self.heap[:] = [entry for entry in self.heap if not entry[2].cancelled]
            heapify(self.heap)
            self.cancelled = 0
            self.first = self.heap[0][0] if self.heap else FOREVER
        elif event.time == self.first:
            self._settle()

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
    :ivar horizon: the local time at which spend() must look around.
    :ivar rank: (machine index, cpu id) as one number: breaks ties.
    """

    __slots__ = (
        "__weakref__",
        "current",
        "events",
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
        self.queue: deque[Task] = deque()
        self.resting = True
        self.need_resched = False
        self.slice_start = now
        self.picked_at = now
        self.percpu: dict[str, Any] = {}

    def post(self, time: int, fn: Callable[[Any], object], arg: Any = None) -> Event:
        """Let ``fn(arg)`` run here as a hard interrupt, at ``time`` or as soon after it as interrupts are enabled."""
        event = self.events.push(time, fn, arg)
        if time < self.horizon:
            self.horizon = time
        self.kernel.world.note_event(self, time)
        return event

    def __repr__(self) -> str:
        """Name machine and CPU, with the state that a bug report needs."""
        state = f"preempt_count={self.preempt_count:#010x} irqs_off={self.irq_disabled}"
        return f"<cpu {self.kernel.name}/{self.id} now={self.now} {state}>"
