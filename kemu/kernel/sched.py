"""Tasks of one machine: spending time, blocking, waking (2.6.23 kernel/sched.c, kernel/timer.c: schedule_timeout()).

Interface: class :class:`Sched`; every machine has one, ``kernel.sched``. ``sched.cpu`` and ``sched.current`` are the running CPU and task.

Rules of this file
    * Time passes in :meth:`Sched.spend` only. Interrupts, softirqs and other CPUs run inside it: never call it with half-updated
      structures.
    * No kernel preemption. A task goes on until it blocks, calls cond_resched() or yield_(), or returns to user code. There it gives
      way if its slice of 10 ms is over or a wake-up has set ``need_resched``; it goes to the end of the queue. A woken task goes to the
      end, one with ``rt`` to the front.
    * A wake-up queues a task on the CPU where it ran last, or on a resting one if that is busy and the task is not bound.
    * Which task of the queue goes next, and whether a preemption point preempts, is the policy's (policy.py).
    * Blocking in atomic context, or with interrupts disabled, is an oops.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.cpu import HARDIRQ_MASK, INTERRUPT_MASK, SOFTIRQ_MASK
from kemu.kernel.errno import ERESTARTSYS
from kemu.kernel.policy import FIFO
from kemu.kernel.switch import Stack
from kemu.kernel.task import (
    PF_EXITING,
    TASK_DEAD,
    TASK_INTERRUPTIBLE,
    TASK_RUNNING,
    TASK_UNINTERRUPTIBLE,
    TIF_SIGPENDING,
    Task,
    Why,
    signal_pending,
)
from kemu.kernel.timer import HZ, MAX_SCHEDULE_TIMEOUT, NSEC_PER_JIFFY, Timer, msecs_to_jiffies
from kemu.kernel.wait import Waiter, WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.kernel.cpu import Cpu
    from kemu.kernel.policy import Policy
    from kemu.kernel.switch import Vehicle
    from kemu.kernel.world import World

TIMESLICE_NS = 10_000_000

__all__ = ["HZ", "NSEC_PER_JIFFY", "TIMESLICE_NS", "Sched"]


def _idle_main(ref: weakref.ref[Cpu], vehicle: Vehicle, cell: list[Stack], hub: Stack) -> None:
    """Serve interrupts and softirqs whenever the hub comes here; the suspended frame holds no strong reference to the machine."""
    me = cell.pop()
    while True:
        cpu = ref()
        if cpu is None:
            return
        kernel = cpu.kernel
        kernel.irq.deliver(cpu)
        if cpu.softirq_pending:
            kernel.softirq.do_softirq()
        cpu.resting = True
        del cpu, kernel
        vehicle.switch(me, hub)


class Sched:
    """The scheduler of one machine."""

    cpu: Cpu
    current: Task

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.world: World = kernel.world
        self.tasks: dict[int, Task] = {}
        self.policy: Policy = FIFO
        self._next_pid = 1

    # ---- time

    @property
    def now(self) -> int:
        """Local time of the running CPU in ns."""
        return self.cpu.now

    @property
    def jiffies(self) -> int:
        """Local time of the running CPU in ticks of 4 ms."""
        return self.cpu.now // NSEC_PER_JIFFY

    def spend(self, ns: int) -> None:
        """Let ``ns`` of CPU time pass. Interrupts, softirqs and other CPUs may run here."""
        cpu = self.cpu
        cpu.now = now = cpu.now + ns
        if now >= cpu.horizon:
            self._look_around(cpu)

    def _look_around(self, cpu: Cpu) -> None:
        """Deliver what is due; if others are behind, let them run."""
        world = self.world
        if world.in_hub:
            return
        world.running = cpu
        self.kernel.irq.deliver(cpu)
        limit = world.limit_of(cpu)
        if cpu.now >= limit:
            world.enter_hub(cpu.current.stack, cpu)
            self.kernel.irq.deliver(cpu)
            return
        if not cpu.irq_disabled:
            limit = min(limit, cpu.events.next_time())
        cpu.horizon = limit

    # ---- context

    def in_irq(self) -> bool:
        """Tell whether a hard interrupt runs (include/linux/hardirq.h: in_irq())."""
        return bool(self.cpu.preempt_count & HARDIRQ_MASK)

    def in_softirq(self) -> bool:
        """Tell whether a softirq runs or bottom halves are disabled."""
        return bool(self.cpu.preempt_count & SOFTIRQ_MASK)

    def in_interrupt(self) -> bool:
        """Tell whether either is the case; true between local_bh_disable() and local_bh_enable() too."""
        return bool(self.cpu.preempt_count & INTERRUPT_MASK)

    def in_atomic(self) -> bool:
        """Tell whether sleeping is forbidden."""
        return bool(self.cpu.preempt_count)

    def irqs_disabled(self) -> bool:
        """Tell whether interrupts are disabled on this CPU."""
        return self.cpu.irq_disabled > 0

    def might_sleep(self) -> None:
        """Oops if sleeping is forbidden here, whether or not the caller would sleep this time."""
        cpu = self.cpu
        if cpu.preempt_count or cpu.irq_disabled:
            task = self.current
            raise KernelBug(
                "BUG: sleeping function called from invalid context: "
                f"in_atomic():{int(bool(cpu.preempt_count))}, irqs_disabled():{int(cpu.irq_disabled > 0)}, {task.comm}/{task.pid}",
                cpu,
            )

    def preempt_disable(self) -> None:
        """Forbid sleeping until preempt_enable()."""
        self.cpu.preempt_count += 1

    def preempt_enable(self) -> None:
        """Undo one preempt_disable()."""
        self.cpu.preempt_count -= 1

    def local_irq_save(self) -> int:
        """Disable interrupts; give what local_irq_restore() wants back."""
        cpu = self.cpu
        flags = cpu.irq_disabled
        cpu.irq_disabled = flags + 1
        return flags

    def local_irq_restore(self, flags: int) -> None:
        """Go back to ``flags``; what came meanwhile is delivered at the next spend()."""
        cpu = self.cpu
        cpu.irq_disabled = flags
        if not flags:
            time = cpu.events.next_time()
            cpu.horizon = min(cpu.horizon, time)

    # ---- tasks

    def spawn(self, comm: str, body: Callable[[], None], *, flags: int = 0, uid: int = 0, start: bool = True) -> Task:
        """Make a task that runs ``body``; with ``start=False`` it waits for wake_up_process()."""
        world = self.world
        stack = world.vehicle.spawn(lambda: self._task_main(task, body), world.hub)
        task = self.new_task(comm, self._idlest_cpu(), stack, flags, uid)
        if start:
            self._enqueue(task)
        else:
            task.state = TASK_INTERRUPTIBLE
        return task

    def new_task(self, comm: str, cpu: Cpu, stack: Stack, flags: int, uid: int) -> Task:
        """Make the task itself, with the next pid."""
        pid = self._next_pid
        self._next_pid += 1
        task = Task(self.kernel, pid, comm, cpu, stack, flags, uid, WaitQueue("exit"))
        self.tasks[pid] = task
        return task

    def new_idle(self, cpu: Cpu) -> Task:
        """Make the idle task of a CPU: its stack serves the interrupts that come while nothing else runs."""
        world = self.world
        ref, vehicle, hub, cell = weakref.ref(cpu), world.vehicle, world.hub, list[Stack]()
        stack = vehicle.spawn(lambda: _idle_main(ref, vehicle, cell, hub), hub)
        cell.append(stack)
        task = Task(self.kernel, 0, "swapper", cpu, stack, 0, 0, WaitQueue("exit"))
        task.bound = True
        return task

    def _task_main(self, task: Task, body: Callable[[], None]) -> None:
        body()
        cpu = self.cpu
        if cpu.preempt_count or cpu.irq_disabled:
            raise KernelBug(f"BUG: {task.comm}/{task.pid} exits in atomic context", cpu)
        if task.exit_code is None:
            task.exit_code = 0
        self._task_dead(task, cpu)

    def _task_dead(self, task: Task, cpu: Cpu) -> None:
        task.flags |= PF_EXITING
        task.state = TASK_DEAD
        task.on_rq = False
        task.why = None
        del self.tasks[task.pid]
        self.wake_up_all(task.exit_queue)
        self.world.judge.progress()
        cpu.current = cpu.idle
        cpu.resting = True
        self.world.forget(task)

    def died(self, cpu: Cpu, error: BaseException) -> None:
        """A task's body raised: take it off its CPU, whatever state that is in."""
        task = cpu.current
        cpu.preempt_count = 0
        cpu.irq_disabled = 0
        if task is cpu.idle:
            cpu.resting = True
            return
        task.exit_code = 11
        self.kernel.printk(f"{type(error).__name__} in {task.comm}:{task.pid}", "emerg")
        self._task_dead(task, cpu)

    def join(self, task: Task, why: Why | None = None) -> int | None:
        """Wait until a task is over; give its exit code."""
        self.wait_event(task.exit_queue, lambda: task.state == TASK_DEAD, why)
        return task.exit_code

    def send_sigkill(self, task: Task) -> None:
        """Mark a task as killed and wake it from interruptible sleep."""
        task.killed = True
        task.thread_flags |= TIF_SIGPENDING
        if task.state == TASK_INTERRUPTIBLE:
            self.wake_up_process(task)

    # ---- run queues

    def pick(self, cpu: Cpu) -> Task:
        """Take the task that goes next off the queue (asked by the hub)."""
        queue = cpu.queue
        if self.policy is FIFO or len(queue) == 1:
            return queue.popleft()
        index = self.policy.choose(list(queue))
        task = queue[index]
        del queue[index]
        return task

    def _idlest_cpu(self) -> Cpu:
        best = self.kernel.cpus[0]
        load = len(best.queue) + (not best.resting)
        for cpu in self.kernel.cpus[1:]:
            other = len(cpu.queue) + (not cpu.resting)
            if other < load:
                best, load = cpu, other
        return best

    def _enqueue(self, task: Task) -> None:
        cpu = task.cpu
        if not task.bound and (cpu.queue or not cpu.resting) and len(self.kernel.cpus) > 1:
            for other in self.kernel.cpus:
                if other.resting and not other.queue:
                    task.cpu = cpu = other
                    break
        world = self.world
        if cpu.resting and not cpu.queue:
            now = world.running.now if world.in_hub else self.cpu.now
            cpu.now = max(cpu.now, now)
        else:
            cpu.need_resched = True
        if task.rt:
            cpu.queue.appendleft(task)
        else:
            cpu.queue.append(task)
        task.on_rq = True
        if cpu is not world.running:
            world.note_event(cpu, cpu.now)

    def wake_up_process(self, task: Task) -> bool:
        """Make a sleeping task runnable; False if it was not asleep (kernel/sched.c: try_to_wake_up())."""
        if task.state == TASK_RUNNING or task.state == TASK_DEAD:
            return False
        task.state = TASK_RUNNING
        if not task.on_rq:
            self._enqueue(task)
        return True

    def schedule(self) -> None:
        """Give the CPU away: until woken, if ``current.state`` says so, else until it is this task's turn again."""
        cpu = self.cpu
        task = self.current
        if cpu.preempt_count or cpu.irq_disabled or self.world.in_hub:
            raise KernelBug(f"BUG: scheduling while atomic: {task.comm}/{cpu.preempt_count:#010x}/{task.pid}", cpu)
        if task.state == TASK_RUNNING:
            if not cpu.queue:
                return
            cpu.queue.append(task)
        else:
            task.on_rq = False
            task.since = cpu.now
            if not cpu.queue and len(self.kernel.cpus) > 1:
                self._pull(cpu)
        task.cpu = cpu
        cpu.current = cpu.idle
        cpu.resting = True
        self.world.enter_hub(task.stack, cpu)

    def _pull(self, cpu: Cpu) -> None:
        """Take a waiting task from a busy CPU (newly idle balancing)."""
        for other in self.kernel.cpus:
            if other is cpu or other.resting:
                continue
            for task in other.queue:
                if not task.bound:
                    other.queue.remove(task)
                    cpu.queue.append(task)
                    task.cpu = cpu
                    return

    def yield_(self) -> None:
        """Let time pass and others run (kernel/sched.c: sys_sched_yield())."""
        self.spend(costs.YIELD)
        self.schedule()

    def cond_resched(self) -> bool:
        """Give way if a wake-up or the end of the slice asks for it, and if sleeping is allowed."""
        cpu = self.cpu
        if (
            cpu.queue
            and (cpu.need_resched or cpu.now - cpu.slice_start >= TIMESLICE_NS)
            and not cpu.preempt_count
            and not cpu.irq_disabled
        ):
            self.schedule()
            return True
        return False

    def return_to_user(self) -> None:
        """What every task does before it goes back to user code: due interrupts, then rescheduling."""
        cpu = self.cpu
        if cpu.now >= cpu.horizon:
            self._look_around(cpu)
            cpu = self.cpu
        if cpu.need_resched or cpu.now - cpu.slice_start >= TIMESLICE_NS:
            cpu.need_resched = False
            cpu.slice_start = cpu.now
            self.schedule()

    def preemption_point(self, label: str) -> None:
        """A place where a preemptible kernel could switch: nothing, unless the policy asks for it."""
        policy = self.policy
        if policy is FIFO:
            return
        cpu = self.cpu
        if cpu.queue and not cpu.preempt_count and not cpu.irq_disabled and policy.preempt(label, self.current):
            self.schedule()

    # ---- sleeping

    def schedule_timeout(self, timeout: int | None, why: Why | None = None) -> int:
        """Sleep for that many jiffies or until woken; give what is left. None or MAX_SCHEDULE_TIMEOUT: until woken.

        Uninterruptible unless the caller has set ``current.state``.
        """
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
        """Sleep for at least that many milliseconds (kernel/timer.c: msleep())."""
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

    def check(self) -> None:
        """Assert that run queues and tasks agree; on failure raise :exc:`KernelBug`."""
        seen: dict[int, int] = {}
        for cpu in self.kernel.cpus:
            for task in cpu.queue:
                if task.state != TASK_RUNNING or not task.on_rq:
                    raise KernelBug(f"run queue of cpu {cpu.id} holds {task!r}", cpu)
                if task.pid in seen or task is cpu.current:
                    raise KernelBug(f"{task!r} is queued twice, or queued while it runs", cpu)
                seen[task.pid] = cpu.id
            if cpu.resting != (cpu.current is cpu.idle) and not (cpu.current is cpu.idle and not cpu.resting):
                raise KernelBug(f"cpu {cpu.id} rests, but {cpu.current!r} is current", cpu)
