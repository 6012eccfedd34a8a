"""Tasks and run queues of one machine (2.6.23 kernel/sched.c, kernel/exit.c, kernel/fork.c).

The middle part of the scheduler (sched.py): making tasks and ending them, who goes next, waking, giving the CPU away.

Rules of this file
    * No kernel preemption. A task goes on until it blocks, calls cond_resched() or yield_(), or returns to user code. There it
      gives way if its slice of 10 ms is over or a wake-up has set ``need_resched``; it goes to the end of the queue. A woken task
      goes to the end, one with ``rt`` to the front.
    * A wake-up queues a task on the CPU where it ran last, or on a resting one if that is busy and the task is not bound. A CPU
      that has nothing left takes a waiting task from a busy one.
    * Which task of the queue goes next, and whether a preemption point preempts, is the policy's (policy.py).
    * Blocking in atomic context, or with interrupts disabled, is an oops.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.context import Context
from kemu.kernel.policy import FIFO
from kemu.kernel.switch import Stack
from kemu.kernel.task import PF_EXITING, TASK_DEAD, TASK_INTERRUPTIBLE, TASK_RUNNING, TIF_SIGPENDING, Task
from kemu.kernel.wait import WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.kernel.cpu import Cpu
    from kemu.kernel.policy import Policy
    from kemu.kernel.switch import Vehicle

TIMESLICE_NS = 10_000_000
_AWAKE = (TASK_RUNNING, TASK_DEAD)


def _idle_main(ref: weakref.ref[Cpu], vehicle: Vehicle, cell: list[Stack]) -> None:
    """Serve interrupts and softirqs whenever the hub comes here; the suspended frame holds no strong reference to the machine."""
    me = cell.pop()
    while True:
        cpu = ref()
        if cpu is None:
            return
        cpu.kernel.irq.deliver(cpu)
        if cpu.softirq_pending:
            cpu.kernel.softirq.do_softirq()
        cpu.resting = True
        to = cpu.kernel.world.next_stack()
        del cpu
        if to is not me:
            vehicle.switch(me, to)


class RunQueues(Context, ABC):
    """Tasks, their CPUs' queues, and the policy that chooses among them.

    :ivar tasks: all living tasks by pid, without the idle ones.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.tasks: dict[int, Task] = {}
        self.policy: Policy = FIFO
        self._next_pid = 1

    @abstractmethod
    def wake_up_all(self, queue: WaitQueue) -> int:
        """Wake every waiter; in sched.py."""

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
        ref, vehicle, cell = weakref.ref(cpu), world.vehicle, list[Stack]()
        stack = vehicle.spawn(lambda: _idle_main(ref, vehicle, cell), world.hub)
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
        task.utime_ns += cpu.now - cpu.picked_at
        del self.tasks[task.pid]
        self.wake_up_all(task.exit_queue)
        self.world.judge.progress()
        if not cpu.queue:
            self._pull(cpu)
        cpu.current = cpu.idle
        cpu.resting = True
        self.world.forget(task.stack)

    def died(self, cpu: Cpu, error: BaseException) -> None:
        """Take a task whose body raised off its CPU, whatever state that is in."""
        task = cpu.current
        cpu.preempt_count = 0
        cpu.irq_disabled = 0
        if task is cpu.idle:
            cpu.resting = True
            return
        task.exit_code = 11
        self.kernel.printk(f"{type(error).__name__} in {task.comm}:{task.pid}", "emerg")
        self._task_dead(task, cpu)

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
        if task.state in _AWAKE:
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
            if not cpu.queue:
                self._pull(cpu)
        task.cpu = cpu
        task.utime_ns += cpu.now - cpu.picked_at
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
        """Do what every task does before it goes back to user code: due interrupts, then rescheduling."""
        cpu = self.cpu
        if cpu.now >= cpu.horizon:
            self._look_around(cpu)
            cpu = self.cpu
        if cpu.need_resched or cpu.now - cpu.slice_start >= TIMESLICE_NS:
            cpu.need_resched = False
            cpu.slice_start = cpu.now
            self.schedule()

    def preemption_point(self, label: str) -> None:
        """Switch to another task if the policy asks for it at the place of that name; a preemptible kernel could."""
        policy = self.policy
        if policy is FIFO:
            return
        cpu = self.cpu
        if cpu.queue and not cpu.preempt_count and not cpu.irq_disabled and policy.preempt(label, self.current):
            self.schedule()

    def check(self) -> None:
        """Assert that run queues and tasks agree; on failure raise :exc:`KernelBug`."""
        seen: dict[int, int] = {}
        for cpu in self.kernel.cpus:
            for task in cpu.queue:
                if task.state == TASK_DEAD or not task.on_rq:
                    raise KernelBug(f"run queue of cpu {cpu.id} holds {task!r}", cpu)
                if task.pid in seen or task is cpu.current:
                    raise KernelBug(f"{task!r} is queued twice, or queued while it runs", cpu)
                seen[task.pid] = cpu.id
            if cpu.resting and cpu.current is not cpu.idle:
                raise KernelBug(f"cpu {cpu.id} rests, but {cpu.current!r} is current", cpu)
