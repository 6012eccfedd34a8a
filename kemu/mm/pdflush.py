"""The threads that flush dirty pages (2.6.23 mm/pdflush.c).

Interface
    * :class:`Pdflush`: ``start()``, ``pdflush_operation(fn, arg)`` hands a piece of work to a thread that sleeps; -1 if none does.
    * sysctl vm.nr_pdflush_threads, read only.

Rules of this file
    * Two threads from boot on, eight at most. One more is started when there has been none idle for a second; one leaves when the
      one that has slept longest has slept for a second.
    * A thread is PF_FLUSHER|PF_SWAPWRITE: it may write to a full queue, and allocates as everybody does.
    * Work that no thread is there for is not done; who asks asks again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kemu.kernel.task import PF_FLUSHER, PF_SWAPWRITE, Task
from kemu.kernel.timer import HZ

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel

MIN_PDFLUSH_THREADS: Final = 2
MAX_PDFLUSH_THREADS: Final = 8

Work = Callable[[int], None]


class PdflushWork:
    """``struct pdflush_work``: one thread, and what it does."""

    __slots__ = ("arg0", "fn", "when_i_went_to_sleep", "who")

    def __init__(self, who: Task) -> None:
        self.who = who
        self.fn: Work | None = None
        self.arg0 = 0
        self.when_i_went_to_sleep = 0


class Pdflush:
    """The flushing threads of a machine.

    :ivar idle: threads that sleep, who slept last in front (``pdflush_list``).
    :ivar nr_threads: threads that live.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.sched = kernel.sched
        self.idle: list[PdflushWork] = []
        self.nr_threads = 0
        self.last_empty_jifs = 0
        kernel.sysctl.register("vm.nr_pdflush_threads", lambda: self.nr_threads)

    def start(self) -> None:
        """Start the first threads (pdflush_init())."""
        for _ in range(MIN_PDFLUSH_THREADS):
            self._start_one_pdflush_thread()

    def _start_one_pdflush_thread(self) -> None:
        self.sched.spawn("pdflush", self._pdflush, flags=PF_FLUSHER | PF_SWAPWRITE)

    def pdflush_operation(self, fn: Work, arg0: int = 0) -> int:
        """Let an idle thread run ``fn(arg0)``: 0, or -1 if all are busy."""
        if not self.idle:
            return -1
        work = self.idle.pop(0)
        if not self.idle:
            self.last_empty_jifs = self.sched.jiffies
        work.fn = fn
        work.arg0 = arg0
        self.sched.wake_up_process(work.who)
        return 0

    def _pdflush(self) -> None:
        """Sleep, work, and look whether there are too few threads or too many (__pdflush())."""
        me = PdflushWork(self.sched.current)
        self.nr_threads += 1
        while True:
            self.idle.insert(0, me)
            me.when_i_went_to_sleep = self.sched.jiffies
            self._sleep(me)
            assert me.fn is not None
            me.fn(me.arg0)
            if self.sched.jiffies - self.last_empty_jifs > HZ and not self.idle and self.nr_threads < MAX_PDFLUSH_THREADS:
                self._start_one_pdflush_thread()
            me.fn = None
            if not self.idle or self.nr_threads <= MIN_PDFLUSH_THREADS:
                continue
            sleepiest = self.idle[-1]
            if self.sched.jiffies - sleepiest.when_i_went_to_sleep > HZ:
                sleepiest.when_i_went_to_sleep = self.sched.jiffies  # let one go a second
                break
        self.nr_threads -= 1

    def _sleep(self, me: PdflushWork) -> None:
        """Sleep until somebody has given us work; wake-ups without any are ignored."""
        while me.fn is None:
            self.sched.schedule_timeout_interruptible(None, ("sleep", None))
