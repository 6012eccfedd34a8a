"""The page allocator of one machine: the entry of requests, and the parts that answer them (2.6.23 mm/page_alloc.c).

Interface
    * :class:`PageAllocator`: :meth:`~PageAllocator.alloc_pages`, :meth:`~PageAllocator.alloc_pages_node`; the steps behind them
      (slow_path.py), ``free_pages`` and ``put_page`` (page_lists.py), ``entitled`` (alloc_flags.py), marks and the emergency pool
      (min_free.py, emergency_pool.py). A machine with several nodes has a :class:`~kemu.mm.numa.NumaPageAllocator`.

Rules of this file
    * The fast path stands here once, written out; all others go through the slow path's first step, which does the same.
    * ``order`` is an unsigned int in C: one that is negative is too large, as 11 is, and gets NULL without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.mm.emergency_pool import EmergencyPool
from kemu.mm.fault_inject import fail_page_alloc_point
from kemu.mm.gfp import _GFP_COLD, _GFP_WAIT, _GFP_ZERO, ALLOC_HARDER, ALLOC_HIGH, GFP_ZONEMASK, MAX_ORDER, gfp_t
from kemu.mm.min_free import MinFree
from kemu.mm.mmzone import Zone
from kemu.mm.nodes import Topology, build_all_zonelists, make_nodes, topology
from kemu.mm.page import ZERO_PAGE, Page
from kemu.mm.percpu_pagelist import PercpuPagelist
from kemu.mm.slow_path import SlowPath
from kemu.mm.watermark import MARKS_2_6_23, MarksPolicy

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel


class PageAllocator(SlowPath):
    """All memory of a machine.

    :param mem_bytes: RAM, from frame 0, without holes.
    :param topo: nodes, CPUs and distances; None for one node.
    :param marks: whose formulas size the marks.
    :ivar fail_page_alloc: injected failures, or None.
    """

    fail_page_alloc = fail_page_alloc_point()

    def __init__(
        self,
        kernel: Kernel,
        mem_bytes: int,
        *,
        arch: str = "x86_64",
        topo: Topology | None = None,
        marks: MarksPolicy = MARKS_2_6_23,
    ) -> None:
        self.arch = arch
        self.topology = topo = topology(1, len(kernel.cpus)) if topo is None else topo
        super().__init__(kernel, make_nodes(mem_bytes, arch, kernel.patched, topo))
        build_all_zonelists(self.nodes, topo)
        self.zonelists = self.nodes[0].zonelists
        self.zonelist = self.zonelists[0]  # of GFP_KERNEL
        self.total_pages = sum(zone.present_pages for zone in self.zones)
        self.min_free = MinFree(kernel, self.nodes, marks)
        self.emergency_pool = EmergencyPool(kernel, self.min_free, self)
        self.percpu_pagelist = PercpuPagelist(kernel, self.zones)
        self._tp_alloc = kernel.trace.point("kmem:mm_page_alloc", ("page", "pfn", "order", "gfp_flags"))
        kernel.judge.explainers["memory"] = _explain_wait

    # The fast path

    def alloc_pages(self, gfp: gfp_t, order: int = 0) -> Page | None:
        """Return 2**order pages that belong together, or None for NULL."""
        if order:
            return self._alloc_from(gfp, order, self.zonelists[gfp & GFP_ZONEMASK]) if 0 < order < MAX_ORDER else None
        sched = self.sched
        cpu = sched.cpu
        if gfp & _GFP_WAIT and (cpu.preempt_count or cpu.irq_disabled):
            sched.might_sleep()
        zonelist = self.zonelists[gfp & GFP_ZONEMASK]
        # get_page_from_freelist() at pages_low, for the usual case: first zone, this CPU's list
        zone = zonelist[0]
        if zone.free_pages > zone.low_threshold:
            pcp = (zone.cold if gfp & _GFP_COLD else zone.hot)[cpu.id]
            pages = pcp.pages
            if pages or self._rmqueue_bulk(zone, pcp):
                page = pages.pop()
                page.count = 1
                page.flags = 0
                page.private = 0
                page.word_d = 0  # page.reserve: not taken below a mark
                if gfp & _GFP_ZERO:
                    page.contents = ZERO_PAGE
                vmstat = self.vmstat
                vmstat.pgalloc += 1
                vmstat.alloc_low += 1
                if self._tp_alloc.enabled:
                    self._tp_alloc(page.address, page.pfn, 0, gfp)
                return page
        slow_page = self._alloc_pages(gfp, 0, zonelist)
        if slow_page is not None and self._tp_alloc.enabled:
            self._tp_alloc(slow_page.address, slow_page.pfn, 0, gfp)
        return slow_page

    def alloc_page(self, gfp: gfp_t) -> Page | None:
        """Return one page or None."""
        return self.alloc_pages(gfp, 0)

    def alloc_pages_node(self, nid: int, gfp: gfp_t, order: int = 0) -> Page | None:
        """Return pages of a node, or of the nearest that has some; no policy, the running CPU's node for a negative one."""
        if not 0 <= order < MAX_ORDER:
            return None
        if nid >= len(self.nodes):
            raise KernelBug(f"NODE_DATA({nid}): there are {len(self.nodes)} nodes")
        node = self.nodes[self.numa_node_id() if nid < 0 else nid]
        return self._alloc_from(gfp, order, node.zonelists[gfp & GFP_ZONEMASK])

    def _alloc_from(self, gfp: gfp_t, order: int, zonelist: list[Zone]) -> Page | None:
        """Serve a request from a zonelist, with what stands before the first step (__alloc_pages)."""
        sched = self.sched
        cpu = sched.cpu
        if gfp & _GFP_WAIT and (cpu.preempt_count or cpu.irq_disabled):
            sched.might_sleep()
        page = self._alloc_pages(gfp, order, zonelist)
        if page is not None and self._tp_alloc.enabled:
            self._tp_alloc(page.address, page.pfn, order, gfp)
        return page

    # Marks and the emergency pool

    @property
    def min_free_kbytes(self) -> int:
        """vm.min_free_kbytes."""
        return self.min_free.min_free_kbytes

    @property
    def var_free_kbytes(self) -> int:
        """Size of the emergency pool (patch 08), in kB."""
        return self.min_free.var_free_kbytes

    @property
    def totalreserve_pages(self) -> int:
        """Pages that overcommit must not promise."""
        return self.min_free.totalreserve_pages

    def setup_per_zone_pages_min(self) -> None:
        """Recompute all marks."""
        self.min_free.setup_per_zone_pages_min()

    def adjust_memalloc_reserve(self, pages: int) -> int:
        """Make the emergency pool larger or smaller by ``pages``; 0 or -ENOMEM (patch 08)."""
        return self.emergency_pool.adjust_memalloc_reserve(pages)

    def nr_free_buffer_pages(self) -> int:
        """Return what is usable of the zones that GFP_USER may have, seen from the local node (nr_free_zone_pages)."""
        return self.min_free.nr_free_buffer_pages(self.numa_node_id())

    # For the judge

    def at_the_floor(self, order: int = 0) -> str | None:
        """Say so when an ordinary atomic request for 2**order pages would get nothing from any zone, else None."""
        classzone_idx = self.zonelist[0].zone_idx
        for zone in self.zonelist:
            if zone.zone_watermark_ok(order, zone.pages_min, classzone_idx, ALLOC_HIGH | ALLOC_HARDER):
                return None
        floor = sum(zone.atomic_floor(classzone_idx) for zone in self.zonelist)
        asked = f" and {1 << order} in a row" if order else ""
        return f"free memory is at the floor: {self.nr_free_pages()} pages, GFP_ATOMIC needs more than {floor}{asked}"


def _explain_wait(page_alloc: PageAllocator) -> tuple[str, None]:
    """Say why a task that waits for memory gets none. Entitled requests never wait."""
    zonelist = page_alloc.zonelist
    minimum = sum(zone.pages_min for zone in zonelist)
    emergency = sum(zone.pages_emerg for zone in zonelist)
    return f"no page: free {page_alloc.nr_free_pages()}, min {minimum}, emergency {emergency}, entitled: no", None
