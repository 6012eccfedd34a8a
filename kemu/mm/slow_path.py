"""``__alloc_pages``: what happens to a request that the first zone does not serve at once (2.6.23 mm/page_alloc.c).

Interface
    * :class:`SlowPath`, the middle of the page allocator: ``_alloc_pages``, ``get_page_from_freelist``.
    * :class:`Reclaimer`: what reclaim must offer; handed over at boot as ``page_alloc.reclaim``. :class:`ReclaimState`.

How a request goes (the numbers stand at the code)
    1. Try at pages_low. This is the fast path.
    2. A request for one node only stops here.
    3. Wake kswapd.
    4. Try at pages_min, less the request's discounts.
    5. rebalance: who may ignore the marks tries without them, on all nodes (09), and gets a page or NULL: no entitled request ever
       reclaims.
    6. Who cannot wait gets NULL.
    7. Reclaim, as PF_MEMALLOC.
    8. Progress: try again. None: try at pages_high, kill a process, start at 1.
    9. Up to order 3 wait for congestion to pass and go to 5; larger blocks only with __GFP_REPEAT.
    10. NULL, with a warning.

The attempts, and what each may do
    1   pages_low; inside the cpuset             ALLOC_WMARK_LOW, ALLOC_CPUSET, and __GFP_HARDWALL whatever was asked
    4   pages_min less discounts                 as gfp_to_alloc_flags() says, less ALLOC_NO_WATERMARKS; again after progress in 8
    5   no mark, no cpuset, with 09 no policy    ALLOC_NO_WATERMARKS alone
    8   pages_high, before a kill                ALLOC_WMARK_HIGH, ALLOC_CPUSET, __GFP_HARDWALL

Rules of this file
    * ALLOC_* flags have patch 01's numbers whether it is on or off.
    * Time passes on the slow path of requests that can wait, nowhere else: an atomic request finds the machine as it left it.
    * Without a reclaimer there is no step 7 to 9: NULL.
    * Left out: PF_EXITING's discount of later kernels, zone_reclaim, the filter of custom zonelists by zone (it has an effect only
      with ZONE_MOVABLE), cpuset_memory_pressure_bump().
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from kemu.kernel.costs import ALLOC_SLOWPATH
from kemu.kernel.task import PF_MEMALLOC
from kemu.kernel.timer import HZ
from kemu.mm.alloc_flags import AllocFlags
from kemu.mm.gfp import (
    _GFP_FS,
    _GFP_HARDWALL,
    _GFP_NOFAIL,
    _GFP_NOMEMALLOC,
    _GFP_NORETRY,
    _GFP_NOWARN,
    _GFP_REPEAT,
    _GFP_THISNODE,
    _GFP_WAIT,
    ALLOC_CPUSET,
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
from kemu.mm.mmzone import Node, Zone
from kemu.mm.page import Page
from kemu.mm.page_lists import PageLists

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel

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


class SlowPath(AllocFlags, PageLists):
    """The ten steps.

    :param nodes: all nodes; their zones are all memory.
    :ivar reclaim: the collaborator above, handed over at boot.
    """

    def __init__(self, kernel: Kernel, nodes: list[Node]) -> None:
        AllocFlags.__init__(self, kernel)
        PageLists.__init__(self, kernel, [zone for node in nodes for zone in node.zones])
        self.nodes = nodes
        self.numa = len(nodes) > 1  # with one node no zonelist is ever cut short
        self.reclaim: Reclaimer | None = None

    def numa_node_id(self) -> int:
        """Return the node of the running CPU."""
        return 0

    def _zones_to_try(self, zonelist: list[Zone], _gfp: gfp_t, _alloc_flags: alloc_flags_t) -> list[Zone]:
        """Return what cpuset and __GFP_THISNODE leave of a zonelist: of one node's all (numa.py has more to say)."""
        return zonelist

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
        if self.numa:
            zonelist = self._zones_to_try(zonelist, gfp, alloc_flags)
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
            if self.patched.system_wide_no_watermark:  # [p09]
                home = self.nodes[self.numa_node_id()].zonelists[gfp & GFP_ZONEMASK]
                if self.fixed.b09 and gfp & _GFP_THISNODE:  # [b09]
                    home = zonelist  # it names the node that was asked for
                zonelist = home  # of no policy, from here on
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
