"""Memory as text: what SysRq-m, /proc/zoneinfo and /proc/buddyinfo print (2.6.24 mm/page_alloc.c, mm/vmstat.c).

Interface: :class:`ShowMem`. It reads, nothing else. With patch 08 the marks are shown as sums with the emergency pool; how large
that is stands nowhere but in the log.

Left out: the counts of a zone that kemu keeps for the machine only (file, anonymous, dirty, slab pages ...), and the threshold of
per-CPU counters, which kemu has none of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.mm.gfp import PAGE_SHIFT
from kemu.mm.mmzone import Zone

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.page_alloc import PageAllocator


class ShowMem:
    """A page allocator's state for people."""

    def __init__(self, kernel: Kernel, page_alloc: PageAllocator) -> None:
        self.patched = kernel.patched
        self.page_alloc = page_alloc

    def _marks(self, zone: Zone) -> tuple[int, int, int]:
        """Return min, low and high as they are shown."""
        emerg = 0
        if self.patched.emergency_pool:  # [p08]
            emerg = zone.pages_emerg
        return zone.pages_min + emerg, zone.pages_low + emerg, zone.pages_high + emerg

    def show_free_areas(self) -> str:
        """Print zones and free blocks (show_free_areas)."""
        vmstat = self.page_alloc.vmstat
        lines = []
        lines.append(
            f"Active:{vmstat.nr_active} inactive:{vmstat.nr_inactive} dirty:{vmstat.nr_dirty} writeback:{vmstat.nr_writeback} "
            f"unstable:{vmstat.nr_unstable} free:{self.page_alloc.nr_free_pages()} slab:{vmstat.nr_slab}"
        )
        zones = [zone for zone in self.page_alloc.zones if zone.present_pages]
        for zone in zones:
            low, middle, high = (pages << (PAGE_SHIFT - 10) for pages in self._marks(zone))
            lines.append(
                f"Node {zone.node} {zone.name} free:{zone.free_pages << 2}kB min:{low}kB low:{middle}kB high:{high}kB "
                f"present:{zone.present_pages << 2}kB pages_scanned:{zone.pages_scanned} "
                f"all_unreclaimable? {'yes' if zone.all_unreclaimable else 'no'}"
            )
            lines.append("lowmem_reserve[]: " + " ".join(map(str, zone.lowmem_reserve)))
        for zone in zones:
            blocks = " ".join(f"{count}*{4 << order}kB" for order, count in enumerate(zone.nr_free))
            lines.append(f"Node {zone.node} {zone.name}: {blocks} = {zone.free_pages << 2}kB")
        return "\n".join(lines)

    def zoneinfo(self) -> str:
        """Print /proc/zoneinfo (zoneinfo_show_print())."""
        lines = []
        for zone in self.page_alloc.zones:
            if not zone.present_pages:
                continue
            low, middle, high = self._marks(zone)
            active, inactive = len(zone.active or ()), len(zone.inactive or ())
            lines.append(f"Node {zone.node}, zone {zone.name:>8}")
            lines.append(f"  pages free     {zone.free_pages}")
            lines.append(f"        min      {low}")
            lines.append(f"        low      {middle}")
            lines.append(f"        high     {high}")
            lines.append(f"        scanned  {zone.pages_scanned} (a: {zone.nr_scan_active} i: {zone.nr_scan_inactive})")
            lines.append(f"        spanned  {zone.spanned_pages}")
            lines.append(f"        present  {zone.present_pages}")
            lines.append(f"    nr_free_pages {zone.free_pages}")
            lines.append(f"    nr_inactive  {inactive}")
            lines.append(f"    nr_active    {active}")
            lines.append(f"        protection: ({', '.join(map(str, zone.lowmem_reserve))})")
            lines.append("  pagesets")
            for cpu_id, (hot, cold) in enumerate(zip(zone.hot, zone.cold, strict=True)):
                for number, pcp in enumerate((hot, cold)):
                    lines.append(f"    cpu: {cpu_id} pcp: {number}")
                    lines.append(f"              count: {len(pcp.pages)}")
                    lines.append(f"              high:  {pcp.high}")
                    lines.append(f"              batch: {pcp.batch}")
            lines.append(f"  all_unreclaimable: {int(zone.all_unreclaimable)}")
            lines.append(f"  prev_priority:     {zone.prev_priority}")
            lines.append(f"  start_pfn:         {zone.start_pfn}")
        return "\n".join(lines) + "\n"

    def buddyinfo(self) -> str:
        """Print /proc/buddyinfo (frag_show_print())."""
        return "".join(
            f"Node {zone.node}, zone {zone.name:>8} " + "".join(f"{count:6} " for count in zone.nr_free) + "\n"
            for zone in self.page_alloc.zones
            if zone.present_pages
        )
