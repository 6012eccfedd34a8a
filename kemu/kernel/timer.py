"""Kernel timers and jiffies (2.6.23 kernel/timer.c, include/linux/jiffies.h).

Interface: ``Timer(name, fn, data)``; ``kernel.timers.mod_timer(timer, expires)``, ``del_timer(timer)``, ``timer.pending``;
``msecs_to_jiffies()`` and friends. ``fn(data)`` runs in TIMER_SOFTIRQ on the CPU that armed the timer.

Rules of this file
    * No periodic tick: each CPU has one interrupt posted, for its earliest timer.
    * A timer that is re-armed to a later time only moves ``expires``; it is requeued when its old time comes.
    * Timers are named, so that a machine's state can be written down.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

from kemu.kernel import costs
from kemu.kernel.cpu import FOREVER
from kemu.kernel.softirq import TIMER_SOFTIRQ

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.kernel.cpu import Cpu, Event

HZ = 250
NSEC_PER_SEC = 1_000_000_000
NSEC_PER_MSEC = 1_000_000
NSEC_PER_USEC = 1_000
NSEC_PER_JIFFY = NSEC_PER_SEC // HZ
MAX_SCHEDULE_TIMEOUT = (1 << 63) - 1


def msecs_to_jiffies(ms: int) -> int:
    """Convert, rounding up (HZ divides 1000)."""
    return -(-ms * HZ // 1000)


def jiffies_to_msecs(jiffies: int) -> int:
    """Convert; exact."""
    return jiffies * (1000 // HZ)


def ns_to_jiffies(ns: int) -> int:
    """Convert, rounding up."""
    return -(-ns // NSEC_PER_JIFFY)


class Timer:
    """``struct timer_list``.

    :ivar expires: the jiffy at which ``fn(data)`` runs.
    :ivar queued_at: the jiffy of its heap entry that counts; at most ``expires``.
    """

    __slots__ = ("base", "data", "expires", "fn", "name", "pending", "queued_at")

    def __init__(self, name: str, fn: Callable[[Any], object], data: Any = None) -> None:
        self.name = name
        self.fn = fn
        self.data = data
        self.expires = 0
        self.pending = False
        self.queued_at = FOREVER
        self.base: TimerBase | None = None

    def __repr__(self) -> str:
        """Name the timer and its time."""
        return f"<timer {self.name} {'at ' + str(self.expires) if self.pending else 'off'}>"


class TimerBase:
    """The timers of one CPU, and the one event that its interrupt is."""

    __slots__ = ("cpu", "deleted", "event", "event_at", "heap", "sequence")

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self.heap: list[tuple[int, int, Timer]] = []
        self.sequence = 0
        self.deleted = 0
        self.event: Event | None = None
        self.event_at = FOREVER


class Timers:
    """The timers of one machine."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._sched = kernel.sched
        self._bases = [TimerBase(cpu) for cpu in kernel.cpus]
        kernel.softirq.open_softirq(TIMER_SOFTIRQ, self._run_timer_softirq)

    def mod_timer(self, timer: Timer, expires: int) -> bool:
        """Arm a timer for a jiffy, or move it; tell whether it was armed (kernel/timer.c)."""
        was_pending = timer.pending
        timer.pending = True
        timer.expires = expires
        base = self._bases[self._sched.cpu.id]
        if timer.base is not None and was_pending:
            base = timer.base
        if timer.queued_at <= expires and timer.base is base:
            return was_pending  # its old entry comes first and requeues it
        self._queue(base, timer)
        return was_pending

    def del_timer(self, timer: Timer) -> bool:
        """Disarm; tell whether it was armed (kernel/timer.c).

        Its heap entry goes when its time comes, or when most of the heap is such entries.
        """
        if not timer.pending:
            return False
        timer.pending = False
        base = timer.base
        assert base is not None
        base.deleted += 1
        if base.deleted > 32 and base.deleted * 2 > len(base.heap):
            self._compact(base)
        return True

    def _compact(self, base: TimerBase) -> None:
        kept = []
        for entry in base.heap:
            timer = entry[2]
            if timer.queued_at != entry[0] or timer.base is not base:
                continue
            if timer.pending:
                kept.append(entry)
            else:
                timer.queued_at = FOREVER
        heapify(kept)
        base.heap[:] = kept
        base.deleted = 0

    def _queue(self, base: TimerBase, timer: Timer) -> None:
        timer.base = base
        timer.queued_at = at = timer.expires
        base.sequence += 1
        heappush(base.heap, (at, base.sequence, timer))
        if at < base.event_at:
            self._arm(base, at)

    def _arm(self, base: TimerBase, at: int) -> None:
        if base.event is not None:
            base.event.cancel()
        base.event_at = at
        base.event = base.cpu.post(at * NSEC_PER_JIFFY, self._timer_interrupt, base)

    def _timer_interrupt(self, base: TimerBase) -> None:
        base.event = None
        base.event_at = FOREVER
        self._kernel.softirq.raise_softirq(TIMER_SOFTIRQ)

    def _run_timer_softirq(self) -> None:
        """Run what has expired on this CPU; arm the interrupt for what is next (run_timer_softirq(), __run_timers())."""
        sched = self._sched
        base = self._bases[sched.cpu.id]
        heap = base.heap
        while heap:
            at, _, timer = heap[0]
            dead = timer.queued_at != at or timer.base is not base
            if dead or not timer.pending:
                heappop(heap)
                if not dead:
                    timer.queued_at = FOREVER
                continue
            if at > sched.jiffies:
                break
            heappop(heap)
            timer.queued_at = FOREVER
            if timer.expires > at:
                self._queue(base, timer)
                continue
            timer.pending = False
            sched.spend(costs.TIMER_CALLBACK)
            timer.fn(timer.data)
        if heap and heap[0][0] < base.event_at:
            self._arm(base, heap[0][0])
