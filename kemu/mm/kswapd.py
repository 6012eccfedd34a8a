"""The daemon that keeps free memory above pages_high (2.6.23 mm/vmscan.c: kswapd(), balance_pgdat(), wakeup_kswapd()).

Interface
    * :class:`Kswapd`, one per node: ``start()``, ``wakeup_kswapd(zone, order)``, ``balance_pgdat(order)``.

Rules of this file
    * It is PF_MEMALLOC|PF_SWAPWRITE|PF_KSWAPD for life: it may use the reserve, and write to a congested queue.
    * It looks after the zones of its node alone. With several nodes it runs on its node's first CPU, if there is one (the kernel
      binds it to all CPUs of the node).
    * It is woken when a zone is below pages_low, and goes on until every zone of the node is above pages_high. Both stand on top of
      the emergency pool (patch 08), which zone_watermark_ok() adds.
    * It alone gives up a zone: all_unreclaimable, when six times as many pages were scanned as there are and none went. The first
      page that is freed takes that back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.kernel import costs
from kemu.kernel.task import PF_KSWAPD, PF_MEMALLOC, PF_SWAPWRITE, Task
from kemu.kernel.timer import HZ
from kemu.kernel.wait import WaitQueue
from kemu.mm.cpuset import cpuset_zone_allowed_hardwall
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.mmzone import Node, Zone
from kemu.mm.shrink_list import SWAP_CLUSTER_MAX, ScanControl
from kemu.mm.slow_path import ReclaimState

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.scan_zone import ZoneScan

DEF_PRIORITY: Final = 12


class Kswapd:
    """``kswapd0``, and its node's part in waking it.

    :param node: whose zones it keeps free.
    :ivar task: the daemon, once started.
    :ivar max_order: the largest block that somebody woke it for (``kswapd_max_order``).
    """

    def __init__(self, kernel: Kernel, reclaim: ZoneScan, node: Node) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.reclaim = reclaim
        self.node = node
        self.page_alloc = reclaim.page_alloc
        self.vmstat = reclaim.vmstat
        self.task: Task | None = None
        self.max_order = 0
        self.wanted = False
        self.wait = WaitQueue("kswapd_wait")
        self._tp_wake = kernel.trace.point("vmscan:mm_vmscan_kswapd_wake", ("nid", "order"))

    def start(self) -> Task:
        """Make the daemon's task."""
        if self.task is None:
            flags = PF_MEMALLOC | PF_SWAPWRITE | PF_KSWAPD
            self.task = task = self.sched.spawn(f"kswapd{self.node.node_id}", self._kswapd, flags=flags, start=False)
            if len(self.page_alloc.nodes) > 1 and self.node.cpus:
                task.cpu = self.kernel.cpus[self.node.cpus[0]]
                task.bound = True
            self.sched.wake_up_process(task)
        return self.task

    def wakeup_kswapd(self, zone: Zone, order: int) -> None:
        """Wake the daemon if the zone is below pages_low and it sleeps."""
        if not zone.present_pages or zone.zone_watermark_ok(order, zone.pages_low, 0, 0):
            return
        self.max_order = max(self.max_order, order)
        if not cpuset_zone_allowed_hardwall(self.sched, zone.node, GFP_KERNEL):
            return
        if self.wait.active() and not self.wanted:
            self.wanted = True
            self.vmstat.kswapd_wakes += 1
            if self._tp_wake.enabled:
                self._tp_wake(self.node.node_id, order)
            self.sched.wake_up(self.wait)

    def _kswapd(self) -> None:
        """Sleep, balance, and again (kswapd())."""
        self.sched.current.reclaim_state = ReclaimState()
        order = 0
        while True:
            new_order, self.max_order = self.max_order, 0
            if order < new_order:
                order = new_order  # somebody wants a larger block than the last run was for: no sleep
            else:
                self.sched.wait_event_interruptible(self.wait, self._is_wanted, ("sleep", None))
                order = self.max_order
            self.wanted = False
            self.balance_pgdat(order)

    def _is_wanted(self) -> bool:
        return self.wanted

    def balance_pgdat(self, order: int) -> int:
        """Reclaim until every zone is above pages_high; return how many pages went in the last round (balance_pgdat())."""
        while True:
            nr_reclaimed, all_zones_ok = self._balance_once(order)
            if all_zones_ok:
                return nr_reclaimed
            self.sched.cond_resched()

    def _balance_once(self, order: int) -> tuple[int, bool]:
        """Go down the priorities once, or until a cluster of pages went."""
        zones = [zone for zone in self.node.zones if zone.present_pages]
        sc = ScanControl(GFP_KERNEL, order, may_writepage=not self.reclaim.laptop_mode, swappiness=self.reclaim.swappiness)
        self.vmstat.pageoutrun += 1
        self.sched.spend(costs.SCAN_PAGE)
        for zone in zones:
            zone.temp_priority = DEF_PRIORITY
        total_scanned = nr_reclaimed = 0
        all_zones_ok = True
        for priority in range(DEF_PRIORITY, -1, -1):
            all_zones_ok = True
            end_zone = self._highest_zone_to_scan(zones, order, priority)
            if end_zone < 0:
                break
            lru_pages = sum(len(zone.active) + len(zone.inactive) for zone in zones[: end_zone + 1])
            for zone in zones[: end_zone + 1]:
                if zone.all_unreclaimable and priority != DEF_PRIORITY:
                    continue
                if not zone.zone_watermark_ok(order, zone.pages_high, zones[end_zone].zone_idx, 0):
                    all_zones_ok = False
                freed, nr_slab = self._balance_zone(zone, zones[end_zone].zone_idx, priority, lru_pages, sc)
                nr_reclaimed += freed
                total_scanned += sc.nr_scanned
                if zone.all_unreclaimable:
                    continue
                if not nr_slab and zone.pages_scanned >= (len(zone.active) + len(zone.inactive)) * 6:
                    zone.all_unreclaimable = True
                if total_scanned > SWAP_CLUSTER_MAX * 2 and total_scanned > nr_reclaimed + nr_reclaimed // 2:
                    sc.may_writepage = True  # much effort, little gain: write even in laptop mode
            if all_zones_ok:
                break
            if total_scanned and priority < DEF_PRIORITY - 2:
                self.reclaim.congestion_wait(HZ // 10)
            if nr_reclaimed >= SWAP_CLUSTER_MAX:
                break
        for zone in zones:
            zone.prev_priority = zone.temp_priority
        return nr_reclaimed, all_zones_ok

    def _highest_zone_to_scan(self, zones: list[Zone], order: int, priority: int) -> int:
        """Return the place of the highest zone below pages_high, -1 if there is none."""
        for place in range(len(zones) - 1, -1, -1):
            zone = zones[place]
            if zone.all_unreclaimable and priority != DEF_PRIORITY:
                continue
            if not zone.zone_watermark_ok(order, zone.pages_high, 0, 0):
                return place
        return -1

    def _balance_zone(self, zone: Zone, end_zone: int, priority: int, lru_pages: int, sc: ScanControl) -> tuple[int, int]:
        """Scan one zone, unless far too much of it is free; return pages freed and slab objects freed."""
        reclaim = self.reclaim
        zone.temp_priority = priority
        sc.nr_scanned = 0
        reclaim.note_zone_scanning_priority(zone, priority)
        nr_reclaimed = 0
        if not zone.zone_watermark_ok(sc.order, 8 * zone.pages_high, end_zone, 0):
            nr_reclaimed = reclaim.shrink_zone(priority, zone, sc)
        state = self.sched.current.reclaim_state
        if state is not None:
            state.reclaimed_slab = 0
        nr_slab = reclaim.shrink_slab(sc.nr_scanned, GFP_KERNEL, lru_pages)
        if state is not None:
            nr_reclaimed += state.reclaimed_slab
        return nr_reclaimed, nr_slab
