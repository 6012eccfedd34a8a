"""Reclaim: finding pages that can go (2.6.23 mm/vmscan.c; -mm1's order of test and sleep in the throttle).

Interface
    * :class:`Reclaim`: what the page allocator calls back: ``try_to_free_pages``, ``wakeup_kswapd``, ``out_of_memory``,
      ``congestion_wait``; and what scan_zone.py gives: ``shrink_zone``, ``register_shrinker``.

Rules of this file
    * Priority goes from 12 to 0. One zone is scan_zone.py's matter, one cluster of a list scan_lists.py's, one page
      shrink_list.py's.
    * Direct reclaim succeeds when 32 pages went in all, or when kswapd has not given up all zones yet. Only kswapd gives up a zone
      (kswapd.py); so as long as kswapd sleeps in the throttle, nobody is killed for memory.
    * Left out: zone_reclaim (off where nodes are less than RECLAIM_DISTANCE apart), shrink_all_memory (suspend), memory
      controllers. The swap token too: a process that has it and is in a fault just then is taken for one that uses all its
      pages, until somebody scans at priority 0. It moves when pages go, not whether they go, and the series does not touch it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from kemu.kernel.timer import HZ
from kemu.mm.cpuset import cpuset_zone_allowed_hardwall
from kemu.mm.gfp import GFP_KERNEL, gfp_t
from kemu.mm.kswapd import Kswapd
from kemu.mm.mmzone import Zone
from kemu.mm.scan_zone import ZoneScan
from kemu.mm.shrink_list import SWAP_CLUSTER_MAX, ScanControl

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.backing_dev import Congestion
    from kemu.mm.swap_state import SwapState

DEF_PRIORITY: Final = 12


class Reclaim(ZoneScan):
    """Page reclaim of one machine.

    :param swap_state: where anonymous pages go.
    :ivar oom: out_of_memory(), handed over by the OOM killer; None: nobody is killed, the allocation is tried again.
    :ivar kswapds: the daemons, one per node; :meth:`start` starts them.
    :ivar kswapd: the first node's.
    """

    def __init__(self, kernel: Kernel, swap_state: SwapState, congestion: Congestion) -> None:
        super().__init__(kernel, swap_state, congestion)
        self.kswapds = [Kswapd(kernel, self, node) for node in self.page_alloc.nodes]
        self.kswapd = self.kswapds[0]
        self.oom: Callable[[Sequence[Zone], gfp_t, int], object] | None = None
        self.wakeup_pdflush: Callable[[int], None] | None = None
        self._tp_begin = kernel.trace.point("vmscan:mm_vmscan_direct_reclaim_begin", ("order", "may_writepage", "gfp_flags"))
        self._tp_end = kernel.trace.point("vmscan:mm_vmscan_direct_reclaim_end", ("nr_reclaimed",))
        self.page_alloc.reclaim = self

    def start(self) -> None:
        """Start kswapd on every node (kswapd_init())."""
        for kswapd in self.kswapds:
            kswapd.start()

    # -- what the page allocator calls --------------------------------------------------------------------------------------------

    def try_to_free_pages(self, zones: Sequence[Zone], order: int, gfp: gfp_t) -> int:
        """Reclaim on behalf of the caller, who is PF_MEMALLOC now; 1 for progress, 0 for none (try_to_free_pages())."""
        sc = ScanControl(gfp, order, may_writepage=not self.laptop_mode, swappiness=self.swappiness)
        if self._tp_begin.enabled:
            self._tp_begin(order, int(sc.may_writepage), gfp)
        zones = [zone for zone in zones if cpuset_zone_allowed_hardwall(self.sched, zone.node, GFP_KERNEL)]
        lru_pages = sum(len(zone.active) + len(zone.inactive) for zone in zones)
        reclaim_state = self.sched.current.reclaim_state
        total_scanned = nr_reclaimed = 0
        progress = 0
        priority = DEF_PRIORITY
        while priority >= 0:
            sc.nr_scanned = 0
            nr_reclaimed += self._shrink_zones(priority, zones, sc)
            self.shrink_slab(sc.nr_scanned, gfp, lru_pages)
            if reclaim_state is not None:
                nr_reclaimed += reclaim_state.reclaimed_slab
                reclaim_state.reclaimed_slab = 0
            total_scanned += sc.nr_scanned
            if nr_reclaimed >= SWAP_CLUSTER_MAX:
                progress = 1
                break
            if total_scanned > SWAP_CLUSTER_MAX + SWAP_CLUSTER_MAX // 2:
                if self.wakeup_pdflush is not None:
                    self.wakeup_pdflush(0 if self.laptop_mode else total_scanned)
                sc.may_writepage = True
            if sc.nr_scanned and priority < DEF_PRIORITY - 2:
                self.congestion_wait(HZ // 10)
            priority -= 1
        if not sc.all_unreclaimable:
            progress = 1  # kswapd has not given up yet
        for zone in zones:
            zone.prev_priority = max(priority, 0)
        if self._tp_end.enabled:
            self._tp_end(nr_reclaimed)
        return progress

    def wakeup_kswapd(self, zone: Zone, order: int) -> None:
        """Let the zone's kswapd run if the zone is below pages_low."""
        self.kswapds[zone.node].wakeup_kswapd(zone, order)

    def out_of_memory(self, zonelist: Sequence[Zone], gfp: gfp_t, order: int) -> None:
        """Kill a process; without an OOM killer wait a tick."""
        if self.oom is not None:
            self.oom(zonelist, gfp, order)
        else:
            self.sched.schedule_timeout(1, ("memory", self.page_alloc))

    # -- zones --------------------------------------------------------------------------------------------------------------------

    def _shrink_zones(self, priority: int, zones: Sequence[Zone], sc: ScanControl) -> int:
        """One pass of direct reclaim over the zones that could serve the request (shrink_zones())."""
        sc.all_unreclaimable = True
        nr_reclaimed = 0
        for zone in zones:
            if not zone.present_pages:
                continue
            self.note_zone_scanning_priority(zone, priority)
            if zone.all_unreclaimable and priority != DEF_PRIORITY:
                continue
            sc.all_unreclaimable = False
            nr_reclaimed += self.shrink_zone(priority, zone, sc)
        return nr_reclaimed

    # -- for the judge ------------------------------------------------------------------------------------------------------------

    def closed_probe(self, order: int = 0) -> str | None:
        """Say why memory can never come free by itself now, or None if something can still happen.

        :param order: of what the machine waits for: a slab of receive buffers.
        """
        floor = self.page_alloc.at_the_floor(order)
        if floor is None:
            return None
        if self.writeout.over_limit():
            return f"{floor}; {self.vmstat.nr_writeback} pages under writeback keep reclaim in throttle_vm_writeout()"
        lists = [pages for zone in self.lru.zones for pages in (zone.inactive, zone.active)]
        if any(self.shrink_list.may_go(page) for pages in lists for page in pages):
            return None
        return f"{floor}; no page can be reclaimed ({self.vmstat.nr_writeback} under writeback)"
