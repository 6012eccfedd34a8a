"""Tasks and their flags (2.6.23 include/linux/sched.h).

Interface: :class:`Task`, the ``PF_*`` and ``TIF_*`` constants, task states, :func:`tsk_restore_flags` and :func:`signal_pending`.

Left out: sessions and process groups, priorities that schedule (``nice`` is data for the OOM killer), signals other than SIGKILL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.kernel.cpu import Cpu
    from kemu.kernel.switch import Stack
    from kemu.kernel.wait import WaitQueue

PF_EXITING = 0x00000004
PF_DEAD = 0x00000008
PF_SIGNALED = 0x00000400
PF_MEMALLOC = 0x00000800
PF_FLUSHER = 0x00001000
PF_NOFREEZE = 0x00008000
PF_FROZEN = 0x00010000
PF_FSTRANS = 0x00020000
PF_KSWAPD = 0x00040000
PF_SWAPOFF = 0x00080000
PF_LESS_THROTTLE = 0x00100000
PF_SWAPWRITE = 0x00800000

PF_NAMES = {value: name for name, value in list(globals().items()) if name.startswith("PF_")}

TIF_MEMDIE = 1
TIF_SIGPENDING = 2

CAP_SYS_RAWIO = 17
CAP_SYS_ADMIN = 21
CAP_FULL_SET = 0xFFFFFFFF

TASK_RUNNING = 0
TASK_INTERRUPTIBLE = 1
TASK_UNINTERRUPTIBLE = 2
TASK_DEAD = 64
STATE_LETTERS = {TASK_RUNNING: "R", TASK_INTERRUPTIBLE: "S", TASK_UNINTERRUPTIBLE: "D", TASK_DEAD: "X"}

#: Why a task waits: a kind that ``judge.explainers`` knows, and what it waits for.
Why = tuple[str, Any]


class Task:
    """``struct task_struct``: one thread of execution.

    :ivar why: None, or ``(kind, obj)``: what the task waits for, as long as it is blocked.
    :ivar since: local time at which it blocked last.
    :ivar on_rq: it is on a run queue or running, so a wake-up need not queue it.
    :ivar utime_ns: CPU time in user and kernel code, up to when it left its CPU last.
    :ivar bound: it never leaves its CPU.
    :ivar parent: whose child it is, for the OOM killer; None: nobody's.
    :ivar tgid: the thread group's number, its own pid unless somebody says otherwise.
    :ivar cap_effective: capabilities, one bit each; root has all.
    :ivar mempolicy: None for the system's default, or a Mempolicy (mm/mempolicy.py).
    :ivar cpuset: None for the top one, or a Cpuset (mm/cpuset.py); ``mems_allowed`` is its nodes, None for all.
    :ivar data: a dictionary for whoever drives the task.
    """

    __slots__ = (
        "bound",
        "cap_effective",
        "comm",
        "cpu",
        "cpuset",
        "data",
        "exit_code",
        "exit_queue",
        "flags",
        "gid",
        "kernel",
        "killed",
        "mempolicy",
        "mems_allowed",
        "mm",
        "nice",
        "on_rq",
        "oomkilladj",
        "parent",
        "pid",
        "reclaim_state",
        "rt",
        "since",
        "stack",
        "start_ns",
        "state",
        "tgid",
        "thread_flags",
        "uid",
        "utime_ns",
        "why",
    )

    def __init__(
        self, kernel: Kernel, pid: int, comm: str, cpu: Cpu, stack: Stack, flags: int, uid: int, exit_queue: WaitQueue
    ) -> None:
        self.kernel = kernel
        self.pid = pid
        self.tgid = pid
        self.parent: Task | None = None
        self.comm = comm
        self.cpu = cpu
        self.stack = stack
        self.flags = flags
        self.thread_flags = 0
        self.state = TASK_RUNNING
        self.killed = False
        self.uid = uid
        self.gid = uid
        self.cap_effective = CAP_FULL_SET if uid == 0 else 0
        self.rt = False
        self.nice = 0
        self.oomkilladj = 0
        self.mm: Any = None
        self.mempolicy: Any = None
        self.cpuset: Any = None
        self.mems_allowed: tuple[int, ...] | None = None
        self.reclaim_state: Any = None
        self.start_ns = cpu.now
        self.utime_ns = 0
        self.exit_code: int | None = None
        self.exit_queue = exit_queue
        self.why: Why | None = None
        self.since = cpu.now
        self.on_rq = False
        self.bound = False
        self.data: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Name the task as ps does, without addresses."""
        names = "|".join(name for bit, name in PF_NAMES.items() if self.flags & bit)
        return f"<{self.comm}:{self.pid} {STATE_LETTERS.get(self.state, '?')}{' ' + names if names else ''}>"


def tsk_restore_flags(task: Task, saved: int, mask: int) -> None:
    """Give back the bits of ``mask`` as they were saved, and no other bit (patch 06, include/linux/sched.h)."""
    task.flags = (task.flags & ~mask) | (saved & mask)


def signal_pending(task: Task) -> bool:
    """Tell whether a signal waits for the task (include/linux/sched.h)."""
    return bool(task.thread_flags & TIF_SIGPENDING)
