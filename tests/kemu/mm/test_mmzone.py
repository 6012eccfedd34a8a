"""Zones: layouts, zonelists, the watermark test, marks after boot."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError, KernelBug
from kemu.mm import gfp as g
from kemu.mm.mmzone import WMARK_FLAGS, Node, zone_layout
from kemu.patches import PatchSet
from mm_ground import MIB, ground


def layout(mem, arch="x86_64"):
    return [(zone.name, zone.present_pages) for zone in zone_layout(mem, arch, PatchSet.all())]


@pytest.mark.parametrize(
    ("arch", "mem", "zones"),
    [
        ("x86_64", 8 * MIB, [("DMA", 2048), ("DMA32", 0), ("NORMAL", 0)]),
        ("x86_64", 128 * MIB, [("DMA", 4096), ("DMA32", 28672), ("NORMAL", 0)]),
        ("x86_64", 6144 * MIB, [("DMA", 4096), ("DMA32", 1044480), ("NORMAL", 524288)]),
        ("i386", 1024 * MIB, [("DMA", 4096), ("NORMAL", 225280), ("HIGHMEM", 32768)]),
    ],
)
def test_memory_is_cut_into_the_architectures_zones(arch, mem, zones):
    assert layout(mem, arch) == zones


def test_unknown_architectures_and_no_memory_are_refused():
    with pytest.raises(ConfigError, match="x86_64, i386"):
        layout(MIB, "vax")
    with pytest.raises(ConfigError, match="at least one page"):
        layout(4095)


def zonelist(arch, mem, gfp):
    node = Node(0, zone_layout(mem, arch, PatchSet.all()))
    return [zone.name for zone in node.zonelists[gfp & g.GFP_ZONEMASK]]


@pytest.mark.parametrize(
    ("arch", "gfp", "zones"),
    [
        ("x86_64", g.GFP_KERNEL, ["NORMAL", "DMA32", "DMA"]),
        ("x86_64", g.GFP_HIGHUSER, ["NORMAL", "DMA32", "DMA"]),
        ("x86_64", g._GFP_DMA32, ["DMA32", "DMA"]),
        ("x86_64", g.GFP_DMA, ["DMA"]),
        ("i386", g.GFP_HIGHUSER, ["HIGHMEM", "NORMAL", "DMA"]),
        ("i386", g.GFP_KERNEL, ["NORMAL", "DMA"]),
    ],
)
def test_requests_try_the_highest_zone_first(arch, gfp, zones):
    assert zonelist(arch, 5000 * MIB, gfp) == zones


def test_empty_zones_are_on_no_list():
    assert zonelist("x86_64", 32 * MIB, g.GFP_KERNEL) == ["DMA32", "DMA"]


# zone_watermark_ok


def zone_of(pages, mark_min=0, emerg=0, patches="all"):
    zone = zone_layout(16 * MIB, "x86_64", PatchSet.parse(patches))[0]
    zone.free_pages = pages
    zone.free_area[0] = dict.fromkeys(range(pages))
    zone.pages_min, zone.pages_low, zone.pages_high = mark_min, mark_min + mark_min // 4, mark_min + mark_min // 2
    zone.pages_emerg = emerg
    zone.recompute_floor()
    return zone


@pytest.mark.parametrize(
    ("alloc_flags", "threshold"),
    [(0, 362), (g.ALLOC_HIGH, 181), (g.ALLOC_HARDER, 272), (g.ALLOC_HIGH | g.ALLOC_HARDER, 136)],
)
def test_the_mark_must_be_exceeded(alloc_flags, threshold):
    """The comparison is strict, and discounts multiply."""
    assert not zone_of(threshold).zone_watermark_ok(0, 362, 0, alloc_flags)
    assert zone_of(threshold + 1).zone_watermark_ok(0, 362, 0, alloc_flags)


def test_no_discount_erodes_the_emergency_pool():
    every = g.ALLOC_HIGH | g.ALLOC_HARDER
    assert not zone_of(1136, emerg=1000).zone_watermark_ok(0, 362, 0, every)
    assert zone_of(1137, emerg=1000).zone_watermark_ok(0, 362, 0, every)


def test_without_patch_08_there_is_no_emergency_pool():
    assert zone_of(137, emerg=1000, patches="all,-8").zone_watermark_ok(0, 362, 0, g.ALLOC_HIGH | g.ALLOC_HARDER)


def test_lowmem_reserve_holds_for_higher_class_zones_only():
    zone = zone_of(120)
    zone.lowmem_reserve = [0, 112, 112]
    zone.recompute_floor()
    assert zone.zone_watermark_ok(0, 100, 0, 0)
    assert not zone.zone_watermark_ok(0, 100, 1, 0)


def test_smaller_blocks_do_not_count_for_a_large_one():
    """96 single pages satisfy order 0 and say nothing about order 1; the mark halves with every order."""
    zone = zone_of(96)
    assert zone.zone_watermark_ok(0, 40, 0, 0) and not zone.zone_watermark_ok(1, 40, 0, 0)
    zone.free_area[1] = dict.fromkeys(range(1000, 1022, 2))
    zone.free_pages += 22  # 11 blocks: 21 pages besides the block's other one, more than half of 40
    assert zone.zone_watermark_ok(1, 40, 0, 0)
    assert not zone.zone_watermark_ok(1, 42, 0, 0)


def test_the_order_loop_knows_no_emergency_pool():
    zone = zone_of(2000, emerg=1500)
    zone.free_area[1] = {4000: None, 4002: None}
    zone.free_pages += 4
    assert zone.zone_watermark_ok(1, 4, 0, 0)


blocks = st.lists(st.integers(0, 20), min_size=4, max_size=4)


@settings(max_examples=100, deadline=None)
@given(blocks, st.integers(0, 60), st.integers(0, 20), st.integers(0, 3), st.integers(0, WMARK_FLAGS), st.sampled_from([0, 1]))
def test_thresholds_agree_with_the_watermark_test(counts, mark, emerg, order, alloc_flags, classzone_idx):
    zone = zone_of(0, mark, emerg)
    zone.lowmem_reserve = [0, 7, 7]
    zone.recompute_floor()
    zone.free_area = [dict.fromkeys(range(count)) for count in counts]
    zone.free_pages = sum(count << order_ for order_, count in enumerate(counts))
    name = (
        zone.pages_min
        if alloc_flags & g.ALLOC_WMARK_MIN
        else zone.pages_low
        if alloc_flags & g.ALLOC_WMARK_LOW
        else zone.pages_high
    )
    assert zone.allows(order, classzone_idx, alloc_flags) == zone.zone_watermark_ok(order, name, classzone_idx, alloc_flags)


# marks of a machine


def test_marks_of_a_128_mib_machine():
    """The zones' shares of 362, rounded down each."""
    with ground(128 * MIB) as g128:
        pa = g128.pa
        assert pa.min_free_kbytes == 1448
        assert [zone.pages_min for zone in pa.zones] == [45, 316, 0]
        assert pa.zones[0].lowmem_reserve == [0, 112, 112]
        assert pa.totalreserve_pages == (112 + 67) + 474


