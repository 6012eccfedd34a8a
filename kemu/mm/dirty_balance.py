"""Keeping the number of dirty pages low: who dirties waits, pdflush writes (2.6.23 mm/page-writeback.c).

Interface
    * :class:`DirtyBalance`: ``balance_dirty_pages_ratelimited(mapping)`` for who makes pages dirty, ``wakeup_pdflush(nr)`` for
      reclaim and sync(2), ``inode_became_dirty()`` for fs_writeback.py.
    * sysctl vm.dirty_writeback_centisecs, vm.dirty_expire_centisecs.

Rules of this file
    * Above the background limit pdflush writes; above the dirty limit who dirties pages writes, or naps, until enough is written.
      He looks at every 32nd page he dirties or so (``ratelimit_pages``), at every 8th while the limit is exceeded.
    * Every 5 s pdflush writes what has been dirty for 30 s (wb_kupdate()).
    * The 5 s timer runs only while an inode is dirty, and then at the times at which the kernel's would, which never stops: on a
      machine without dirty files it wakes a thread that finds nothing.
    * Left out: laptop mode, sync_supers().
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.kernel.sysctl import jiffies_to_clock_t, userhz_jiffies_conv
from kemu.kernel.timer import HZ, Timer
from kemu.mm.address_space import WritebackControl
from kemu.mm.backing_dev import WRITE, Congestion

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.address_space import AddressSpace
    from kemu.mm.page_writeback import VmWriteout
    from kemu.mm.pdflush import Pdflush

MAX_WRITEBACK_PAGES: Final = 1024


class DirtyBalance:
    """The writers of one machine's dirty pages, willing and unwilling.

    :param writeout: knows the limits.
    :ivar writeback_inodes: handed over by fs_writeback.py: writes pages of dirty inodes as the control says.
    :ivar some_inode_is_dirty: handed over by fs_writeback.py: whether the timer has a reason to run.
    """

    def __init__(self, kernel: Kernel, writeout: VmWriteout, pdflush: Pdflush, congestion: Congestion) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.writeout = writeout
        self.vmstat = writeout.vmstat
        self.pdflush = pdflush
        self.congestion = congestion
        self.writeback_inodes: Callable[[WritebackControl], None] | None = None
        self.some_inode_is_dirty: Callable[[], bool] = lambda: False
        self.dirty_exceeded = False
        self.dirty_writeback_interval = 5 * HZ
        self.dirty_expire_interval = 30 * HZ
        pages = writeout.page_alloc.total_pages // (len(kernel.cpus) * 32)
        self.ratelimit_pages = min(max(pages, 16), 1024)
        self._dirtied = [0] * len(kernel.cpus)
        self._wb_timer = Timer("wb_timer", self._wb_timer_fn)
        self._kupdate_at = self.dirty_writeback_interval
        kernel.judge.explainers["dirty"] = self._explain
        kernel.sysctl.register(
            "vm.dirty_writeback_centisecs",
            lambda: self.dirty_writeback_interval,
            self._set_writeback_interval,
            conv=userhz_jiffies_conv,
            show=jiffies_to_clock_t,
            handler=self._writeback_interval_changed,
        )
        kernel.sysctl.register(
            "vm.dirty_expire_centisecs",
            lambda: self.dirty_expire_interval,
            self._set_expire_interval,
            conv=userhz_jiffies_conv,
            show=jiffies_to_clock_t,
        )

    def _set_writeback_interval(self, jiffies: int) -> None:
        self.dirty_writeback_interval = jiffies

    def _set_expire_interval(self, jiffies: int) -> None:
        self.dirty_expire_interval = jiffies

    def _writeback_interval_changed(self) -> None:
        """Begin the interval anew; 0 stops the timer (dirty_writeback_centisecs_handler())."""
        self._kupdate_at = self.sched.jiffies + self.dirty_writeback_interval
        self.kernel.timers.del_timer(self._wb_timer)
        self.inode_became_dirty()

    # -- who dirties pages -------------------------------------------------------------------------------------------------------

    def balance_dirty_pages_ratelimited(self, mapping: AddressSpace) -> None:
        """Count a page that the caller has made dirty; now and then see that there are not too many."""
        cpu = self.sched.cpu.id
        self._dirtied[cpu] += 1
        if self._dirtied[cpu] >= (8 if self.dirty_exceeded else self.ratelimit_pages):
            self._dirtied[cpu] = 0
            self.balance_dirty_pages(mapping)

    def balance_dirty_pages(self, mapping: AddressSpace) -> None:
        """Write or wait until the dirty pages are below the limit; wake pdflush above the background limit."""
        vmstat = self.vmstat
        chunk = self.ratelimit_pages + self.ratelimit_pages // 2
        bdi = mapping.backing_dev_info
        pages_written = 0
        while True:
            background, limit = self.writeout.get_dirty_limits()
            reclaimable = vmstat.nr_dirty + vmstat.nr_unstable
            if reclaimable + vmstat.nr_writeback <= limit:
                break
            self.dirty_exceeded = True
            if reclaimable and self.writeback_inodes is not None:
                wbc = WritebackControl(chunk, bdi=bdi, range_cyclic=True)
                self.writeback_inodes(wbc)
                background, limit = self.writeout.get_dirty_limits()
                reclaimable = vmstat.nr_dirty + vmstat.nr_unstable
                if reclaimable + vmstat.nr_writeback <= limit:
                    break
                pages_written += chunk - wbc.nr_to_write
                if pages_written >= chunk:
                    break  # we have done our duty
            self.congestion.congestion_wait(WRITE, HZ // 10, ("dirty", self))
        if reclaimable + vmstat.nr_writeback <= limit:
            self.dirty_exceeded = False
        if bdi is not None and bdi.pdflush:
            return  # somebody works on this queue already
        if reclaimable > background:
            self.pdflush.pdflush_operation(self.background_writeout)

    def _explain(self, balance: DirtyBalance) -> tuple[str, tuple[str, object] | None]:
        """Say what one who dirties pages waits for: one of the pages under writeback stands for all."""
        vmstat = self.vmstat
        text = (
            f"{vmstat.nr_dirty} dirty pages and {vmstat.nr_writeback} under writeback to become {self.writeout.dirty_threshold()}"
        )
        page = self.writeout.some_page_under_writeback()
        return f"{text} (balance_dirty_pages)", None if page is None else ("writeback", page)

    # -- pdflush -------------------------------------------------------------------------------------------------------------------

    def wakeup_pdflush(self, nr_pages: int) -> None:
        """Let pdflush write so many pages, 0 for all; if every thread is busy, nothing comes of it."""
        nr_pages = nr_pages or self.vmstat.nr_dirty + self.vmstat.nr_unstable
        self.pdflush.pdflush_operation(self.background_writeout, nr_pages)

    def background_writeout(self, min_pages: int) -> None:
        """Write until the dirty pages are below the background limit, and at least ``min_pages``; runs in pdflush."""
        wbc = WritebackControl(0, nonblocking=True, range_cyclic=True)
        while self.writeback_inodes is not None:
            background, _ = self.writeout.get_dirty_limits()
            if self.vmstat.nr_dirty + self.vmstat.nr_unstable < background and min_pages <= 0:
                break
            wbc.encountered_congestion = False
            wbc.nr_to_write = MAX_WRITEBACK_PAGES
            wbc.pages_skipped = 0
            self.writeback_inodes(wbc)
            min_pages -= MAX_WRITEBACK_PAGES - wbc.nr_to_write
            if wbc.nr_to_write > 0 or wbc.pages_skipped > 0:
                # less than we wanted
                self.congestion.congestion_wait(WRITE, HZ // 10)
                if not wbc.encountered_congestion:
                    break

    # -- old data ------------------------------------------------------------------------------------------------------------------

    def inode_became_dirty(self) -> None:
        """See that the timer runs: at the next of the times that are an interval apart."""
        interval = self.dirty_writeback_interval
        if not interval or self._wb_timer.pending or not self.some_inode_is_dirty():
            return
        now = self.sched.jiffies
        if self._kupdate_at <= now:
            self._kupdate_at += -(-(now + 1 - self._kupdate_at) // interval) * interval
        self.kernel.timers.mod_timer(self._wb_timer, self._kupdate_at)

    def _wb_timer_fn(self, _: object) -> None:
        """Hand the periodic flush to a thread; if all are busy, try again in a second."""
        if self.pdflush.pdflush_operation(self._wb_kupdate) < 0:
            self.kernel.timers.mod_timer(self._wb_timer, self.sched.jiffies + HZ)

    def _wb_kupdate(self, _: int) -> None:
        """Write what has been dirty for long (wb_kupdate()); runs in pdflush."""
        assert self.writeback_inodes is not None
        start = self.sched.jiffies
        wbc = WritebackControl(
            0, nonblocking=True, for_kupdate=True, range_cyclic=True, older_than_this=start - self.dirty_expire_interval
        )
        self._kupdate_at = start + self.dirty_writeback_interval
        left = self.vmstat.nr_dirty + self.vmstat.nr_unstable + 1
        while left > 0:
            wbc.encountered_congestion = False
            wbc.nr_to_write = MAX_WRITEBACK_PAGES
            self.writeback_inodes(wbc)
            if wbc.nr_to_write > 0:
                if not wbc.encountered_congestion:
                    break  # all old data is written
                self.congestion.congestion_wait(WRITE, HZ // 10)
            left -= MAX_WRITEBACK_PAGES - wbc.nr_to_write
        self._kupdate_at = max(self._kupdate_at, self.sched.jiffies + HZ)
        self.inode_became_dirty()
