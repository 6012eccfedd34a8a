"""Patch 08: an absolute floor under free memory, and how it is resized."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.core import Kernel
from kemu.kernel.errno import ENOMEM
from kemu.kernel.task import PF_MEMALLOC, TIF_MEMDIE
from kemu.mm import gfp as g
from kemu.mm.fault_inject import FailPageAlloc
from kemu.mm.hog import AtomicHog
from kemu.mm.nodes import topology
from kemu.mm.numa import NumaPageAllocator
from kemu.mm.show_mem import ShowMem
from mm_ground import MIB, ground
from slab_ground import slab_ground

ENTITLED = g.GFP_ATOMIC | g._GFP_MEMALLOC | g._GFP_NOWARN


@pytest.fixture
def machine():
    with ground(32 * MIB) as machine:
        yield machine


def marks(pa):
    return [
        (zone.pages_min, zone.pages_low, zone.pages_high, zone.pages_emerg, zone.lowmem_reserve, zone.thresholds)
        for zone in pa.zones
    ] + [pa.totalreserve_pages, pa.var_free_kbytes]


def test_an_atomic_flood_leaves_the_pool_and_three_eighths(machine):
    assert machine.pa.adjust_memalloc_reserve(1000) == 0
    machine.take()
    assert [zone.free_pages for zone in machine.pa.zones[:2]] == [500 + 34 + 16, 500 + 34]


def test_off_it_leaves_three_eighths(machine):
    with ground(32 * MIB, "all,-8") as machine:
        assert machine.pa.adjust_memalloc_reserve(1000) == 0
        machine.take()
        assert [zone.free_pages for zone in machine.pa.zones[:2]] == [34 + 16, 34]
        assert machine.pa.var_free_kbytes == 0


def test_raising_min_free_kbytes_by_as_much_guarantees_only_three_eighths_of_it(machine):
    machine.kernel.sysctl.write("vm.min_free_kbytes", str(724 + 4000))
    machine.take()
    assert machine.pa.zones[1].free_pages < 34 + 500 * 3 // 8 + 2


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 600),
    st.sampled_from([g.GFP_ATOMIC, g.GFP_NOWAIT, g.GFP_KERNEL | g._GFP_NORETRY, g.GFP_ATOMIC | g._GFP_NOMEMALLOC]),
    st.integers(0, 2),
)
def test_who_respects_the_marks_leaves_more_than_the_pool(pool, gfp, order):
    with ground(8 * MIB) as machine:
        assert machine.pa.adjust_memalloc_reserve(pool) == 0
        machine.take(gfp | g._GFP_NOWARN, order)
        for zone in machine.pa.zones[:1]:
            assert zone.free_pages >= zone.pages_emerg
            if not order:
                assert zone.free_pages == zone.thresholds[machine.pa.gfp_to_alloc_flags(gfp) & 0x1F][0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=4))
def test_what_is_added_and_taken_away_leaves_no_trace(sizes):
    with ground(32 * MIB) as machine:
        before = marks(machine.pa)
        for size in sizes:
            assert machine.pa.adjust_memalloc_reserve(size) == 0
        assert machine.pa.var_free_kbytes == 4 * sum(sizes)
        for size in reversed(sizes):
            assert machine.pa.adjust_memalloc_reserve(-size) == 0
        assert marks(machine.pa) == before


@pytest.mark.parametrize(("pf", "tif"), [(PF_MEMALLOC, 0), (0, TIF_MEMDIE)])
def test_failure_leaves_the_marks_unchanged(machine, pf, tif):
    """Part F, 15: the probe is GFP_KERNEL. It fails only for a task that may not reclaim, or that the OOM killer has chosen."""
    machine.starve()
    machine.task.flags |= pf
    machine.task.thread_flags |= tif
    before = marks(machine.pa)
    assert machine.pa.adjust_memalloc_reserve(100) == -ENOMEM
    assert marks(machine.pa) == before


def test_failure_can_be_injected(machine):
    before = marks(machine.pa)
    machine.pa.fail_page_alloc = FailPageAlloc(machine.kernel, ignore_gfp_wait=False, min_order=0, times=1)
    assert machine.pa.adjust_memalloc_reserve(100) == -ENOMEM
    assert marks(machine.pa) == before
    assert machine.pa.adjust_memalloc_reserve(100) == 0


def test_a_smaller_pool_is_always_had(machine):
    machine.pa.adjust_memalloc_reserve(100)
    machine.starve()
    assert machine.pa.adjust_memalloc_reserve(-100) == 0


def test_the_probe_wakes_kswapd_and_reclaims(machine):
    machine.starve(300)
    reclaim = machine.script(lambda: machine.give_back(2000))
    assert machine.pa.adjust_memalloc_reserve(1000) == 0
    assert reclaim.calls == ["kswapd DMA", "kswapd DMA32", "kswapd NORMAL", "kswapd DMA32", "kswapd DMA", "reclaim"]
    machine.pa.check()


def test_less_than_nothing_is_a_bug(machine):
    with pytest.raises(KernelBug, match="reduced by 1 pages"):
        machine.pa.adjust_memalloc_reserve(-1)


def test_an_entitled_request_takes_the_last_page(machine):
    machine.pa.adjust_memalloc_reserve(1000)
    machine.take()
    machine.take(ENTITLED)
    assert machine.pa.nr_free_pages() == 0


@pytest.mark.parametrize("arch", ["x86_64", "i386"])
def test_with_an_empty_pool_marks_are_the_bases(arch):
    results = []
    for patches in ("all", "all,-8"):
        with ground(1024 * MIB, patches, arch=arch) as machine:
            results.append(marks(machine.pa))
    assert results[0] == results[1]


def test_distances_between_marks_do_not_change(machine):
    before = [(zone.pages_low - zone.pages_min, zone.pages_high - zone.pages_low) for zone in machine.pa.zones]
    machine.pa.adjust_memalloc_reserve(500)
    assert before == [(zone.pages_low - zone.pages_min, zone.pages_high - zone.pages_low) for zone in machine.pa.zones]


def test_overcommit_counts_the_pool(machine):
    before = machine.pa.totalreserve_pages
    machine.pa.adjust_memalloc_reserve(500)
    assert machine.pa.totalreserve_pages == before + 500


def test_a_pool_of_one_page_on_two_zones_rounds_to_nothing(machine):
    machine.pa.adjust_memalloc_reserve(1)
    assert sum(zone.pages_emerg for zone in machine.pa.zones) == 0 and machine.pa.var_free_kbytes == 4


def test_b08_highmem_zones_have_a_pool_without_a_reserve():
    with ground(1024 * MIB, fixes="none", arch="i386") as machine:
        assert [zone.pages_emerg for zone in machine.pa.zones] == [0, 0, 32]
    with ground(1024 * MIB, arch="i386") as machine:
        machine.pa.adjust_memalloc_reserve(1000)
        assert machine.pa.zones[2].pages_emerg == 0
        assert sum(zone.pages_emerg for zone in machine.pa.zones) in (999, 1000)


def test_the_failure_report_says_more(machine):
    machine.starve()
    machine.pa.alloc_page(g.GFP_ATOMIC)
    assert machine.kernel.printk.buffer[-1][2] == (
        f"init: page allocation failure. order:0, mode:0x20, alloc_flags:0x7, pflags:0x{machine.task.flags:x}"
    )


def test_off_the_failure_report_is_the_bases():
    with ground(2 * MIB, "all,-8") as machine:
        machine.starve()
        machine.pa.alloc_page(g.GFP_ATOMIC)
        assert machine.kernel.printk.buffer[-1][2] == "init: page allocation failure. order:0, mode:0x20"


@pytest.mark.parametrize(("patches", "shown"), [("all", True), ("all,-8", False)])
def test_shown_marks_are_sums(patches, shown):
    with ground(32 * MIB, patches) as machine:
        machine.pa.adjust_memalloc_reserve(200)
        info = ShowMem(machine.kernel, machine.pa).zoneinfo()
        assert "emerg" not in info
        assert ("min      190" in info) == shown
        assert ("min:760kB low:848kB high:940kB" in ShowMem(machine.kernel, machine.pa).show_free_areas()) == shown


def test_the_new_size_is_logged(machine):
    machine.pa.adjust_memalloc_reserve(100)
    assert machine.kernel.printk.buffer[-1][2].endswith("400")


def test_resizing_is_serialized(machine):
    """A second caller waits until the first one's probe is through."""
    order = []
    machine.starve(300)
    sched = machine.kernel.sched

    def reclaim():
        order.append("reclaims")
        sched.schedule_timeout(1)
        return machine.give_back(2000)

    machine.script(reclaim)

    def body(name, pages):
        def run():
            order.append((name, machine.pa.adjust_memalloc_reserve(pages)))

        return run

    first = sched.spawn("first", body("first", 500))
    second = sched.spawn("second", body("second", 10))
    sched.join(first)
    sched.join(second)
    assert order == ["reclaims", ("first", 0), ("second", 0)] and machine.pa.var_free_kbytes == 2040


