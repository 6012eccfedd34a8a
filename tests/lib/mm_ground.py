"""Test helper: a machine that is no more than a kernel and a page allocator, and a reclaimer that does as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kemu.fixes import FixSet
from kemu.kernel.core import Kernel
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC
from kemu.mm.mmzone import Zone
from kemu.mm.nodes import topology
from kemu.mm.numa import NumaPageAllocator
from kemu.mm.page import Page
from kemu.mm.page_alloc import PageAllocator
from kemu.patches import PatchSet

MIB = 1 << 20


class GaveUpError(Exception):
    """The scripted reclaimer has nothing more to say: the request would loop for ever."""


class ScriptedReclaim:
    """Records what the page allocator asks for; each try_to_free_pages() runs the next function of the script."""

    def __init__(self, kernel: Kernel, script: list[Callable[[], int]] | None = None, patience: int = 3) -> None:
        self.kernel = kernel
        self.script = list(script or [])
        self.patience = patience  # waits and kills before GaveUpError
        self.calls: list[str] = []
        self.flags_inside: list[int] = []
        self.on_wait: Callable[[], None] = lambda: None
        self.on_oom: Callable[[], None] = lambda: None

    def try_to_free_pages(self, zones, order, gfp):
        self.calls.append("reclaim")
        self.flags_inside.append(self.kernel.sched.current.flags)
        return self.script.pop(0)() if self.script else 0

    def wakeup_kswapd(self, zone, order):
        self.calls.append(f"kswapd {zone.name}")

    def out_of_memory(self, zonelist, gfp, order):
        self.calls.append("oom")
        self._lose_patience()
        self.on_oom()

    def congestion_wait(self, jiffies):
        self.calls.append(f"wait {jiffies}")
        self._lose_patience()
        self.on_wait()

    def _lose_patience(self):
        if self.patience == 0:
            raise GaveUpError
        self.patience -= 1


class Ground:
    """The machine: kernel, page allocator, and what a test does with them."""

    def __init__(self, kernel: Kernel, pa: PageAllocator) -> None:
        self.kernel = kernel
        self.pa = pa
        self.held: list[Page] = []

    @property
    def task(self):
        return self.kernel.sched.current

    def script(self, *steps: Callable[[], int], patience: int = 3) -> ScriptedReclaim:
        """Hand the allocator a scripted reclaimer."""
        self.pa.reclaim = reclaim = ScriptedReclaim(self.kernel, list(steps), patience)
        return reclaim

    def take(self, gfp: int = GFP_ATOMIC | _GFP_NOWARN, order: int = 0) -> list[Page]:
        """Allocate until NULL, and hold it all."""
        taken = []
        while (page := self.pa.alloc_pages(gfp, order)) is not None:
            taken.append(page)
        self.held += taken
        return taken

    def hold(self, pages: int, zone_name: str = "DMA32", node: int = 0) -> None:
        """Let a zone have no more than so many free pages, whatever its marks say."""
        self.hold_zone(next(zone for zone in self.pa.zones if (zone.name, zone.node) == (zone_name, node)), pages)

    def hold_zone(self, zone: Zone, pages: int) -> None:
        """As hold(), for the zone itself."""
        while zone.free_pages > pages:
            page = self.pa.buffered_rmqueue(zone, 0, 0)
            assert page is not None
            self.held.append(page)
        self.pa.drain_pages(0)
        while zone.free_pages > pages:
            page = self.pa.pfn_to_page(self._pop(zone))
            page.count = 1
            self.pa.vmstat.pgalloc += 1
            self.held.append(page)

    def _pop(self, zone):
        from kemu.mm.buddy import rmqueue

        pfn = rmqueue(zone, 0)
        assert pfn is not None
        return pfn

    def starve(self, pages: int = 0) -> None:
        """Leave ``pages`` free in the highest populated zone and nothing in the others."""
        for zone in self.pa.zonelists[2]:
            self.hold_zone(zone, pages if zone is self.pa.zonelists[2][0] else 0)

    def starve_node(self, node: int, pages: int = 0) -> None:
        """Leave ``pages`` free in the highest populated zone of a node and nothing in its others."""
        zones = self.pa.nodes[node].populated(len(self.pa.nodes[node].zones) - 1)
        for zone in zones:
            self.hold_zone(zone, pages if zone is zones[0] else 0)

    def give_back(self, count: int | None = None) -> int:
        """Free what is held (all of it, or so many pages); what a reclaimer would have done."""
        count = len(self.held) if count is None else count
        for _ in range(count):
            self.pa.free_pages(self.held.pop())
        self.pa.drain_pages(0)
        return count

    @contextmanager
    def preempt_count(self, value: int) -> Iterator[None]:
        """Be in another context: 1 << 8 a softirq, 1 << 16 a hard interrupt."""
        cpu = self.kernel.sched.cpu
        cpu.preempt_count += value
        yield
        cpu.preempt_count -= value


@contextmanager
def ground(
    mem: int = 32 * MIB,
    patches: str = "all",
    fixes: str = "all",
    ncpus: int = 1,
    arch: str = "x86_64",
    nodes: int = 1,
    distances: Sequence[Sequence[int]] | None = None,
) -> Iterator[Ground]:
    """Boot one, and end it."""
    allocator = NumaPageAllocator if nodes > 1 else PageAllocator
    kernel = Kernel(ncpus=ncpus, patched=PatchSet.parse(patches), fixed=FixSet.parse(fixes))
    try:
        yield Ground(kernel, allocator(kernel, mem, arch=arch, topo=topology(nodes, ncpus, distances)))
    finally:
        kernel.shutdown()
