"""mm: emergency pool.

Problem
    pages_min looks like a floor and is none: GFP_ATOMIC may go down to 3/8 of it. Raising
    min_free_kbytes by R pages therefore guarantees only 3/8 of R to those who ignore the marks. A
    reserve needs a floor that no relative discount erodes, that can change at run time, and that is
    real: writing a larger number does not make pages free.

Change
    * zone->pages_emerg: the zone's share of var_free_kbytes, by size, rounded down.
    * zone_watermark_ok() adds it after the discounts of ALLOC_HIGH and ALLOC_HARDER. kswapd balances
      by the same function, so its targets rise too; the distances of the marks stay.
    * adjust_memalloc_reserve(pages) changes var_free_kbytes and recomputes the marks. For growth it
      then wakes kswapd on all zones and allocates, and frees, one page with GFP_KERNEL per node. If
      that fails the change is taken back: -ENOMEM. Shrinking always succeeds.

What to watch
    * Whatever the flags, a success without NO_WATERMARKS leaves more than pages_emerg free. A flood
      of GFP_ATOMIC stops at pages_emerg + 3/8 pages_min. NO_WATERMARKS may take the last page.
    * adjust(+n) and adjust(-n) restore every mark exactly; a failed growth changes none.
    * With var_free_kbytes 0 the test is that of 2.6.23.
    * The probe is an ordinary GFP_KERNEL request: it reclaims, may even call the OOM killer, and hardly
      ever fails. So swapon may take long, and almost never says -ENOMEM.
    * Shares are rounded down, so the sum may be smaller than what was asked, by up to zones - 1 pages.
      A reserve of one page over two zones can be 0.
    * Off: atomic users take free memory down to 3/8 pages_min, and charges that were granted (11) have
      nothing behind them.
"""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=8,
    name="emergency_pool",
    subject="mm: emergency pool",
    part=1,
    message_id=None,
    needs=(),
    wants=("serialize_min_free", "mem_reserve"),
    touches=(
        "kemu.mm.emergency_pool",
        "kemu.mm.emergency_pool.EmergencyPool.adjust_memalloc_reserve",
        "kemu.mm.min_free.MinFree._calculate_totalreserve_pages",
        "kemu.mm.min_free.MinFree._setup_per_zone_pages_min",
        "kemu.mm.mmzone.Zone.recompute_floor",
        "kemu.mm.slow_path.SlowPath._nopage",
        "kemu.mm.reserve.Reserves.check",
        "kemu.mm.show_mem.ShowMem._marks",
    ),
    fate=(
        "Not merged. 3.6 relies on pages_min, on an administrator who raises min_free_kbytes, and on "
        "throttling reclaimers when free memory falls below half the marks (commit 5515061d22f0)."
    ),
)
