"""/proc/meminfo and /proc/swaps (2.6.24 fs/proc/proc_misc.c: meminfo_read_proc(), mm/swapfile.c: swap_show()).

Interface: :class:`MemInfo`, :func:`proc_swaps`.

Rules of this file
    * MemFree is what the buddy lists hold: pages on per-CPU lists are free, and in no count, as in the kernel.
    * MemTotal is all of memory: the image of the kernel and its tables take no room here.
    * Absent, as kemu has no such thing: PageTables, Bounce, Vmalloc*, HugePages_*, and High*/Low* where there is no highmem zone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kemu.mm.gfp import PAGE_SHIFT
from kemu.mm.swap_info import SWP_WRITEOK, SwapAreas

if TYPE_CHECKING:
    from kemu.mm.address_space import File
    from kemu.mm.overcommit import Overcommit
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.swap_state import SwapState


class MemInfo:
    """What /proc/meminfo is made of.

    :param buffers: counts the cached pages of block devices.
    """

    def __init__(
        self, page_alloc: PageAllocator, swap_state: SwapState, overcommit: Overcommit, buffers: Callable[[], int]
    ) -> None:
        self.page_alloc = page_alloc
        self.swap_state = swap_state
        self.overcommit = overcommit
        self.buffers = buffers

    def pages(self) -> dict[str, int]:
        """Give the fields in their order, in pages."""
        page_alloc, vmstat = self.page_alloc, self.page_alloc.vmstat
        total, free, buffers = page_alloc.total_pages, page_alloc.nr_free_pages(), self.buffers()
        swap_cache = self.swap_state.swapper_space.nrpages
        fields = {
            "MemTotal": total,
            "MemFree": free,
            "Buffers": buffers,
            "Cached": max(0, vmstat.nr_file_pages - swap_cache - buffers),
            "SwapCached": swap_cache,
            "Active": vmstat.nr_active,
            "Inactive": vmstat.nr_inactive,
        }
        high = [zone for zone in page_alloc.zones if zone.highmem]
        if high:
            high_total = sum(zone.present_pages for zone in high)
            high_free = sum(zone.free_pages for zone in high)
            fields |= {"HighTotal": high_total, "HighFree": high_free, "LowTotal": total - high_total, "LowFree": free - high_free}
        swap_total, swap_free = si_swapinfo(self.swap_state.areas)
        return fields | {
            "SwapTotal": swap_total,
            "SwapFree": swap_free,
            "Dirty": vmstat.nr_dirty,
            "Writeback": vmstat.nr_writeback,
            "AnonPages": vmstat.nr_anon_pages,
            "Mapped": vmstat.nr_file_mapped,
            "Slab": vmstat.nr_slab,
            "SReclaimable": vmstat.nr_slab_reclaimable,
            "SUnreclaim": vmstat.nr_slab - vmstat.nr_slab_reclaimable,
            "NFS_Unstable": vmstat.nr_unstable,
            "CommitLimit": self.overcommit.commit_limit(),
            "Committed_AS": self.overcommit.vm_committed_space,
        }

    def text(self) -> str:
        """Give the text of /proc/meminfo."""
        return "".join(f"{name + ':':<13} {pages << (PAGE_SHIFT - 10):8} kB\n" for name, pages in self.pages().items())


def si_swapinfo(areas: SwapAreas) -> tuple[int, int]:
    """Count slots, all and free; the slots that a swapoff() still has to read back are both (2.6.24 mm/swapfile.c)."""
    leaving = sum(si.inuse_pages for si in areas.areas if si is not None and si.map is not None and not si.flags & SWP_WRITEOK)
    return areas.total_swap_pages + leaving, areas.nr_swap_pages + leaving


def proc_swaps(areas: SwapAreas) -> str:
    """Give the text of /proc/swaps."""
    lines = ["Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n"]
    for si in areas.areas:
        if si is None or si.map is None or si.swap_file is None:
            continue
        name = _path(si.swap_file)
        kind = "partition" if si.swap_file.inode.is_block else "file\t"
        size, used = (pages << (PAGE_SHIFT - 10) for pages in (si.pages, si.inuse_pages))
        lines.append(f"{name}{' ' * max(1, 40 - len(name))}{kind}\t{size}\t{used}\t{si.prio}\n")
    return "".join(lines)


def _path(file: File) -> str:
    """Give the path of a file, with what would break the line as octal numbers (seq_path())."""
    path = f"/dev/{file.inode.i_bdev.name}" if file.inode.is_block else file.f_path
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in path)
