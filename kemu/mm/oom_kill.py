"""The OOM killer: which process goes when nothing else can (2.6.23 mm/oom_kill.c).

Interface
    * :class:`OomKiller`: ``out_of_memory(zonelist, gfp, order)``, ``badness(task)``, ``select_bad_process()``.

Rules of this file
    * The worst is who has much memory, has run shortly, is nice and not root. A task in swapoff is the worst of all.
    * The victim gets SIGKILL and TIF_MEMDIE, with which it may use the reserve until it is gone. While one is on its way out,
      nobody else is killed.
    * Nobody left to kill: panic.
    * Left out: cpusets and memory policies, panic_on_oom, killing a child first (there are no children).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING, Final

from kemu.errors import KernelPanic
from kemu.kernel.task import PF_EXITING, PF_SWAPOFF, TIF_MEMDIE, Task
from kemu.kernel.timer import HZ, NSEC_PER_JIFFY, NSEC_PER_SEC
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


class OomKiller:
    """``out_of_memory()`` of one machine.

    :param reclaim: calls this one.
    """

    def __init__(self, kernel: Kernel, reclaim: Reclaim) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.page_alloc = reclaim.page_alloc
        self.vmstat = reclaim.vmstat
        self._judge = kernel.judge
        reclaim.oom = self

    def out_of_memory(self, zonelist: Sequence[Zone], gfp: gfp_t, order: int) -> None:
        """Kill one process, or wait for one that is dying; then give it a tick."""
        current = self.sched.current
        self.kernel.printk.ratelimited(
            "oom",
            f"{current.comm} invoked oom-killer: gfp_mask=0x{gfp:x}, order={order}, oomkilladj={current.oomkilladj}",
        )
        victim, points, dying = self.select_bad_process()
        if not dying:
            if victim is None:
                self._panic()
            else:
                self._oom_kill_process(victim, points)
        if not current.thread_flags & TIF_MEMDIE:
            self.sched.schedule_timeout(1, ("memory", self.page_alloc))

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
                return task, WORST, False
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
        cpu_time = task.utime_ns // NSEC_PER_JIFFY >> CPU_TIME_SHIFT
        run_time = (self.sched.now - task.start_ns) // NSEC_PER_SEC >> RUN_TIME_SHIFT
        points //= isqrt(cpu_time) or 1
        points //= isqrt(isqrt(run_time)) or 1
        if task.nice > 0:
            points *= 2
        if task.uid == 0:
            points //= 4  # CAP_SYS_ADMIN
            points //= 4  # CAP_SYS_RAWIO
        if task.oomkilladj > 0:
            points = max(points, 1) << task.oomkilladj
        elif task.oomkilladj < 0:
            points >>= -task.oomkilladj
        return points

    def _oom_kill_process(self, task: Task, points: int) -> None:
        """Kill a task; one that exits anyway only gets access to the reserve."""
        if not task.flags & PF_EXITING:
            text = f"Out of memory: kill process {task.pid} ({task.comm}) score {points} or a child"
            self.kernel.printk(text, level="err")
            self.kernel.printk(f"Killed process {task.pid} ({task.comm})", level="err")
            self.vmstat.oom_kills += 1
            self._judge.report("oom_kill", f"{self.sched.current.comm} found no memory: killed {task.comm}:{task.pid}")
        task.thread_flags |= TIF_MEMDIE
        if not task.flags & PF_EXITING:
            self.sched.send_sigkill(task)

    def _panic(self) -> None:
        text = "Out of memory and no killable processes..."
        self.kernel.printk(f"Kernel panic - not syncing: {text}", level="emerg")
        self._judge.report("panic", text)
        raise KernelPanic(text)