def test_zones_of_the_main_job_have_no_per_cpu_lists():
    with ground(32 * MIB) as g32:
        assert [(zone.hot[0].high, zone.hot[0].batch) for zone in g32.pa.zones[:2]] == [(0, 1), (0, 1)]


def test_per_cpu_lists_of_a_gibibyte():
    with ground(1024 * MIB, ncpus=2) as machine:
        zone = machine.pa.zones[1]
        assert [(pcp.high, pcp.batch) for pcp in (*zone.hot, *zone.cold)] == [(186, 31)] * 2 + [(62, 15)] * 2


def test_a_highmem_zone_has_marks_for_migration_only():
    with ground(1024 * MIB, arch="i386") as machine:
        dma, normal, high = machine.pa.zones
        assert machine.pa.min_free_kbytes == 3831
        assert high.pages_min == 32 and high.pages_low == 32 + 957 * 32768 // 229376 // 4
        assert dma.lowmem_reserve[2] == (225280 + 32768) // 256 and normal.lowmem_reserve == [0, 0, 1024]


def test_check_finds_marks_out_of_order():
    zone = zone_of(0)
    zone.pages_low, zone.pages_min = 3, 4
    with pytest.raises(KernelBug, match="out of order"):
        zone.check()


def test_check_finds_a_wrong_count():
    zone = zone_of(8)
    zone.free_pages = 9
    with pytest.raises(KernelBug, match="lists hold 8"):
        zone.check()


def test_check_finds_a_negative_reserve():
    zone = zone_of(0)
    zone.pages_emerg = -1
    with pytest.raises(KernelBug, match="negative reserve"):
        zone.check()


@pytest.mark.parametrize(("pfn", "what"), [(1, "not aligned"), (4096, "outside")])
def test_check_finds_misplaced_blocks(pfn, what):
    zone = zone_of(0)
    zone.free_area[1] = {pfn: None}
    zone.free_pages = 2
    with pytest.raises(KernelBug, match=what):
        zone.check()
