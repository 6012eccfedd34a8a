"""/proc/vmstat (2.6.24 mm/vmstat.c: vmstat_text).

Interface: :func:`proc_vmstat`.

Rules of this file
    * The kernel's names in the kernel's order: counts first, then events.
    * Absent, as kemu does not count them: page tables, bounce pages, NUMA hits, what inode reclaim frees, and
      every event that the kernel counts per zone (pgalloc_dma, pgscan_direct_normal ...): kemu counts these for the machine.
    * kemu's own counters (``machine.vmstat``) are for reports; the kernel has no such lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kemu.mm.page_alloc import PageAllocator

#: The kernel's name -> the counter in VmStat.
_COUNTERS: Final = {
    "nr_inactive": "nr_inactive",
    "nr_active": "nr_active",
    "nr_anon_pages": "nr_anon_pages",
    "nr_mapped": "nr_file_mapped",
    "nr_file_pages": "nr_file_pages",
    "nr_dirty": "nr_dirty",
    "nr_writeback": "nr_writeback",
    "nr_slab_reclaimable": "nr_slab_reclaimable",
    "nr_slab_unreclaimable": "",
    "nr_unstable": "nr_unstable",
    "pgpgin": "pgpgin",
    "pgpgout": "pgpgout",
    "pswpin": "pswpin",
    "pswpout": "pswpout",
    "pgfree": "pgfree",
    "pgactivate": "pgactivate",
    "pgdeactivate": "pgdeactivate",
    "pgfault": "pgfault",
    "pgmajfault": "pgmajfault",
    "slabs_scanned": "slabs_scanned",
    "kswapd_steal": "kswapd_steal",
    "pageoutrun": "pageoutrun",
    "allocstall": "allocstall",
    "pgrotated": "pgrotated",
}


def proc_vmstat(page_alloc: PageAllocator) -> str:
    """Give the text of /proc/vmstat."""
    vmstat = page_alloc.vmstat
    counters = vmstat.as_dict()
    counters["pgpgin"] //= 2  # sectors to KiB
    counters["pgpgout"] //= 2
    counters[""] = vmstat.nr_slab - vmstat.nr_slab_reclaimable
    lines = [f"nr_free_pages {page_alloc.nr_free_pages()}\n"]
    lines += [f"{name} {counters[ours]}\n" for name, ours in _COUNTERS.items()]
    return "".join(lines)
