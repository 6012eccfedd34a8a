"""The page allocator's decisions: who gets a page, from which mark, and what happens when there is none (2.6.23 mm/page_alloc.c).

Interface
    * :class:`PageAllocator`: :meth:`~PageAllocator.alloc_pages`, ``free_pages`` and ``put_page`` (page_lists.py), ``entitled``
      (alloc_flags.py), marks and the emergency pool (min_free.py, emergency_pool.py).
    * :class:`Reclaimer`: what reclaim must offer; handed over at boot as ``page_alloc.reclaim``.

How a request goes (``__alloc_pages``; the numbers stand at the code)
    1. Try at pages_low. This is the fast path.
    2. A request for one node only stops here.
    3. Wake kswapd.
    4. Try at pages_min, less the request's discounts.
    5. rebalance: who may ignore the marks tries without them, and gets a page or NULL: no entitled request ever reclaims.
    6. Who cannot wait gets NULL.
    7. Reclaim, as PF_MEMALLOC.
    8. Progress: try again. None: try at pages_high, kill a process, start at 1.
    9. Up to order 3 wait for congestion to pass and go to 5; larger blocks only with __GFP_REPEAT.
    10. NULL, with a warning.

Rules of this file
    * ALLOC_* flags have patch 01's numbers whether it is on or off.
    * Time passes on the slow path of requests that can wait, nowhere else: an atomic request finds the machine as it left it.
    * Without a reclaimer there is no step 7 to 9: NULL.
    * Left out: memory policies and cpusets, PF_EXITING's discount of later kernels, zone_reclaim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from kemu.kernel.costs import ALLOC_SLOWPATH
from kemu.kernel.task import PF_MEMALLOC
from kemu.kernel.timer import HZ
from kemu.mm.alloc_flags import AllocFlags
from kemu.mm.emergency_pool import EmergencyPool
from kemu.mm.gfp import (
    _GFP_COLD,
    _GFP_FS,
    _GFP_HARDWALL,
    _GFP_NOFAIL,
    _GFP_NOMEMALLOC,
    _GFP_NORETRY,
    _GFP_NOWARN,
    _GFP_REPEAT,
    _GFP_WAIT,
    _GFP_ZERO,
    ALLOC_CPUSET,
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_NO_WATERMARKS,
    ALLOC_WMARK_HIGH,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MIN,
    GFP_THISNODE,
    GFP_ZONEMASK,
    PAGE_ALLOC_COSTLY_ORDER,
    alloc_flags_2623,
    alloc_flags_t,
    gfp_t,
)
from kemu.mm.min_free import MinFree
from kemu.mm.mmzone import Node, Zone, zone_layout
from kemu.mm.page import ZERO_PAGE, Page
from kemu.mm.page_lists import PageLists

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.fault_inject import FailPageAlloc

_LOW: Final = ALLOC_WMARK_LOW | ALLOC_CPUSET
_HIGH: Final = ALLOC_WMARK_HIGH | ALLOC_CPUSET


class Reclaimer(Protocol):
    """What the page allocator calls back when memory is short."""

    def try_to_free_pages(self, zones: Sequence[Zone], order: int, gfp: gfp_t) -> int:
        """Reclaim on behalf of the caller; give what was freed, 0 for no progress."""

    def wakeup_kswapd(self, zone: Zone, order: int) -> None:
        """Let kswapd balance a zone, if it is below pages_low."""

    def out_of_memory(self, zonelist: Sequence[Zone], gfp: gfp_t, order: int) -> None:
        """Choose a process and kill it."""

    def congestion_wait(self, jiffies: int) -> None:
        """Sleep until a queue is no longer congested or the time is over, as one that waits for ``("memory", page_alloc)``."""


@attrs.define(eq=False)
class ReclaimState:
    """``struct reclaim_state``: pages that slab freeing gave back while ``current`` reclaims."""

    reclaimed_slab: int = 0


class PageAllocator(AllocFlags, PageLists):
    """All memory of a machine.

    :param mem_bytes: RAM, from frame 0, without holes.
    :ivar reclaim: the collaborator above, handed over at boot.
    :ivar fail_page_alloc: injected failures, or None.
    """

    def __init__(self, kernel: Kernel, mem_bytes: int, *, arch: str = "x86_64") -> None:
        AllocFlags.__init__(self, kernel)
        self.node = Node(0, zone_layout(mem_bytes, arch, kernel.patched))
        PageLists.__init__(self, kernel, self.node.zones)
        self.zonelists = self.node.zonelists
        self.zonelist = self.zonelists[0]  # of GFP_KERNEL
        self.total_pages = sum(zone.present_pages for zone in self.zones)
        self.min_free = MinFree(kernel, self.node)
        self.emergency_pool = EmergencyPool(kernel, self.min_free, self)
        self.reclaim: Reclaimer | None = None
        self.fail_page_alloc: FailPageAlloc | None = None
        self._tp_alloc = kernel.trace.point("kmem:mm_page_alloc", ("page", "pfn", "order", "gfp_flags"))
        kernel.judge.explainers["memory"] = _explain_wait

    # The fast path

    def alloc_pages(self, gfp: gfp_t, order: int = 0) -> Page | None:
        """Return 2**order pages that belong together, or None for NULL."""
        sched = self.sched
        cpu = sched.cpu
        if gfp & _GFP_WAIT and (cpu.preempt_count or cpu.irq_disabled):
            sched.might_sleep()
        zonelist = self.zonelists[gfp & GFP_ZONEMASK]
        if self.fail_page_alloc is not None and self.fail_page_alloc.should_fail(gfp, order):
            return None
        if not order:
            # get_page_from_freelist() at pages_low, for the usual case: first zone, this CPU's list
            zone = zonelist[0]
            if zone.free_pages > zone.low_threshold:
                pcp = (zone.cold if gfp & _GFP_COLD else zone.hot)[cpu.id]
                pages = pcp.pages
                if pages or self._rmqueue_bulk(zone, pcp):
                    page = pages.pop()
                    page.count = 1
                    page.flags = 0
                    page.private = 0
                    page.word_d = 0  # page.reserve: not taken below a mark
                    if gfp & _GFP_ZERO:
                        page.contents = ZERO_PAGE
                    vmstat = self.vmstat
                    vmstat.pgalloc += 1
                    vmstat.alloc_low += 1
                    if self._tp_alloc.enabled:
                        self._tp_alloc(page.address, page.pfn, 0, gfp)
                    return page
        slow_page = self._alloc_pages(gfp, order, zonelist)
        if slow_page is not None and self._tp_alloc.enabled:
            self._tp_alloc(slow_page.address, slow_page.pfn, order, gfp)
        return slow_page

    def alloc_page(self, gfp: gfp_t) -> Page | None:
        """Return one page or None."""
        return self.alloc_pages(gfp, 0)

    # The state machine

    def _alloc_pages(self, gfp: gfp_t, order: int, zonelist: list[Zone]) -> Page | None:
        """Go the ten steps (__alloc_pages)."""
        while True:  # restart:
            page = self.get_page_from_freelist(gfp | _GFP_HARDWALL, order, zonelist, _LOW)  # 1
            if page is not None:
                return page
            if gfp & GFP_THISNODE == GFP_THISNODE:  # 2
                return self._nopage(gfp, order, _LOW)
            if self.reclaim is not None:  # 3
                for zone in zonelist:
                    self.reclaim.wakeup_kswapd(zone, order)
            alloc_flags = self.gfp_to_alloc_flags(gfp) if self.patched.gfp_to_alloc_flags else self._mark_flags(gfp)  # [p01]
            page = self.get_page_from_freelist(gfp, order, zonelist, alloc_flags & ~ALLOC_NO_WATERMARKS)  # 4
            if page is not None:
                return page
            while True:  # rebalance:
                if self.patched.gfp_to_alloc_flags:  # [p01]
                    if self.fixed.b01:  # [b01]
                        alloc_flags = self.gfp_to_alloc_flags(gfp)  # the OOM killer may have chosen this task meanwhile
                    ignores_marks = alloc_flags & ALLOC_NO_WATERMARKS != 0  # as it was at restart
                else:
                    ignores_marks = self._reserves_by_context(gfp)
                if ignores_marks:  # 5
                    return self._alloc_no_watermarks(gfp, order, zonelist, alloc_flags)
                if not gfp & _GFP_WAIT or self.reclaim is None:  # 6
                    return self._nopage(gfp, order, alloc_flags)
                if self.patched.gfp_to_alloc_flags and self.sched.current.flags & PF_MEMALLOC:  # [p01]
                    return self._nopage(gfp, order, alloc_flags)  # no recursion: the test above no longer covers __GFP_NOMEMALLOC
                if self._direct_reclaim(gfp, order, zonelist):  # 7, 8
                    page = self.get_page_from_freelist(gfp, order, zonelist, alloc_flags & ~ALLOC_NO_WATERMARKS)
                    if page is not None:
                        self.kernel.judge.progress()
                        return page
                elif gfp & _GFP_FS and not gfp & _GFP_NORETRY:
                    # has somebody else been killed for memory in the meantime?
                    page = self.get_page_from_freelist(gfp | _GFP_HARDWALL, order, zonelist, _HIGH)
                    if page is not None:
                        return page
                    if order > PAGE_ALLOC_COSTLY_ORDER:
                        return self._nopage(gfp, order, alloc_flags)
                    self.reclaim.out_of_memory(zonelist, gfp, order)
                    break  # restart
                if not self._should_retry(gfp, order):  # 9
                    return self._nopage(gfp, order, alloc_flags)
                self.reclaim.congestion_wait(HZ // 50)

    def get_page_from_freelist(self, gfp: gfp_t, order: int, zonelist: list[Zone], alloc_flags: alloc_flags_t) -> Page | None:
        """Take pages from the first zone whose mark allows it (get_page_from_freelist)."""
        classzone_idx = zonelist[0].zone_idx
        ignores_marks = alloc_flags & ALLOC_NO_WATERMARKS
        for zone in zonelist:
            if not ignores_marks and not zone.allows(order, classzone_idx, alloc_flags):
                continue
            page = self.buffered_rmqueue(zone, order, gfp)
            if page is not None:
                page.word_d = ignores_marks if self.patched.tag_reserve_pages else 0  # [p02]
                self._account(page, order, alloc_flags)
                return page
        return None

    def _account(self, page: Page, order: int, alloc_flags: alloc_flags_t) -> None:
        """Count by which mark a request was served, and remember reserve pages."""
        vmstat = self.vmstat
        if alloc_flags & ALLOC_NO_WATERMARKS:
            vmstat.alloc_no_watermarks += 1
            for pfn in range(page.pfn, page.pfn + (1 << order)):
                self.reserve_pfns[pfn] = None
        elif alloc_flags & ALLOC_WMARK_MIN:
            vmstat.alloc_min += 1
        elif alloc_flags & ALLOC_WMARK_LOW:
            vmstat.alloc_low += 1
        else:
            vmstat.alloc_high += 1

    def _alloc_no_watermarks(self, gfp: gfp_t, order: int, zonelist: list[Zone], alloc_flags: alloc_flags_t) -> Page | None:
        """Serve a request that may use the last page (step 5: a page or NULL, never reclaim)."""
        while not gfp & _GFP_NOMEMALLOC:
            page = self.get_page_from_freelist(gfp, order, zonelist, ALLOC_NO_WATERMARKS)
            if page is not None:
                return page
            if not gfp & _GFP_NOFAIL or self.reclaim is None:
                break
            if self.patched.gfp_to_alloc_flags and not gfp & _GFP_WAIT:  # [p01]
                break  # the base slept here even in atomic context
            self.reclaim.congestion_wait(HZ // 50)
        return self._nopage(gfp, order, alloc_flags)

    def _direct_reclaim(self, gfp: gfp_t, order: int, zonelist: list[Zone]) -> int:
        """Reclaim as the caller; give what try_to_free_pages() says (step 7)."""
        assert self.reclaim is not None
        sched = self.sched
        task = sched.current
        sched.cond_resched()
        sched.spend(ALLOC_SLOWPATH)
        self.vmstat.allocstall += 1
        task.flags |= PF_MEMALLOC
        task.reclaim_state = ReclaimState()
        progress = self.reclaim.try_to_free_pages(zonelist, order, gfp)
        task.reclaim_state = None
        task.flags &= ~PF_MEMALLOC  # cleared, not restored
        sched.cond_resched()
        return progress

    def _should_retry(self, gfp: gfp_t, order: int) -> bool:
        """Tell whether step 9 goes on (do_retry)."""
        if gfp & _GFP_NORETRY:
            return False
        return order <= PAGE_ALLOC_COSTLY_ORDER or gfp & (_GFP_REPEAT | _GFP_NOFAIL) != 0

    def _nopage(self, gfp: gfp_t, order: int, alloc_flags: alloc_flags_t) -> Page | None:
        """Say that there is no page, and return NULL (step 10)."""
        self.vmstat.alloc_failed += 1
        if gfp & _GFP_NOWARN:
            return None
        task = self.sched.current
        text = f"{task.comm}: page allocation failure. order:{order}, mode:0x{gfp:x}"
        if self.patched.emergency_pool:  # [p08]
            shown = alloc_flags if self.patched.gfp_to_alloc_flags else alloc_flags_2623(alloc_flags)  # [p01]
            text += f", alloc_flags:0x{shown:x}, pflags:0x{task.flags:x}"
        self.kernel.printk.ratelimited("page_alloc", text)
        return None

    # Marks and the emergency pool

    @property
    def min_free_kbytes(self) -> int:
        """vm.min_free_kbytes."""
        return self.min_free.min_free_kbytes

    @property
    def var_free_kbytes(self) -> int:
        """Size of the emergency pool (patch 08), in kB."""
        return self.min_free.var_free_kbytes

    @property
    def totalreserve_pages(self) -> int:
        """Pages that overcommit must not promise."""
        return self.min_free.totalreserve_pages

    def setup_per_zone_pages_min(self) -> None:
        """Recompute all marks."""
        self.min_free.setup_per_zone_pages_min()

    def adjust_memalloc_reserve(self, pages: int) -> int:
        """Make the emergency pool larger or smaller by ``pages``; 0 or -ENOMEM (patch 08)."""
        return self.emergency_pool.adjust_memalloc_reserve(pages)

    def nr_free_buffer_pages(self) -> int:
        """Return what is usable of the zones that GFP_USER may have (nr_free_zone_pages)."""
        return self.min_free.nr_free_buffer_pages()

    # For the judge

    def at_the_floor(self, order: int = 0) -> str | None:
        """Say so when an ordinary atomic request for 2**order pages would get nothing from any zone, else None."""
        classzone_idx = self.zonelist[0].zone_idx
        for zone in self.zonelist:
            if zone.zone_watermark_ok(order, zone.pages_min, classzone_idx, ALLOC_HIGH | ALLOC_HARDER):
                return None
        floor = sum(zone.atomic_floor(classzone_idx) for zone in self.zonelist)
        asked = f" and {1 << order} in a row" if order else ""
        return f"free memory is at the floor: {self.nr_free_pages()} pages, GFP_ATOMIC needs more than {floor}{asked}"


def _explain_wait(page_alloc: PageAllocator) -> tuple[str, None]:
    """Say why a task that waits for memory gets none. Entitled requests never wait."""
    zonelist = page_alloc.zonelist
    minimum = sum(zone.pages_min for zone in zonelist)
    emergency = sum(zone.pages_emerg for zone in zonelist)
    return f"no page: free {page_alloc.nr_free_pages()}, min {minimum}, emergency {emergency}, entitled: no", None