def test_a_refused_size_is_not_logged(machine):
    machine.pa.fail_page_alloc = FailPageAlloc(machine.kernel, ignore_gfp_wait=False, min_order=0, times=1)
    machine.pa.adjust_memalloc_reserve(100)
    assert not any("Emergency reserve" in text for _, _, text in machine.kernel.printk.buffer)


@pytest.mark.parametrize(("patches", "pool"), [("all", 500), ("all,-8", 0)])
def test_the_atomic_hog(patches, pool):
    """D.2 by the leaky driver: emergency + 3/8 min is left, or 3/8 min."""
    with slab_ground(patches=patches) as sg:
        assert sg.pa.adjust_memalloc_reserve(1000) == 0
        AtomicHog(sg.slub).hog()
        left = [zone.free_pages for zone in sg.pa.zones[:2]]
        marks = [zone.pages_min - zone.pages_min // 2 for zone in sg.pa.zones[:2]]
        floors = [mark - mark // 4 for mark in marks]
        assert left == [pool + floors[0] + 16, pool + floors[1]]


@pytest.mark.parametrize(("mark", "ok"), [(16, True), (18, False)])
def test_the_pool_has_no_part_in_the_loop_over_smaller_blocks(machine, mark, ok):
    """For order 3, of 16 pages in larger blocks 9 count. They must be more than the mark's half, not than the pool of 500."""
    zone = machine.pa.zones[1]
    assert machine.pa.adjust_memalloc_reserve(1000) == 0
    zone.free_pages = 1000
    zone.free_area = [dict.fromkeys(range(1000 - 16)), {}, {}, {}, {1000: None}, *({} for _ in range(6))]
    assert zone.zone_watermark_ok(3, mark, 1, 0) is ok


def test_a_reader_of_the_marks_adds_no_pool_of_its_own(machine):
    """pages_min itself is what it was: only the test and what people see add the pool."""
    before = [(zone.pages_min, zone.pages_low, zone.pages_high) for zone in machine.pa.zones]
    machine.pa.adjust_memalloc_reserve(1000)
    assert before == [(zone.pages_min, zone.pages_low, zone.pages_high) for zone in machine.pa.zones]


def test_every_node_is_probed():
    topo = topology(2, 1)
    kernel = Kernel()
    try:
        pa = NumaPageAllocator(kernel, 32 * MIB, topo=topo)
        probed = []
        real = pa.alloc_pages_node
        pa.alloc_pages_node = lambda nid, gfp, order=0: (probed.append((nid, gfp, order)), real(nid, gfp, order))[1]
        assert pa.adjust_memalloc_reserve(100) == 0
        assert probed == [(0, g.GFP_KERNEL, 0), (1, g.GFP_KERNEL, 0)]
        assert sum(zone.pages_emerg for zone in pa.zones) in range(100 - len(pa.zones), 101)
        pa.check()
    finally:
        kernel.shutdown()
