"""The OOM killer: which process goes when nothing else can (mm/oom_kill.c of 2.6.23-mm1, which is 2.6.24's).

Interface
    * :class:`OomKiller`: ``out_of_memory(zonelist, gfp, order)``, ``badness(task)``, ``select_bad_process()``.
      vm.panic_on_oom, vm.oom_kill_allocating_task.

Rules of this file
    * The worst is who has much memory, itself and half of its children's, has run shortly, is nice and not root. A task in swapoff
      is the worst of all.
    * Who is chosen is spared if it has a child with memory of its own that may be killed: the child goes.
    * The victim gets SIGKILL and TIF_MEMDIE, with which it may use the reserve until it is gone; others that share its memory get
      SIGKILL alone. While one is on its way out, nobody else is killed.
    * A request that a memory policy confines kills whoever makes it. With a cpuset, tasks of other nodes count an eighth.
    * Nobody left to kill: panic. One that may not be killed for the sake of another with the same memory is chosen again and again:
      the kernel spins with tasklist_lock held, which is an oops here.
    * Left out: the notifier chain (s390 alone has a user), euid, mm-less zombies among the children.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING, Final

from kemu.errors import KernelBug, KernelPanic
from kemu.kernel.task import CAP_SYS_ADMIN, CAP_SYS_RAWIO, PF_EXITING, PF_SWAPOFF, TIF_MEMDIE, Task
from kemu.kernel.timer import HZ, NSEC_PER_JIFFY, NSEC_PER_SEC
from kemu.mm.cpuset import cpuset_zone_allowed_softwall
from kemu.mm.gfp import gfp_t

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.mmzone import Zone
    from kemu.mm.vmscan import Reclaim

OOM_DISABLE: Final = -17
WORST: Final = (1 << 64) - 1

_SHIFT_HZ: Final = (HZ - 1).bit_length()
CPU_TIME_SHIFT: Final = _SHIFT_HZ + 3  # jiffies to units of about ten seconds
RUN_TIME_SHIFT: Final = 10  # seconds to units of about a thousand

CONSTRAINT_NONE: Final = 0
CONSTRAINT_CPUSET: Final = 1
CONSTRAINT_MEMORY_POLICY: Final = 2


class OomKiller:
    """``out_of_memory()`` of one machine.

    :param reclaim: calls this one.
    :ivar panic_on_oom: 1: panic unless a policy or cpuset confines the request; 2: panic in any case.
    :ivar oom_kill_allocating_task: do not look for the worst, kill who asks.
    """

    def __init__(self, kernel: Kernel, reclaim: Reclaim) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.page_alloc = reclaim.page_alloc
        self.vmstat = reclaim.vmstat
        self._judge = kernel.judge
        self.panic_on_oom = 0
        self.oom_kill_allocating_task = 0
        kernel.sysctl.register("vm.panic_on_oom", lambda: self.panic_on_oom, self._set_panic_on_oom)
        kernel.sysctl.register("vm.oom_kill_allocating_task", lambda: self.oom_kill_allocating_task, self._set_allocating_task)
        reclaim.oom = self.out_of_memory

    def _set_panic_on_oom(self, value: int) -> None:
        self.panic_on_oom = value

    def _set_allocating_task(self, value: int) -> None:
        self.oom_kill_allocating_task = value

    def out_of_memory(self, zonelist: Sequence[Zone], gfp: gfp_t, order: int) -> None:
        """Kill one process, or wait for one that is dying; then give it a tick."""
        current = self.sched.current
        if self.panic_on_oom == 2:
            self._panic("out of memory. Compulsory panic_on_oom is selected.")
        constraint = self._constrained_alloc(zonelist, gfp)
        if constraint == CONSTRAINT_MEMORY_POLICY:
            self._oom_kill_process(current, 0, gfp, order, "No available memory (MPOL_BIND)")
        else:
            if constraint == CONSTRAINT_NONE and self.panic_on_oom:
                self._panic("out of memory. panic_on_oom is selected")
            if self.oom_kill_allocating_task:
                self._oom_kill_process(current, 0, gfp, order, "Out of memory (oom_kill_allocating_task)")
            else:
                self._kill_the_worst(gfp, order)
        if not current.thread_flags & TIF_MEMDIE:
            self.sched.schedule_timeout(1, ("memory", self.page_alloc))

    def _kill_the_worst(self, gfp: gfp_t, order: int) -> None:
        victim, points, dying = self.select_bad_process()
        if dying:
            return
        if victim is None:
            self._panic("Out of memory and no killable processes...")
        elif not self._oom_kill_process(victim, points, gfp, order, "Out of memory"):
            raise KernelBug(f"out_of_memory() chooses {victim.comm}:{victim.pid} for ever: who shares its memory is exempt", victim)

    def _constrained_alloc(self, zonelist: Sequence[Zone], gfp: gfp_t) -> int:
        """Tell whether a policy or a cpuset keeps the request from some node (constrained_alloc())."""
        nodes = self.page_alloc.nodes
        if len(nodes) == 1:
            return CONSTRAINT_NONE
        missing = {node.node_id: None for node in nodes if any(zone.present_pages for zone in node.zones)}
        for zone in zonelist:
            if not cpuset_zone_allowed_softwall(self.sched, zone.node, gfp):
                return CONSTRAINT_CPUSET
            missing.pop(zone.node, None)
        return CONSTRAINT_MEMORY_POLICY if missing else CONSTRAINT_NONE

    def select_bad_process(self) -> tuple[Task | None, int, bool]:
        """Return the worst task, its points, and whether a task is dying already."""
        chosen: Task | None = None
        worst = 0
        current = self.sched.current
        for task in self.sched.tasks.values():
            if task.mm is None or task.pid == 1:
                continue  # kernel threads have no memory, init is never killed
            if task.thread_flags & TIF_MEMDIE:
                return None, 0, True
            if task.flags & PF_EXITING:
                if task is not current:
                    return None, 0, True
                chosen, worst = task, WORST  # it only wants the key to the reserve
            if task.oomkilladj == OOM_DISABLE:
                continue
            points = self.badness(task)
            if chosen is None or points > worst:
                chosen, worst = task, points
        return chosen, worst, False

    def badness(self, task: Task) -> int:
        """Return how much is won by killing a task, at how little loss (badness())."""
        if task.mm is None:
            return 0
        if task.flags & PF_SWAPOFF:
            return WORST
        points: int = task.mm.total_vm
        for child in self._children(task):
            if child.mm is not None and child.mm is not task.mm:
                points += child.mm.total_vm // 2 + 1
        cpu_time = task.utime_ns // NSEC_PER_JIFFY >> CPU_TIME_SHIFT
        run_time = max(0, self.sched.now // NSEC_PER_SEC - task.start_ns // NSEC_PER_SEC) >> RUN_TIME_SHIFT
        points //= isqrt(cpu_time) or 1
        points //= isqrt(isqrt(run_time)) or 1
        if task.nice > 0:
            points *= 2
        if task.uid == 0 or task.cap_effective >> CAP_SYS_ADMIN & 1:
            points //= 4
        if task.cap_effective >> CAP_SYS_RAWIO & 1:
            points //= 4
        if not _mems_allowed_intersect(self.sched.current, task):
            points //= 8
        if task.oomkilladj > 0:
            points = max(points, 1) << task.oomkilladj & WORST
        elif task.oomkilladj < 0:
            points >>= -task.oomkilladj
        return points

    def _children(self, task: Task) -> list[Task]:
        """Return a task's children, oldest first."""
        return [child for child in self.sched.tasks.values() if child.parent is task]

    def _oom_kill_process(self, task: Task, points: int, gfp: gfp_t, order: int, message: str) -> bool:
        """Kill a task's first child that can be killed, or the task; False if nobody was (oom_kill_process())."""
        current = self.sched.current
        printk = self.kernel.printk
        printk.ratelimited(
            "oom",
            f"{current.comm} invoked oom-killer: gfp_mask=0x{gfp:x}, order={order}, oomkilladj={current.oomkilladj}",
        )
        if task.flags & PF_EXITING:
            self._send_kill(task)  # it dies anyway: no word to anybody
            return True
        printk(f"{message}: kill process {task.pid} ({task.comm}) score {points} or a child", level="err")
        for child in self._children(task):
            if child.mm is not task.mm and self._oom_kill_task(child):
                return True
        return self._oom_kill_task(task)

    def _oom_kill_task(self, task: Task) -> bool:
        """Kill a task and all that share its memory, unless one of them is exempt (oom_kill_task())."""
        mm = task.mm
        if mm is None:
            return False
        sharers = [other for other in self.sched.tasks.values() if other.mm is mm]
        if any(other.oomkilladj == OOM_DISABLE for other in sharers):
            return False
        if task.pid == 1:
            self.kernel.printk("tried to kill init!", level="warning")
            return True
        self.kernel.printk(f"Killed process {task.pid} ({task.comm})", level="err")
        self.vmstat.oom_kills += 1
        self._judge.report("oom_kill", f"{self.sched.current.comm} found no memory: killed {task.comm}:{task.pid}")
        self._send_kill(task)
        for other in sharers:
            if other is not task:  # threads die with their group; other groups must not empty the reserve too
                self.sched.send_sigkill(other)
        return True

    def _send_kill(self, task: Task) -> None:
        """Give a task the key to the reserve, and SIGKILL (``__oom_kill_task()``)."""
        task.thread_flags |= TIF_MEMDIE
        self.sched.send_sigkill(task)

    def _panic(self, text: str) -> None:
        self.kernel.printk(f"Kernel panic - not syncing: {text}", level="emerg")
        self._judge.report("panic", text)
        raise KernelPanic(text)


def _mems_allowed_intersect(one: Task, other: Task) -> bool:
    """Tell whether two tasks may have memory of a common node (cpuset_mems_allowed_intersects())."""
    if one.mems_allowed is None or other.mems_allowed is None:
        return True
    return any(node in other.mems_allowed for node in one.mems_allowed)
