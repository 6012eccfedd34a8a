"""Machines that share a clock, and the hub that decides which CPU goes next.

Interface: ``World(seed, vehicle)``; ``run(until=, for_ns=)`` for who watches; ``post(time, fn, arg)`` for what happens outside of all
machines; ``shutdown()``; ``now``, ``history``, ``judge``, ``lookahead_ns``.

Rules of this file
    * One hub stack per world, started when the world is made. The hub alone starts stacks and chooses; a task that blocks, or whose
      CPU has run ahead far enough, switches to the hub.
    * The CPU with the smallest next action time goes: one with work at its local time, a resting one at its next event's time. Ties
      go by (machine, cpu).
    * A CPU may run ahead of the others' next action by ``QUANTUM`` (same machine) or ``lookahead_ns`` (other machines: nothing reaches
      it sooner than a frame travels). What it may reach is its ``horizon``; posting an event elsewhere lowers the horizon of who runs.
    * World events run on the hub's stack: they must not block and must not call spend(); inside them ``world.now`` is the time.
    * A resting CPU's events run on the stack of its idle task, so that they, too, can be left half-way.
    * The outside stack (of the test, of the command) is the task ``init`` of every machine at once. While it runs it holds CPU 0 of
      each. Where it blocks or is overtaken, it is that machine's task like any other; its other inits are parked and hold nothing.
      It goes on only when CPU 0 of each machine is not half-way through an atomic section.
    * In run() it is nobody: all inits are parked. ``until`` is asked before each choice of the hub, at least every ``POLL_NS``.
    * A world belongs to the thread that made it. Suspended stacks keep what their frames hold alive, so a world with sleeping tasks
      is never collected: call shutdown(), use ``with``, or tie it to a handle with ``shutdown_with(handle)``.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self

from kemu.errors import Deadlock, KemuError, KernelBug, KernelPanic
from kemu.kernel import costs
from kemu.kernel.cpu import FOREVER, Cpu, Event, EventQueue
from kemu.kernel.history import TASK_SWITCH, History
from kemu.kernel.judge import Judge
from kemu.kernel.switch import Stack, TaskKilled, Vehicle, make_vehicle
from kemu.kernel.task import TASK_RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from kemu.kernel.core import Kernel
    from kemu.kernel.task import Task

#: How far CPUs of one machine may be apart; no single charge of costs.py is above it.
QUANTUM = 10_000
#: How long a lone CPU may run before ``until`` is asked again.
POLL_NS = 10_000_000
DEFAULT_LOOKAHEAD_NS = 1_000_000


class Clock:
    """Stands where a CPU stands while the hub itself runs something: the time, and a horizon that nobody reads."""

    __slots__ = ("horizon", "now")

    def __init__(self) -> None:
        self.now = 0
        self.horizon = 0


#: Worlds that are not shut down, for whoever must leave nothing behind (tests); no kernel path reads it.
live_worlds: weakref.WeakSet[World] = weakref.WeakSet()


def _hub_main(ref: weakref.ref[World], vehicle: Vehicle, cell: list[Stack]) -> None:
    """Choose, switch, and again. The suspended frame holds no strong reference to the world."""
    hub = cell.pop()
    while True:
        world = ref()
        if world is None:
            return
        to = world.turn()
        del world
        try:
            vehicle.switch(hub, to)
        except TaskKilled:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever a task raised: turned into a verdict, or handed to the outside stack
            world = ref()
            if world is not None:
                world.failed(error)
                del world


class World:
    """The machines that share a clock."""

    def __init__(self, seed: int = 0, vehicle: str | None = None) -> None:
        self.seed = seed
        self.machines: list[Kernel] = []
        self.cpus: list[Cpu] = []
        self.events = EventQueue()
        self.clock = 0
        self.lookahead_ns = DEFAULT_LOOKAHEAD_NS
        self.history = History()
        self.judge = Judge(self)
        self.hub_clock = Clock()
        self.running: Cpu | Clock = self.hub_clock
        self.in_hub = False
        self.outer_running = True
        self.idle = False
        self.dead = False
        self.interrupted = False
        self.failure: BaseException | None = None
        self.turns = 0
        self._observing = False
        self._finishing = False
        self._until: Callable[[], bool] | None = None
        self._deadline = FOREVER
        self._recall = 0
        self._outer_error: BaseException | None = None

        self.vehicle = make_vehicle(vehicle)
        self.outer = self.vehicle.adopt()
        cell: list[Stack] = []
        ref = weakref.ref(self)
        body_vehicle = self.vehicle
        self.hub = self.vehicle.spawn(lambda: _hub_main(ref, body_vehicle, cell), self.outer)
        cell.append(self.hub)
        self._stacks: list[Stack] = [self.hub]
        self._reaper = weakref.finalize(self, self.vehicle.reap, self._stacks)
        self._reaper.atexit = False
        live_worlds.add(self)
        self.vehicle.start(self.hub)
        self.enter_hub(self.outer, None)

    # ---- the outside stack

    @property
    def now(self) -> int:
        """Virtual time in ns, as whoever asks sees it."""
        if self.outer_running:
            return max(self.clock, *(kernel.cpus[0].now for kernel in self.machines)) if self.machines else self.clock
        return self.running.now

    def run(self, until: Callable[[], bool] | None = None, for_ns: int | None = None) -> None:
        """Let time pass and watch; return when ``until()`` is true, time is over, a verdict ends the run, or nothing is left to do.

        ``idle`` tells afterwards whether nothing was left to do. With ``for_ns`` the clock then stands at the end of that time.
        """
        self._usable()
        if not self.outer_running:
            raise KemuError("world.run() is for the stack outside; a task sleeps, or waits")
        for kernel in self.machines:
            cpu = kernel.cpus[0]
            if cpu.preempt_count or cpu.irq_disabled:
                raise KernelBug(f"BUG: world.run() in atomic context on {kernel.name}", cpu)
        if self.judge.stopped:
            return
        self.idle = False
        self._until = until
        self._deadline = FOREVER if for_ns is None else self.now + for_ns
        self._observing = True
        try:
            self.enter_hub(self.outer, None)
        finally:
            self._observing = False
            self._finishing = False
            self._until = None
            self._deadline = FOREVER

    def post(self, time_ns: int, fn: Callable[[Any], object], arg: Any = None) -> Event:
        """Let ``fn(arg)`` happen at a time, outside of all machines."""
        event = self.events.push(time_ns, fn, arg)
        running = self.running
        if time_ns < running.horizon:
            running.horizon = time_ns
        if self.outer_running:
            self._lower_held(time_ns)
        return event

    def shutdown(self) -> None:
        """End all stacks of this world; a second call does nothing."""
        if self.dead:
            return
        if not self.outer_running and not self.interrupted:
            raise KemuError("a world is shut down from outside, not by one of its tasks")
        self.dead = True
        live_worlds.discard(self)
        self._reaper.detach()
        self.vehicle.reap(self._stacks)
        self._stacks.clear()

    def shutdown_with(self, handle: object) -> None:
        """Shut down when ``handle`` is collected: a facade that nothing inside of the world refers to."""
        weakref.finalize(handle, _shutdown_if_possible, self).atexit = False

    def __enter__(self) -> Self:
        """Use as a context manager: shut down at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Shut down, also after an error."""
        if not self.outer_running:
            self.interrupted = True
        self.shutdown()

    def _usable(self) -> None:
        if self.dead:
            raise KemuError("this world has been shut down")
        if self.interrupted:
            raise KemuError("this world was interrupted; it can only be shut down")
        if not self.vehicle.may_kill_here():
            raise KemuError("a world belongs to the thread that made it")

    # ---- for machines

    def add_machine(self, kernel: Kernel) -> int:
        """Enter a machine; give its index."""
        self._usable()
        self.machines.append(kernel)
        return len(self.machines) - 1

    def note_event(self, cpu: Cpu, time: int) -> None:
        """Something new will happen on ``cpu`` at ``time``: who runs elsewhere must not run past it."""
        running = self.running
        if running is not cpu:
            limit = time + self.lookahead_ns
            if running.__class__ is Cpu and running.machine == cpu.machine:
                limit = time + QUANTUM
            if limit < running.horizon:
                running.horizon = limit
        if self.outer_running:
            self._lower_held(time + QUANTUM)

    def _lower_held(self, time: int) -> None:
        """Lower the horizons of all CPUs that the outside stack holds: it may call into any machine next."""
        for kernel in self.machines:
            cpu = kernel.cpus[0]
            if time < cpu.horizon:
                cpu.horizon = time

    def enter_hub(self, stack: Stack, cpu: Cpu | None) -> None:
        """Leave ``stack`` to let others run; ``cpu`` is where it is half-way or blocked, None for an observer."""
        if stack is self.outer:
            self._usable()
            self.outer_running = False
            for kernel in self.machines:
                held = kernel.cpus[0]
                if held is not cpu and held.current is kernel.init:
                    held.current = held.idle
                    held.resting = True
        try:
            self.vehicle.switch(stack, self.hub)
        except KeyboardInterrupt:
            self.interrupted = True
            raise

    def limit_of(self, cpu: Cpu) -> int:
        """Give the local time up to which ``cpu`` may run before somebody else must."""
        limit = self._recall
        time = self.events.next_time()
        limit = min(limit, time)
        lookahead = self.lookahead_ns
        machine = cpu.machine
        outer_running = self.outer_running
        for other in self.cpus:
            if other is cpu:
                continue
            if other.queue or not (other.resting or (outer_running and other.current is other.kernel.init)):
                time = other.now
            else:
                time = other.events.next_time()
                time = max(time, other.now)
            time += QUANTUM if other.machine == machine else lookahead
            limit = min(limit, time)
        return limit

    # ---- the hub

    def turn(self) -> Stack:
        """Choose who goes next and make everything ready for it."""
        self.in_hub = True
        self.running = self.hub_clock
        try:
            while True:
                stack = self._choose()
                if stack is not None:
                    break
        except TaskKilled:
            raise
        except BaseException as error:  # noqa: BLE001  # a world event, `until` or a probe failed: the outside stack gets it
            self.failed(error)
            stack = self._give_up()
        self.turns += 1
        self.in_hub = False
        return stack

    def _choose(self) -> Stack | None:
        if self.failure is not None or self.vehicle.interrupted:
            return self._give_up()
        if self._finishing or not self.machines:
            return self._resume_outer(None)
        if self.judge.stopped:
            return self._stop()
        if self._until is not None and self._until():
            return self._finish()
        best: Cpu | None = None
        when = FOREVER
        for cpu in self.cpus:
            if cpu.queue or not cpu.resting:
                time = cpu.now
            else:
                time = cpu.events.next_time()
                time = max(time, cpu.now)
            if time < when:
                when = time
                best = cpu
        event_time = self.events.next_time()
        time = min(when, event_time)
        if time >= FOREVER:
            self.idle = True
            if self._deadline >= FOREVER:
                return self._nothing_left()
            time = self._deadline
        if self.judge.next_check <= min(time, self._deadline):
            self._advance(self.judge.next_check)
            self.judge.check(self.clock)
            return None
        if time >= self._deadline:
            self._advance(self._deadline)
            return self._finish()
        self._advance(time)
        if event_time <= when:
            event = self.events.pop_due(event_time)
            assert event is not None
            event.fn(event.arg)
            return None
        assert best is not None
        return self._run_cpu(best, when)

    def _advance(self, time: int) -> None:
        if time > self.clock:
            self.clock = time
        self.hub_clock.now = time

    def _run_cpu(self, cpu: Cpu, when: int) -> Stack:
        if cpu.resting:
            cpu.now = when
            if cpu.queue:
                self._next_task(cpu)
            else:
                cpu.current = cpu.idle
            cpu.resting = False
        recall = self.judge.next_check
        if self._deadline < recall:
            recall = self._deadline
        if self._until is not None and cpu.now + POLL_NS < recall:
            recall = cpu.now + POLL_NS
        self._recall = recall
        if cpu.current.stack is self.outer:
            return self._resume_outer(cpu.kernel)
        return self._switch_in(cpu, self.limit_of(cpu))

    def _next_task(self, cpu: Cpu) -> None:
        """Take the next task from the run queue (2.6.23 kernel/sched.c: schedule(), context_switch())."""
        task = cpu.kernel.sched.pick(cpu)
        cpu.current = task
        cpu.need_resched = False
        cpu.slice_start = cpu.now
        if task is not cpu.last:
            cpu.last = task
            self.history.add(TASK_SWITCH, cpu.now, cpu.rank, task.pid)
            cpu.now += costs.CONTEXT_SWITCH

    def _switch_in(self, cpu: Cpu, limit: int) -> Stack:
        """Make ``cpu`` the one that runs, up to ``limit`` or its own next event."""
        sched = cpu.kernel.sched
        sched.cpu = cpu
        sched.current = task = cpu.current
        self.running = cpu
        if not cpu.irq_disabled:
            limit = min(limit, cpu.events.next_time())
        cpu.horizon = limit
        stack = task.stack
        if not stack.started:
            self._stacks.append(stack)
            self.vehicle.start(stack)
        return stack

    def forget(self, task: Task) -> None:
        """Drop a finished task's stack."""
        self._stacks.remove(task.stack)

    # ---- back to the outside stack

    def _resume_outer(self, at: Kernel | None) -> Stack:
        """Go on with the outside stack, as init of ``at`` or as observer; first let other machines leave their atomic sections."""
        if self.failure is None and not self.judge.stopped:
            for kernel in self.machines:
                cpu = kernel.cpus[0]
                if kernel is not at and not cpu.resting and (cpu.preempt_count or cpu.irq_disabled):
                    busy = [each for each in kernel.cpus if not each.resting]
                    cpu = min(busy, key=_time_and_rank)
                    return self._switch_in(cpu, cpu.now + QUANTUM)
        self.outer_running = True
        for kernel in self.machines:
            self._hold(kernel)
        return self.outer

    def _hold(self, kernel: Kernel) -> None:
        """Give CPU 0 to init; a task that was half-way there goes to the front of the queue."""
        cpu = kernel.cpus[0]
        init = kernel.init
        if cpu.current is not init:
            if not cpu.resting:
                cpu.queue.appendleft(cpu.current)
            cpu.current = init
            cpu.resting = False
            if cpu.now < self.clock:
                cpu.now = self.clock
        init.state = TASK_RUNNING
        init.on_rq = True
        kernel.sched.cpu = cpu
        kernel.sched.current = init
        self.running = cpu
        limit = self.limit_of(cpu)
        cpu.horizon = limit if cpu.irq_disabled else min(limit, cpu.events.next_time())

    def _finish(self) -> Stack:
        """Let run() return."""
        self._finishing = True
        return self._resume_outer(None)

    def _nothing_left(self) -> Stack:
        if self._observing:
            return self._finish()
        return self._raise_deadlock("nothing that could wake it will ever happen")

    def _stop(self) -> Stack:
        """A verdict has ended the run."""
        if self._observing:
            return self._finish()
        for kernel in self.machines:
            if kernel.init.on_rq and kernel.cpus[0].current is kernel.init and not kernel.cpus[0].resting:
                self._recall = FOREVER
                return self._resume_outer(kernel)
        return self._raise_deadlock(f"{self.judge.outcome}: {self.judge.reason}")

    def _raise_deadlock(self, reason: str) -> Stack:
        """The outside stack is a task that blocks for ever: tell it."""
        lines = "\n".join(f"  {line}" for line in self.judge.chain_now())
        blocked = [kernel.init for kernel in self.machines if not kernel.init.on_rq]
        names = ", ".join(f"{task!r} of {task.kernel.name}" for task in blocked)
        self.outer.pending = Deadlock(f"{names} blocks, and {reason}" + (f"\n{lines}" if lines else ""))
        self._unqueue_inits()
        return self._resume_outer(None)

    def _unqueue_inits(self) -> None:
        for kernel in self.machines:
            cpu = kernel.cpus[0]
            if kernel.init in cpu.queue:
                cpu.queue.remove(kernel.init)

    def failed(self, error: BaseException) -> None:
        """Take note of what a task, an interrupt or the hub's own work raised."""
        cpu = self.running
        if cpu.__class__ is Cpu and cpu.current.stack.done:
            cpu.kernel.sched.died(cpu, error)
        if isinstance(error, KeyboardInterrupt):
            self.interrupted = True
        elif isinstance(error, KernelBug):
            self.judge.report("panic" if isinstance(error, KernelPanic) else "oops", str(error))
        self.failure = error

    def _give_up(self) -> Stack:
        """Hand the failure to the outside stack; an observer of an oops gets the verdict instead."""
        error, self.failure = self.failure, None
        if error is not None and not (self._observing and isinstance(error, KernelBug)):
            self.outer.pending = error
        self._finishing = True
        self._unqueue_inits()
        self.failure = error
        stack = self._resume_outer(None)
        self.failure = None
        return stack


def _time_and_rank(cpu: Cpu) -> tuple[int, int]:
    return cpu.now, cpu.rank


def _shutdown_if_possible(world: World) -> None:
    """Shut down for a handle that was collected; a world that is running just then stays."""
    if world.outer_running and world.vehicle.may_kill_here():
        world.shutdown()
