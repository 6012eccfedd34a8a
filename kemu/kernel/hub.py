"""The hub: which CPU goes next, and how far it may run.

:class:`Hub` is the half of :class:`kemu.kernel.world.World` that chooses. It has a stack of its own, which alone starts stacks and
which the finished ones and the outside stack hand over to. A task's stack that leaves chooses by itself, in the hub's name.

Rules of this file
    * The CPU with the smallest next action time goes: one with work at its local time, a resting one at its next event's time. Ties
      go by (machine, cpu).
    * A CPU may run ahead of the others' next action by ``QUANTUM`` (same machine) or ``lookahead_ns`` (other machines: nothing
      reaches it sooner than a frame travels). What it may reach is its ``horizon``; posting an event elsewhere lowers the horizon
      of who runs.
    * World events run in the hub's name when they are the earliest, on whatever stack is just left. They must not block and must
      not call spend(); inside them ``world.now`` is the time.
    * A resting CPU's events run on the stack of its idle task, so that they, too, can be left half-way.
    * There are two choices per frame. What runs once per choice has min() and max() written out as comparisons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from kemu.kernel.costs import CONTEXT_SWITCH
from kemu.kernel.cpu import FOREVER, Cpu, EventQueue
from kemu.kernel.history import TASK_SWITCH, History
from kemu.kernel.judge import Judge
from kemu.kernel.switch import TaskKilled

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.kernel.switch import Stack, Vehicle

#: How far CPUs of one machine may be apart; no single charge of costs.py is above it.
QUANTUM = 10_000
#: How long a lone CPU may run before ``until`` is asked again.
POLL_NS = 10_000_000
DEFAULT_LOOKAHEAD_NS = 1_000_000


class Clock:
    """Stands where a CPU stands while the hub itself runs something: the time, and a horizon that nobody reads."""

    __slots__ = ("horizon", "machine", "now")

    def __init__(self) -> None:
        self.now = 0
        self.horizon = 0
        self.machine = -1


class Hub(ABC):
    """Chooses among the CPUs of all machines.

    :ivar clock: the time of the latest choice; never goes back.
    :ivar running: the CPU that runs, or the hub's own clock.
    :ivar in_hub: the hub itself runs something.
    :ivar outer_running: the outside stack runs and holds CPU 0 of each machine.
    :ivar idle: the last run() ended because nothing was left to do.
    :ivar turns: how many choices there were.
    """

    vehicle: Vehicle
    outer: Stack
    hub: Stack
    judge: Judge

    def __init__(self) -> None:
        self.machines: list[Kernel] = []
        self.cpus: list[Cpu] = []
        self.events = EventQueue()
        self.clock = 0
        self.lookahead_ns = DEFAULT_LOOKAHEAD_NS
        self.history = History()
        self.hub_clock = Clock()
        self.running: Cpu | Clock = self.hub_clock
        self.in_hub = False
        self.outer_running = True
        self.idle = False
        self.turns = 0
        self._stacks: list[Stack] = []
        self._until: Callable[[], bool] | None = None
        self._deadline = FOREVER
        self._recall = 0
        self._leaving = False
        self._unstarted: Stack | None = None

    @property
    def now(self) -> int:
        """Virtual time in ns, as whoever asks sees it."""
        if self.outer_running:
            return max([self.clock, *(kernel.cpus[0].now for kernel in self.machines)])
        return self.running.now

    # ---- what the outside half does

    @abstractmethod
    def failed(self, error: BaseException) -> None:
        """Take note of what a task, an interrupt or the hub's own work raised."""

    @abstractmethod
    def resume_outer(self, at: Kernel | None) -> Stack:
        """Go on with the outside stack, as init of ``at`` or as observer."""

    @abstractmethod
    def attend(self) -> Stack:
        """Look after what is not choosing: an end of run(), a failure, a verdict."""

    @abstractmethod
    def nothing_left(self) -> Stack:
        """Decide what to do when nothing will ever happen again."""

    @abstractmethod
    def finish(self) -> Stack:
        """Let run() return."""

    # ---- horizons

    def note_event(self, cpu: Cpu, time: int) -> None:
        """Something new will happen on ``cpu`` at ``time``: who runs elsewhere must not run past it."""
        running = self.running
        if running is not cpu:
            limit = time + (QUANTUM if running.machine == cpu.machine else self.lookahead_ns)
            if limit < running.horizon:
                running.horizon = limit
        if self.outer_running:
            self.lower_held(time + QUANTUM)

    def lower_held(self, time: int) -> None:
        """Lower the horizons of all CPUs that the outside stack holds: it may call into any machine next."""
        for kernel in self.machines:
            cpu = kernel.cpus[0]
            cpu.horizon = min(cpu.horizon, time)

    def limit_of(self, cpu: Cpu) -> int:
        """Give the local time up to which ``cpu`` may run before somebody else must."""
        limit = self._recall
        if self.events.first < limit:
            limit = self.events.first
        machine = cpu.machine
        for other in self.cpus:
            if other is cpu:
                continue
            time = other.now
            if not other.queue and (other.resting or (self.outer_running and other.current is other.kernel.init)):
                event_time = other.events.first
                if event_time > time:
                    time = event_time
            time += QUANTUM if other.machine == machine else self.lookahead_ns
            if time < limit:
                limit = time
        return limit

    # ---- choosing

    def turn(self) -> Stack:
        """Choose who goes next and make everything ready for it."""
        self.turns += 1
        self.in_hub = True
        self.running = self.hub_clock
        stack: Stack | None = None
        try:
            while stack is None:
                stack = self._choose()
        except TaskKilled:
            raise
        except BaseException as error:  # noqa: BLE001  # a world event, `until` or a probe failed: the outside stack gets it
            self.failed(error)
            stack = self.resume_outer(None)
        self.in_hub = False
        return stack

    def next_stack(self) -> Stack:
        """Choose on the stack that leaves, which spares the way over the hub's; who was never on goes by there to be started."""
        stack = self.turn()
        if not stack.started:
            self._unstarted = stack
            return self.hub
        return stack

    def hub_turn(self) -> Stack:
        """Choose on the hub's own stack, or start whom the stack that left has chosen."""
        stack = self._unstarted
        self._unstarted = None
        if stack is None:
            stack = self.turn()
        if not stack.started:
            try:
                self._stacks.append(stack)
                self.vehicle.start(stack)
            except TaskKilled:
                raise
            except BaseException as error:  # noqa: BLE001  # no thread to be had, or Ctrl-C: the outside stack gets it
                self.failed(error)
                stack = self.resume_outer(None)
        return stack

    def _choose(self) -> Stack | None:
        """Take one step: a check of the judge, a world event, or (not None) a stack to switch to."""
        judge = self.judge
        if self._leaving or judge.stopped or self.vehicle.interrupted:
            return self.attend()
        if self._until is not None:
            self.hub_clock.now = self.clock
            if self._until():
                return self.finish()
        best: Cpu | None = None
        when = others = FOREVER
        for cpu in self.cpus:
            time = cpu.now
            if cpu.resting and not cpu.queue:
                event_time = cpu.events.first
                if event_time > time:
                    time = event_time
            if time < when:
                others = when
                when = time
                best = cpu
            elif time < others:
                others = time
        event_time = self.events.first
        time = event_time
        if when < time:
            time = when
        if time >= FOREVER:
            self.idle = True
            if self._deadline >= FOREVER:
                return self.nothing_left()
            time = self._deadline
        if time >= judge.next_check or time >= self._deadline:
            if judge.next_check <= self._deadline:
                self._advance(judge.next_check)
                judge.check(self.clock)
                return None
            self._advance(self._deadline)
            return self.finish()
        if time > self.clock:
            self.clock = time
        self.hub_clock.now = time  # of what comes next, even if that CPU is behind another
        if event_time <= when:
            event = self.events.pop()
            event.fn(event.arg)
            return None
        assert best is not None
        return self._run_cpu(best, when, others)

    def _advance(self, time: int) -> None:
        """Set the clocks."""
        if time > self.clock:
            self.clock = time
        self.hub_clock.now = time

    def _run_cpu(self, cpu: Cpu, when: int, others: int) -> Stack:
        """Let a CPU go on: with what is half-way there, with its next task, or with its events; the others act at ``others``."""
        if cpu.resting:
            cpu.resting = False
            cpu.now = when
            if cpu.queue:
                self._next_task(cpu)
            else:
                cpu.current = cpu.idle
        recall = self.judge.next_check
        if self._deadline < recall:
            recall = self._deadline
        if self._until is not None:
            poll = cpu.now + POLL_NS
            if poll < recall:
                recall = poll
        self._recall = recall
        if cpu.current.stack is self.outer:
            return self.resume_outer(cpu.kernel)
        if len(self.cpus) > len(self.machines):
            return self.switch_in(cpu, self.limit_of(cpu))
        # limit_of() where all others are of other machines, and the choice has just seen when they act
        limit = others + self.lookahead_ns
        if recall < limit:
            limit = recall
        if self.events.first < limit:
            limit = self.events.first
        return self.switch_in(cpu, limit)

    def _next_task(self, cpu: Cpu) -> None:
        """Take the next task from the run queue (2.6.23 kernel/sched.c: schedule(), context_switch())."""
        task = cpu.kernel.sched.pick(cpu)
        cpu.current = task
        cpu.need_resched = False
        cpu.slice_start = cpu.picked_at = now = cpu.now
        if task is not cpu.last:
            cpu.last = task
            self.history.add(TASK_SWITCH, now, cpu.rank, task.pid)
            cpu.now = now + CONTEXT_SWITCH

    def switch_in(self, cpu: Cpu, limit: int) -> Stack:
        """Make ``cpu`` the one that runs, up to ``limit`` or its own next event."""
        sched = cpu.kernel.sched
        sched.cpu = cpu
        sched.current = task = cpu.current
        self.running = cpu
        if not cpu.irq_disabled and cpu.events.first < limit:
            limit = cpu.events.first
        cpu.horizon = limit
        return task.stack

    def forget(self, stack: Stack) -> None:
        """Drop a finished task's stack."""
        self._stacks.remove(stack)
