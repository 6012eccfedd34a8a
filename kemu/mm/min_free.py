"""min_free_kbytes and what follows from it: the marks of all zones. Patches 07 and 08 (2.6.23 mm/page_alloc.c).

Interface
    * :class:`MinFree`: ``min_free_kbytes``, ``var_free_kbytes`` (patch 08), ``totalreserve_pages``,
      :meth:`~MinFree.setup_per_zone_pages_min`, and the sysctls vm.min_free_kbytes and vm.lowmem_reserve_ratio.

Rules of this file
    * Nobody else writes marks into zones. The arithmetic is in watermark.py.
    * A pass reads its inputs at its beginning and writes zone after zone, with a preemption point behind each: passes that
      interleave leave marks of both. Patch 07's lock is against that.
    * The value of a sysctl is stored before the pass, outside the lock: another pass may see it one call early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.errors import KernelBug
from kemu.kernel.spinlock import Spinlock
from kemu.kernel.sysctl import minmax_conv
from kemu.mm.gfp import PAGE_SHIFT
from kemu.mm.mmzone import Node
from kemu.mm.watermark import (
    MARKS_2_6_23,
    MIN_FREE_KBYTES_DEFAULT,
    MarksPolicy,
    highmem_min,
    total_reserve,
    zone_emerg,
)

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel

_KBYTES_SHIFT: Final = PAGE_SHIFT - 10


class MinFree:
    """The marks of all zones.

    :param nodes: all nodes, in order.
    :param marks: whose formulas; 2.6.23's unless told otherwise.
    """

    def __init__(self, kernel: Kernel, nodes: list[Node], marks: MarksPolicy = MARKS_2_6_23) -> None:
        self.sched = kernel.sched
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.nodes = nodes
        self.marks = marks
        self.watermark_scale_factor = marks.scale_factor or 0
        self.min_free_kbytes = MIN_FREE_KBYTES_DEFAULT
        self.var_free_kbytes = 0  # [p08] added
        self.lowmem_reserve_ratio = [zone.lowmem_reserve_ratio for zone in nodes[0].zones]
        self.totalreserve_pages = 0
        self.min_free_lock = Spinlock(kernel, "min_free_lock")  # [p07] added
        self._init_per_zone_pages_min()
        kernel.sysctl.register(
            "vm.min_free_kbytes",
            self._get_min_free_kbytes,
            self._set_min_free_kbytes,
            conv=minmax_conv(0, None),
            handler=self.setup_per_zone_pages_min,
        )
        kernel.sysctl.register(
            "vm.lowmem_reserve_ratio",
            self._get_lowmem_reserve_ratio,
            self._set_lowmem_reserve_ratio,
            count=len(self.lowmem_reserve_ratio),
            handler=self.setup_per_zone_lowmem_reserve,
        )

        if marks.scale_factor is not None:
            kernel.sysctl.register(
                "vm.watermark_scale_factor",
                lambda: self.watermark_scale_factor,
                self._set_watermark_scale_factor,
                conv=minmax_conv(1, 1000),
                handler=self.setup_per_zone_pages_min,
            )

    def _init_per_zone_pages_min(self) -> None:
        """Size everything at boot; nobody else runs yet, so no lock (init_per_zone_pages_min)."""
        self.min_free_kbytes = self.marks.boot_min_free_kbytes(self.nr_free_buffer_pages() << _KBYTES_SHIFT)
        self._setup_per_zone_pages_min()
        self.setup_per_zone_lowmem_reserve()

    def setup_per_zone_pages_min(self) -> None:
        """Recompute all marks from min_free_kbytes and the emergency pool."""
        if self.patched.serialize_min_free:  # [p07]
            flags = self.min_free_lock.spin_lock_irqsave()
            self._setup_per_zone_pages_min()
            self.min_free_lock.spin_unlock_irqrestore(flags)
        else:
            self._setup_per_zone_pages_min()

    def _setup_per_zone_pages_min(self) -> None:
        """Go through the zones once (__setup_per_zone_pages_min)."""
        min_free_kbytes = self.min_free_kbytes
        var_free_kbytes = self.var_free_kbytes
        zones = [zone for node in self.nodes for zone in node.zones]
        lowmem_pages = sum(zone.present_pages for zone in zones if not zone.highmem)
        for zone in zones:
            present = zone.present_pages
            if self.patched.emergency_pool:  # [p08]
                zone.pages_emerg = zone_emerg(present, lowmem_pages, var_free_kbytes)
                if zone.highmem:
                    zone.pages_emerg = 0
                    if not self.fixed.b08:  # [b08]
                        zone.pages_emerg = highmem_min(present)  # whether there is a reserve or not
            zone.pages_min, zone.pages_low, zone.pages_high = self.marks.zone_marks(
                present, lowmem_pages, min_free_kbytes, self.watermark_scale_factor, zone.highmem
            )
            zone.recompute_floor()
            self.sched.preemption_point("setup_per_zone_pages_min")
        self._calculate_totalreserve_pages()

    def setup_per_zone_lowmem_reserve(self) -> None:
        """Recompute what each zone keeps from requests that could have gone higher (setup_per_zone_lowmem_reserve)."""
        for node in self.nodes:
            table = self.marks.lowmem_reserve_table([zone.present_pages for zone in node.zones], self.lowmem_reserve_ratio)
            for zone, reserve in zip(node.zones, table, strict=True):
                zone.lowmem_reserve = reserve
                zone.recompute_floor()
        self._calculate_totalreserve_pages()

    def _calculate_totalreserve_pages(self) -> None:
        """Sum up what overcommit must not promise (calculate_totalreserve_pages)."""
        reserve = 0
        for node in self.nodes:
            for zone in node.zones:
                high = zone.pages_high
                if self.patched.emergency_pool:  # [p08]
                    high += zone.pages_emerg
                reserve += total_reserve(zone.present_pages, zone.lowmem_reserve, high)
        self.totalreserve_pages = reserve

    def nr_free_buffer_pages(self, nid: int = 0) -> int:
        """Return the pages above pages_high of the zones that GFP_USER may have on a node (nr_free_zone_pages)."""
        if not 0 <= nid < len(self.nodes):
            raise KernelBug(f"NODE_DATA({nid}): there are {len(self.nodes)} nodes")
        return sum(max(0, zone.present_pages - zone.pages_high) for zone in self.nodes[nid].zonelists[0])

    def _get_min_free_kbytes(self) -> int:
        return self.min_free_kbytes

    def _set_min_free_kbytes(self, value: int) -> None:
        self.min_free_kbytes = value

    def _set_watermark_scale_factor(self, value: int) -> None:
        self.watermark_scale_factor = value

    def _get_lowmem_reserve_ratio(self) -> list[int]:
        return self.lowmem_reserve_ratio

    def _set_lowmem_reserve_ratio(self, value: int, index: int) -> None:
        self.lowmem_reserve_ratio[index] = value
