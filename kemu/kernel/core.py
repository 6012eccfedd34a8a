"""Class Kernel: the floor of one machine, which every subsystem is handed.

``Kernel("client", world=world)`` makes the CPUs, the scheduler with ``init`` (the outside stack, pid 1), softirqs with their
ksoftirqd, timers, printk, sysctl and trace. Nothing above this file is known here.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from kemu.errors import ConfigError
from kemu.fixes import FixSet
from kemu.kernel.cpu import Cpu
from kemu.kernel.irq import Irq
from kemu.kernel.printk import Printk
from kemu.kernel.sched import Sched
from kemu.kernel.softirq import Softirq
from kemu.kernel.sysctl import Sysctl
from kemu.kernel.timer import Timers
from kemu.kernel.world import World
from kemu.patches import PatchSet
from kemu.trace import Trace

if TYPE_CHECKING:
    from kemu.kernel.history import History
    from kemu.kernel.judge import Judge
    from kemu.kernel.task import Task

MAX_CPUS = 8


class Kernel:
    """One machine's floor.

    :param world: the world to enter; None makes one of its own.
    :param vehicle: for that own world: "greenlet", "threads", or None.
    :ivar rng: randomness of this machine, from (seed of the world, name).
    """

    def __init__(
        self,
        name: str = "linux",
        world: World | None = None,
        ncpus: int = 1,
        patched: PatchSet | None = None,
        fixed: FixSet | None = None,
        vehicle: str | None = None,
        seed: int = 0,
    ) -> None:
        if not 1 <= ncpus <= MAX_CPUS:
            raise ConfigError(f"{ncpus} CPUs are not possible; choose 1 to {MAX_CPUS}")
        self.name = name
        self.patched = PatchSet.all() if patched is None else patched
        self.fixed = FixSet.all() if fixed is None else fixed
        self.world: World = World(seed, vehicle) if world is None else world
        self.judge: Judge = self.world.judge
        self.history: History = self.world.history
        self.rng = random.Random(f"{self.world.seed}/{name}")  # a simulation, not a secret
        self.index = self.world.add_machine(self)
        now = self.world.clock
        self.cpus = [Cpu(self, cpu_id, now) for cpu_id in range(ncpus)]
        self.world.cpus.extend(self.cpus)
        self.trace = Trace(self._trace_context)
        self.printk = Printk(self)
        self.irq = Irq(self)
        self.sched = Sched(self)
        for cpu in self.cpus:
            cpu.idle = cpu.current = cpu.last = self.sched.new_idle(cpu)
        self.init: Task = self._adopt_outside_stack()
        self.softirq = Softirq(self)
        self.softirq.start_ksoftirqd()
        self.timers = Timers(self)
        self.sysctl = Sysctl(self)

    def _adopt_outside_stack(self) -> Task:
        """Make the task that the outside stack is on this machine: init, pid 1, on CPU 0."""
        cpu = self.cpus[0]
        init = self.sched.new_task("init", cpu, self.world.outer, 0, 0)
        init.bound = True
        init.on_rq = True
        cpu.current = init
        cpu.resting = False
        self.sched.cpu = cpu
        self.sched.current = init
        if self.world.outer_running:
            self.world.running = cpu
        return init

    def _trace_context(self) -> tuple[int, int, str, int]:
        if self.world.in_hub:
            return self.world.running.now, 0, "<hub>", 0
        cpu = self.sched.cpu
        task = self.sched.current
        return cpu.now, cpu.id, task.comm, task.pid

    def check(self) -> None:
        """Assert the floor's invariants: run queues hold runnable tasks, each on one queue, timers' heaps are in order."""
        self.sched.check()

    def shutdown(self) -> None:
        """End the world of this machine."""
        self.world.shutdown()

    def __repr__(self) -> str:
        """Name the machine."""
        return f"<kernel {self.name}, {len(self.cpus)} CPU>"
