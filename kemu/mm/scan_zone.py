"""Scanning one zone, and what direct reclaim and kswapd share (2.6.23 mm/vmscan.c: shrink_zone()).

Interface
    * :class:`ZoneScan`: ``shrink_zone``, ``note_zone_scanning_priority``, ``congestion_wait``, ``shrink_slab``,
      ``register_shrinker``.

Rules of this file
    * A pass looks at (list >> priority) + 1 pages of each list, but only when that has added up to 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.sysctl import minmax_conv
from kemu.mm.backing_dev import WRITE, Congestion
from kemu.mm.mmzone import Zone
from kemu.mm.page_writeback import VmWriteout
from kemu.mm.scan_lists import ScanLists
from kemu.mm.shrink_slab import ShrinkSlab

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.shrink_list import ScanControl
    from kemu.mm.swap_state import SwapState


class ZoneScan(ScanLists):
    """The scanner of one machine's zones.

    :param swap_state: where anonymous pages go.
    :ivar laptop_mode: vm.laptop_mode: write nothing until much was scanned, then everything, so that a disk can sleep.
    """

    def __init__(self, kernel: Kernel, swap_state: SwapState, congestion: Congestion) -> None:
        super().__init__(kernel, swap_state)
        self.lru = swap_state.lru
        self.congestion = congestion
        self.shrink_slab = ShrinkSlab(kernel, self.vmstat)
        self.register_shrinker = self.shrink_slab.register_shrinker
        self.writeout = VmWriteout(kernel, self.page_alloc, congestion)
        self.throttle_vm_writeout = self.writeout.throttle_vm_writeout
        self.laptop_mode = 0
        kernel.sysctl.register("vm.swappiness", lambda: self.swappiness, self._set_swappiness, conv=minmax_conv(0, 100))
        kernel.sysctl.register("vm.laptop_mode", lambda: self.laptop_mode, self._set_laptop_mode)

    def _set_swappiness(self, value: int) -> None:
        self.swappiness = value

    def _set_laptop_mode(self, value: int) -> None:
        self.laptop_mode = value

    def congestion_wait(self, jiffies: int) -> None:
        """Nap, as one that waits for memory."""
        self.congestion.congestion_wait(WRITE, jiffies, ("memory", self.page_alloc))

    def note_zone_scanning_priority(self, zone: Zone, priority: int) -> None:
        """Remember how hard the zone was scanned; shrink_active_list() turns it into distress."""
        zone.prev_priority = min(zone.prev_priority, priority)

    def shrink_zone(self, priority: int, zone: Zone, sc: ScanControl) -> int:
        """Scan both lists of a zone as far as the priority says; return how many pages went (shrink_zone())."""
        cluster = sc.swap_cluster_max
        zone.nr_scan_active += (len(zone.active) >> priority) + 1
        nr_active = zone.nr_scan_active
        if nr_active >= cluster:
            zone.nr_scan_active = 0
        else:
            nr_active = 0
        zone.nr_scan_inactive += (len(zone.inactive) >> priority) + 1
        nr_inactive = zone.nr_scan_inactive
        if nr_inactive >= cluster:
            zone.nr_scan_inactive = 0
        else:
            nr_inactive = 0
        nr_reclaimed = 0
        while nr_active or nr_inactive:
            if nr_active:
                nr_to_scan = min(nr_active, cluster)
                nr_active -= nr_to_scan
                self.shrink_active_list(nr_to_scan, zone, sc, priority)
            if nr_inactive:
                nr_to_scan = min(nr_inactive, cluster)
                nr_inactive -= nr_to_scan
                nr_reclaimed += self.shrink_inactive_list(nr_to_scan, zone, sc)
        self.throttle_vm_writeout(sc.gfp_mask)
        return nr_reclaimed
