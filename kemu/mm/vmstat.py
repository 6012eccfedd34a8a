"""Counters of a machine's memory (mm/vmstat.c). Each is written by who does the thing, and read by reports.

Left out: per-zone and per-CPU counters (NR_FREE_PAGES is ``zone.free_pages``).
"""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class VmStat:
    """What happened since boot, and how much of each kind there is now."""

    # events: the page allocator
    pgalloc: int = 0  # pages handed out
    pgfree: int = 0  # pages given back
    alloc_low: int = 0  # requests served at pages_low, the first attempt
    alloc_min: int = 0  # served at pages_min with the request's discounts
    alloc_high: int = 0  # served at pages_high, after reclaim found nothing
    alloc_no_watermarks: int = 0  # served from the reserve
    alloc_failed: int = 0  # NULL returned
    allocstall: int = 0  # direct reclaims

    # events: faults, swap, reclaim
    pgfault: int = 0
    pgmajfault: int = 0
    pgpgin: int = 0  # sectors read from disks; /proc/vmstat shows half of it, which is KiB
    pgpgout: int = 0
    pswpin: int = 0
    pswpout: int = 0
    pgsteal: int = 0
    kswapd_steal: int = 0  # of these, by kswapd
    pgscan_kswapd: int = 0
    pgscan_direct: int = 0
    pgrefill: int = 0
    pgactivate: int = 0
    pgdeactivate: int = 0
    pgrotated: int = 0
    slabs_scanned: int = 0
    pageoutrun: int = 0  # runs of balance_pgdat()
    kswapd_wakes: int = 0
    throttled: int = 0  # slices slept in throttle_vm_writeout()
    mempool_sleeps: int = 0  # naps in mempool_alloc(), 5 s at most each
    oom_kills: int = 0
    lost_pages: int = 0  # swapped out, and no copy anywhere

    # how many there are
    nr_writeback: int = 0
    nr_dirty: int = 0
    nr_unstable: int = 0
    nr_file_pages: int = 0
    nr_anon_pages: int = 0
    nr_file_mapped: int = 0
    nr_active: int = 0
    nr_inactive: int = 0
    nr_slab: int = 0
    nr_slab_reclaimable: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return all counters by name, as /proc/vmstat would list them."""
        return attrs.asdict(self)
