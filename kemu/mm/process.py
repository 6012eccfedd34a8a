"""Processes: tasks with memory that run a program (what execve(), a user's loop and do_exit() are in a kernel).

Interface
    * :class:`Processes`: ``spawn(comm, program, uid=0)`` -> Task; ``kill(task)``; ``running``; ``freeze()``, ``thaw()``,
      ``at_rest(task)``.
    * :class:`Program`: ``step()`` returns what to do next, or None to exit:
      ("write", vpn, bytes), ("read", vpn), ("sleep", jiffies or None for ever), ("grow", pages);
      ("mmap", file, vpn, pages, pgoff), ("mmap_private", …), ("munmap", vpn, pages), ("msync", vpn, pages);
      ("file_write", file, offset, bytes), ("file_read", file, offset, count), ("fsync", file). A file is a File that is open.

Rules of this file
    * A program is data with a cursor: an object that can be written down between two steps, never a closure.
    * A step that was interrupted by a signal does not come again: the process is dead.
    * Between two steps the task is in user code: signals are looked at there, and the CPU may go to somebody else.
    * A process that the kernel cannot serve dies as there: SIGKILL (no memory), SIGBUS (its page cannot be read), SIGSEGV. One
      for which a system call fails exits with its errno: ENOMEM where brk() or mmap() is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from kemu.errors import ConfigError
from kemu.kernel import costs
from kemu.kernel.task import PF_EXITING, TASK_INTERRUPTIBLE, Task
from kemu.kernel.wait import WaitQueue
from kemu.mm.memory import VM_FAULT_OOM, VM_FAULT_SIGBUS, Memory

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel

SIGBUS: Final = 7
SIGKILL: Final = 9
SIGSEGV: Final = 11

Step = tuple[Any, ...]

ASLEEP: Final = ("sleep", None)  # until somebody wakes it
NAPPING: Final = ("sleep", "for a while")


class Program(Protocol):
    """What a process runs."""

    def step(self) -> Step | None:
        """Return the next step, None at the end."""


class Processes:
    """The user side of a machine.

    :param memory: gives each process its address space.
    """

    def __init__(self, kernel: Kernel, memory: Memory) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.memory = memory
        self._judge = kernel.judge
        self._freezing = False
        self._frozen: list[Task] = []
        self._thaw = WaitQueue("refrigerator")

    def spawn(self, comm: str, program: Program, *, uid: int = 0, asleep: bool = False) -> Task:
        """Start a process; its memory begins empty, ("grow", n) gives it pages that it may touch.

        :param asleep: it begins in the middle of ("sleep", None), as one that was resumed from a snapshot.
        """
        task = self.sched.spawn(comm, lambda: self._main(program, asleep), uid=uid)
        task.data["program"] = program
        self.memory.mm_alloc(task)
        return task

    @property
    def running(self) -> list[Task]:
        """The processes that are alive, by pid."""
        return [task for task in self.sched.tasks.values() if task.mm is not None and not task.flags & PF_EXITING]

    def kill(self, task: Task) -> None:
        """Send SIGKILL."""
        self.sched.send_sigkill(task)

    # -- the freezer (2.6.23 kernel/power/process.c)

    def freeze(self) -> None:
        """Let every process stop between two steps."""
        self._freezing = True

    def thaw(self) -> None:
        """Let them go on."""
        self._freezing = False
        self.sched.wake_up_all(self._thaw)

    def at_rest(self, task: Task) -> bool:
        """Tell whether a process stands between two steps, or sleeps until somebody wakes it."""
        return self.is_frozen(task) or (task.state == TASK_INTERRUPTIBLE and task.why == ASLEEP)

    def is_frozen(self, task: Task) -> bool:
        """Tell whether a process stands between two steps."""
        return task in self._frozen

    def _refrigerator(self, task: Task) -> None:
        """Stand still until thaw() (refrigerator())."""
        self._frozen.append(task)
        self.sched.wait_event(self._thaw, lambda: not self._freezing, ("sleep", None))
        self._frozen.remove(task)

    # -- the life of a process

    def _main(self, program: Program, asleep: bool = False) -> None:
        """Run a program to its end, or to the process's."""
        sched = self.sched
        if asleep:
            sched.schedule_timeout_interruptible(None, ASLEEP)
        memory = self.memory
        task = sched.current
        step_cost = costs.COPY_PAGE
        code = 0
        while not code:
            if self._freezing:
                self._refrigerator(task)
            if task.killed:
                code = 128 + SIGKILL
                break
            step = program.step()
            if step is None:
                break
            kind = step[0]
            if kind == "write":
                sched.spend(step_cost)
                task.utime_ns += step_cost
                fault = memory.write_page(task, step[1], step[2])
                if fault:
                    code = self._died_of(task, fault)
            elif kind == "read":
                sched.spend(step_cost)
                task.utime_ns += step_cost
                if memory.read_page(task, step[1]) is None:
                    code = self._died_of(task, memory.last_error)
            else:
                code = self._syscall(task, step)
            sched.return_to_user()
        self._exit(task, code)

    def _syscall(self, task: Task, step: Step) -> int:
        """Do what is not an access; return an exit code, 0 to go on."""
        self.sched.spend(costs.SYSCALL)
        if step[0] == "grow":
            return -self.memory.do_brk(task, step[1])
        if step[0] == "sleep":
            self.sched.schedule_timeout_interruptible(step[1], ASLEEP if step[1] is None else NAPPING)
            return 0
        return self._file_syscall(task, *step)

    def _file_syscall(self, task: Task, kind: str, *args: Any) -> int:
        """Do what has to do with files; return 0 or an errno."""
        memory = self.memory
        if kind in ("mmap", "mmap_private"):
            file, vpn, pages, pgoff = args
            return max(0, -memory.mmap(task, file, pages, pgoff, vpn, shared=kind == "mmap"))
        if kind == "munmap":
            return -memory.munmap(task, *args)
        if kind == "msync":
            return -memory.msync(task, *args)
        if kind == "file_write":
            return max(0, -memory.file_io.write(*args))
        if kind == "file_read":
            data = memory.file_io.read(*args)
            return -data if isinstance(data, int) else 0
        if kind == "fsync":
            return -memory.file_io.fsync(*args)
        known = "write, read, sleep, grow, mmap, mmap_private, munmap, msync, file_write, file_read, fsync"
        raise ConfigError(f"program of {task.comm}: step {kind!r} is not known; there are {known}")

    def _died_of(self, task: Task, fault: int) -> int:
        """Say why a process dies of a fault; return its exit code."""
        if task.killed:
            return 128 + SIGKILL
        if fault & VM_FAULT_OOM:
            self.kernel.printk(f"VM: killing process {task.comm}", level="err")
            return 128 + SIGKILL
        return 128 + (SIGBUS if fault & VM_FAULT_SIGBUS else SIGSEGV)

    def _exit(self, task: Task, code: int) -> None:
        """Leave: memory first (do_exit())."""
        task.flags |= PF_EXITING
        self.memory.exit_mmap(task)
        task.exit_code = code
        self._judge.progress()
