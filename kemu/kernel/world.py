"""Machines that share a clock, and the stack outside of them.

Interface: ``World(seed, vehicle)``; ``run(until=, for_ns=)`` for who watches; ``post(time, fn, arg)`` for what happens outside of
all machines; ``shutdown()``; ``now``, ``history``, ``judge``, ``lookahead_ns``.

Rules of this file
    * The outside stack (of the test, of the command) is the task ``init`` of every machine at once. While it runs it holds CPU 0 of
      each. Where it blocks or is overtaken, it is that machine's task like any other; its other inits are parked and hold nothing.
      It goes on only when CPU 0 of each other machine is not half-way through an atomic section. A task that is half-way there goes
      back to the front of the run queue.
    * If it blocks and nothing that could wake it will ever happen, or a verdict has ended the run, it gets :exc:`Deadlock`. An
      oops of another task reaches it as that KernelBug.
    * In run() it is nobody: all inits are parked. ``until`` is asked before each choice of the hub, at least every ``POLL_NS``. An
      oops is a verdict then (``judge.outcome``, ``failure``) and not an exception. Any other exception of a task is a defect and
      is raised.
    * A world belongs to the thread that made it. Suspended stacks keep what their frames hold alive, so a world with sleeping tasks
      is never collected: call shutdown(), use ``with``, or tie it to a handle with ``shutdown_with(handle)``.
    * After Ctrl-C a world can only be shut down.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self

from kemu.errors import Deadlock, KemuError, KernelBug, KernelPanic
from kemu.kernel.cpu import FOREVER, Cpu
from kemu.kernel.hub import DEFAULT_LOOKAHEAD_NS, POLL_NS, QUANTUM, Hub
from kemu.kernel.judge import Judge
from kemu.kernel.switch import Stack, TaskKilled, Vehicle, make_vehicle
from kemu.kernel.task import TASK_RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from kemu.kernel.core import Kernel
    from kemu.kernel.cpu import Event

__all__ = ["DEFAULT_LOOKAHEAD_NS", "POLL_NS", "QUANTUM", "World", "live_worlds"]

#: How many turns other machines get to leave their atomic sections before the outside stack goes on regardless.
SETTLE_TURNS = 10_000

#: Worlds that are not shut down, for whoever must leave nothing behind (tests); no kernel path reads it.
live_worlds: weakref.WeakSet[World] = weakref.WeakSet()


def _hub_main(ref: weakref.ref[World], vehicle: Vehicle, cell: list[Stack]) -> None:
    """Choose, switch, and again. The suspended frame holds no strong reference to the world."""
    hub = cell.pop()
    while True:
        world = ref()
        if world is None:
            return
        to = world.hub_turn()
        del world
        try:
            vehicle.switch(hub, to)
        except TaskKilled:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever a task raised: a verdict, or for the outside stack
            world = ref()
            if world is not None:
                world.failed(error)
                del world


class World(Hub):
    """The machines that share a clock.

    :ivar failure: what ended the last run() as an oops or panic, with its traceback.
    :ivar interrupted: Ctrl-C came; only shutdown() is left.
    """

    def __init__(self, seed: int = 0, vehicle: str | None = None) -> None:
        super().__init__()
        self.seed = seed
        self.judge = Judge(self)
        self.dead = False
        self.interrupted = False
        self.failure: BaseException | None = None
        self._observing = False
        self._error: BaseException | None = None
        self._settling = 0

        self.vehicle = make_vehicle(vehicle)
        self.outer = self.vehicle.adopt()
        cell: list[Stack] = []
        ref, body_vehicle = weakref.ref(self), self.vehicle
        self.hub = self.vehicle.spawn(lambda: _hub_main(ref, body_vehicle, cell), self.outer)
        cell.append(self.hub)
        self._stacks.append(self.hub)
        self._reaper = weakref.finalize(self, self.vehicle.reap, self._stacks)
        self._reaper.atexit = False
        live_worlds.add(self)
        self.vehicle.start(self.hub)
        self._leaving = True  # the hub's first turn only comes back
        self.enter_hub(self.outer, None)

    def add_machine(self, kernel: Kernel) -> int:
        """Enter a machine; give its index."""
        self._usable()
        self.machines.append(kernel)
        return len(self.machines) - 1

    # ---- for the outside stack

    def run(self, until: Callable[[], bool] | None = None, for_ns: int | None = None) -> None:
        """Let time pass and watch; return when ``until()`` is true, time is over, a verdict ends the run, or nothing is left to do.

        ``idle`` tells afterwards whether nothing was left to do. With ``for_ns`` the clock then stands at the end of that time.
        """
        if not self.outer_running and not self.interrupted:
            raise KemuError("world.run() is for the stack outside; a task sleeps, or waits")
        self._usable()
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
            self._until = None
            self._deadline = FOREVER

    def post(self, time_ns: int, fn: Callable[[Any], object], arg: Any = None) -> Event:
        """Let ``fn(arg)`` happen at a time, outside of all machines."""
        event = self.events.push(time_ns, fn, arg)
        running = self.running
        running.horizon = min(running.horizon, time_ns)
        if self.outer_running:
            self.lower_held(time_ns)
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
        self.shutdown()

    def _usable(self) -> None:
        if self.dead:
            raise KemuError("this world has been shut down")
        if self.interrupted:
            raise KemuError("this world was interrupted; it can only be shut down")
        if not self.vehicle.at_home():
            raise KemuError("a world belongs to the thread that made it")

    def enter_hub(self, stack: Stack, cpu: Cpu | None) -> None:
        """Leave ``stack`` to let others run; ``cpu`` is where it is half-way or blocked, None for an observer."""
        if stack is self.outer:
            self._usable()
            self._leave_outer(cpu)
            try:
                self.vehicle.switch(stack, self.hub)
            except KeyboardInterrupt:
                self.interrupted = True
                raise
            return
        if stack.dying:
            raise TaskKilled
        to = self.next_stack()
        if to is not stack:
            self.vehicle.switch(stack, to)

    def _leave_outer(self, cpu: Cpu | None) -> None:
        """Park the inits that are not at ``cpu``."""
        self.outer_running = False
        for kernel in self.machines:
            held = kernel.cpus[0]
            if held is not cpu and held.current is kernel.init:
                held.current = held.idle
                held.resting = True

    # ---- the hub's view of the outside stack

    def attend(self) -> Stack:
        """Look after what is not choosing: an end of run(), a failure, a verdict."""
        if self._leaving or self.vehicle.interrupted:
            return self.resume_outer(None)
        return self._stop()

    def resume_outer(self, at: Kernel | None) -> Stack:
        """Go on with the outside stack, as init of ``at`` or as observer; first let other machines leave their atomic sections."""
        if self._settling < SETTLE_TURNS and not self.vehicle.interrupted and not self.judge.wrecked:
            for kernel in self.machines:
                cpu = kernel.cpus[0]
                if kernel is at or cpu.resting or cpu.current is kernel.init:
                    continue
                if cpu.preempt_count or cpu.irq_disabled:
                    self._settling += 1
                    cpu = min((each for each in kernel.cpus if not each.resting), key=_time_and_rank)
                    return self.switch_in(cpu, cpu.now + QUANTUM)
        self._settling = 0
        self._leaving = False
        self.outer.pending, self._error = self._error, None
        self.outer_running = True
        for kernel in self.machines:
            self._hold(kernel)
        return self.outer

    def _hold(self, kernel: Kernel) -> None:
        """Give CPU 0 to init; a task that was half-way there goes to the front of the queue."""
        cpu = kernel.cpus[0]
        init = kernel.init
        if cpu.current is not init:
            if init.on_rq and init in cpu.queue:
                cpu.queue.remove(init)
            if not cpu.resting:
                cpu.current.utime_ns += cpu.now - cpu.picked_at
                cpu.queue.appendleft(cpu.current)
            cpu.current = init
            cpu.resting = False
            cpu.now = max(cpu.now, self.clock)
            cpu.slice_start = cpu.picked_at = cpu.now
        init.state = TASK_RUNNING
        init.on_rq = True
        kernel.sched.cpu = cpu
        kernel.sched.current = init
        self.running = cpu
        limit = self.limit_of(cpu)
        cpu.horizon = limit if cpu.irq_disabled else min(limit, cpu.events.first)

    def finish(self) -> Stack:
        """Let run() return."""
        self._leaving = True
        return self.resume_outer(None)

    def nothing_left(self) -> Stack:
        """Let run() return; tell a blocked outside stack that it blocks for ever."""
        if not self._observing:
            self._error = self._deadlock("nothing that could wake it will ever happen")
        return self.finish()

    def _stop(self) -> Stack:
        """End the run after a verdict; a half-way outside stack goes on, a blocked one is told."""
        if not self._observing:
            for kernel in self.machines:
                cpu = kernel.cpus[0]
                if cpu.current is kernel.init and not cpu.resting:
                    self._recall = FOREVER
                    return self.resume_outer(kernel)
            self._error = self._deadlock(f"{self.judge.outcome}: {self.judge.reason}")
        return self.finish()

    def _deadlock(self, reason: str) -> Deadlock:
        """Make the exception for an outside stack that blocks for ever."""
        lines = "".join(f"\n  {line}" for line in self.judge.chain_now())
        blocked = [kernel.init for kernel in self.machines if not kernel.init.on_rq]
        names = ", ".join(f"{task!r} of {task.kernel.name}" for task in blocked)
        return Deadlock(f"{names} blocks, and {reason}{lines}")

    def failed(self, error: BaseException) -> None:
        """Take note of what a task, an interrupt or the hub's own work raised; the outside stack is next."""
        cpu = self.running
        if isinstance(cpu, Cpu) and cpu.current.stack.done:
            cpu.kernel.sched.died(cpu, error)
        self._leaving = True
        if isinstance(error, KeyboardInterrupt):
            self.interrupted = True
        if isinstance(error, KernelBug):
            self.failure = error
            self.judge.report("panic" if isinstance(error, KernelPanic) else "oops", str(error))
            if self._observing:
                return
        self._error = self._error or error


def _time_and_rank(cpu: Cpu) -> tuple[int, int]:
    return cpu.now, cpu.rank


def _shutdown_if_possible(world: World) -> None:
    """Shut down for a handle that was collected; a world that is running just then stays."""
    if (world.outer_running or world.interrupted) and world.vehicle.may_kill_here():
        world.shutdown()
