"""How much may be on its way out at once (2.6.23 mm/page-writeback.c: get_dirty_limits(), throttle_vm_writeout()).

Interface
    * :class:`VmWriteout`: ``get_dirty_limits()``, ``dirty_threshold()``, ``throttle_vm_writeout(gfp)``.

Rules of this file
    * The limit is dirty_ratio (10 %) of free, active and inactive pages below highmem, and a tenth more for reclaim. Half of what
      is not mapped is the most that may be dirty, so the ratio falls as processes use more memory; it does not fall below 5 %.
    * The test comes first, then a slice of HZ/10 (2.6.24 and -mm1; 2.6.23 sleeps first).
    * A reclaimer that may not start file system I/O waits one slice at most: it may hold what the I/O needs. Everybody else,
      kswapd too, stays until enough writes end: while a server is away nobody finds out that memory is unreclaimable, and nobody is
      killed.
    * Who dirties pages is slowed down in dirty_balance.py.
    * Left out: per-device limits (2.6.24; -mm1 had them on trial).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.kernel.sysctl import minmax_conv
from kemu.kernel.task import PF_LESS_THROTTLE
from kemu.kernel.timer import HZ
from kemu.mm.backing_dev import WRITE, Congestion
from kemu.mm.gfp import _GFP_FS, _GFP_IO, gfp_t
from kemu.mm.page import Page, PG_writeback

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.kernel.task import Why
    from kemu.mm.page_alloc import PageAllocator

MAY_ENTER: Final = _GFP_FS | _GFP_IO


class VmWriteout:
    """The brake on reclaim's writes.

    :ivar sleepers: tasks that sleep in throttle_vm_writeout() now, by pid.
    """

    def __init__(self, kernel: Kernel, page_alloc: PageAllocator, congestion: Congestion) -> None:
        self.sched = kernel.sched
        self.page_alloc = page_alloc
        self.vmstat = page_alloc.vmstat
        self.congestion = congestion
        self.dirty_ratio = 10
        self.dirty_background_ratio = 5
        self.sleepers: dict[int, None] = {}
        kernel.judge.explainers["throttle"] = self._explain
        percent = minmax_conv(0, 100)
        kernel.sysctl.register("vm.dirty_ratio", lambda: self.dirty_ratio, self._set_dirty_ratio, conv=percent)
        kernel.sysctl.register(
            "vm.dirty_background_ratio", lambda: self.dirty_background_ratio, self._set_background_ratio, conv=percent
        )

    def _set_dirty_ratio(self, percent: int) -> None:
        self.dirty_ratio = percent

    def _set_background_ratio(self, percent: int) -> None:
        self.dirty_background_ratio = percent

    def dirtyable_memory(self) -> int:
        """Return how many pages could be dirty at all: free or on a list, and not in highmem (determine_dirtyable_memory())."""
        vmstat = self.vmstat
        pages = self.page_alloc.nr_free_pages() + vmstat.nr_active + vmstat.nr_inactive
        for zone in self.page_alloc.zones:
            if zone.name == "HIGHMEM":
                pages -= zone.free_pages + len(zone.active or ()) + len(zone.inactive or ())
        return max(pages, 0) + 1

    def get_dirty_limits(self) -> tuple[int, int]:
        """Return how many pages may be dirty before flushing begins, and before who dirties more must wait (get_dirty_limits())."""
        vmstat = self.vmstat
        available = self.dirtyable_memory()
        unmapped_ratio = 100 - (vmstat.nr_file_mapped + vmstat.nr_anon_pages) * 100 // available
        dirty_ratio = max(min(self.dirty_ratio, unmapped_ratio // 2), 5)
        background_ratio = self.dirty_background_ratio
        if background_ratio >= dirty_ratio:
            background_ratio = dirty_ratio // 2
        background = background_ratio * available // 100
        dirty = dirty_ratio * available // 100
        task = self.sched.current
        if task.flags & PF_LESS_THROTTLE or task.rt:
            background += background // 4
            dirty += dirty // 4
        return background, dirty

    def dirty_threshold(self) -> int:
        """Return how many pages may be dirty or under writeback."""
        return self.get_dirty_limits()[1]

    def over_limit(self) -> bool:
        """Tell whether more than reclaim's share is under writeback."""
        threshold = self.dirty_threshold()
        return self.vmstat.nr_unstable + self.vmstat.nr_writeback > threshold + threshold // 10

    def throttle_vm_writeout(self, gfp: gfp_t) -> None:
        """Sleep while too much is on its way out (throttle_vm_writeout())."""
        while self.over_limit():
            pid = self.sched.current.pid
            self.vmstat.throttled += 1
            self.sleepers[pid] = None
            try:
                self.congestion.congestion_wait(WRITE, HZ // 10, ("throttle", self))
            finally:
                del self.sleepers[pid]
            if gfp & MAY_ENTER != MAY_ENTER:
                break

    def _explain(self, writeout: VmWriteout) -> tuple[str, Why | None]:
        """Say what the sleepers wait for: one of the pages under writeback stands for all."""
        threshold = self.dirty_threshold()
        text = f"{self.vmstat.nr_writeback} pages under writeback to become {threshold + threshold // 10} (throttle_vm_writeout)"
        page = self.some_page_under_writeback()
        return text, None if page is None else ("writeback", page)

    def some_page_under_writeback(self) -> Page | None:
        """Return one page of the LRU lists that is being written."""
        for zone in self.page_alloc.zones:
            for pages in (zone.inactive, zone.active):
                for page in pages or ():
                    if page.flags & PG_writeback:
                        return page  # type: ignore[no-any-return]  # the lists hold pages
        return None
