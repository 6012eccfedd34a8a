"""Memory that comes while the machine runs; patch 07's race is in tests/patches/test_p07_serialize_min_free.py."""

from __future__ import annotations

import pytest

from kemu import Machine, MachineConfig
from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST, EINVAL
from kemu.mm import gfp as g
from kemu.mm.memory_hotplug import MemoryHotplug
from kemu.mm.mempolicy import MPOL_BIND
from kemu.mm.watermark import zone_marks
from mm_ground import MIB, ground

SECTION = 128 * MIB >> 12


@pytest.fixture
def machine():
    with ground(32 * MIB) as machine:
        yield machine
        machine.pa.check()


def add(machine, section=1, sections=1, nid=0):
    return MemoryHotplug(machine.pa).online_pages(nid, section * SECTION, sections * SECTION)


def test_it_goes_to_normal_and_is_had_at_once(machine):
    assert add(machine) == 0
    normal = machine.pa.zones[2]
    assert (normal.present_pages, normal.free_pages, normal.start_pfn) == (SECTION, SECTION, SECTION)
    assert machine.pa.alloc_page(g.GFP_KERNEL).zone is normal
    assert machine.pa.total_pages == 8192 + SECTION


def test_on_i386_it_is_highmem():
    with ground(64 * MIB, arch="i386") as machine:
        assert MemoryHotplug(machine.pa).online_pages(0, SECTION, SECTION // 2) == 0
        assert machine.pa.zones[2].present_pages == SECTION // 2 and machine.pa.zones[2].highmem
        assert machine.pa.alloc_page(g.GFP_KERNEL).zone.name == "NORMAL"
        assert machine.pa.alloc_page(g.GFP_HIGHUSER).zone.name == "HIGHMEM"
        machine.pa.check()


def test_who_holds_a_zonelist_sees_it():
    with ground(32 * MIB) as machine:
        zonelist = machine.pa.zonelist
        add(machine)
        assert [zone.name for zone in zonelist] == ["NORMAL", "DMA32", "DMA"]


def test_all_marks_are_recomputed(machine):
    add(machine)
    lowmem = 8192 + SECTION
    assert machine.pa.min_free_kbytes == 724
    for zone in machine.pa.zones:
        assert (zone.pages_min, zone.pages_low, zone.pages_high) == zone_marks(zone.present_pages, lowmem, 724)
    assert machine.pa.totalreserve_pages == sum(zone.pages_high + max(zone.lowmem_reserve) for zone in machine.pa.zones)


def test_what_2623_forgets_stays_as_it_was(machine):
    """lowmem_reserve, and lists of one page for a zone that was empty."""
    before = [list(zone.lowmem_reserve) for zone in machine.pa.zones]
    add(machine)
    assert [zone.lowmem_reserve for zone in machine.pa.zones] == before
    assert [(pcp.high, pcp.batch) for pcp in machine.pa.zones[2].hot] == [(0, 1)]


def test_the_sysctl_of_the_ratio_mends_it(machine):
    add(machine)
    machine.kernel.sysctl.write("vm.lowmem_reserve_ratio", "256 256 32")
    assert machine.pa.zones[1].lowmem_reserve == [0, 0, SECTION // 256]


def test_a_second_section_grows_the_zone_over_a_hole(machine):
    assert add(machine, 4) == 0 and add(machine, 2) == 0
    normal = machine.pa.zones[2]
    assert (normal.start_pfn, normal.spanned_pages, normal.present_pages) == (2 * SECTION, 3 * SECTION, 2 * SECTION)
    with pytest.raises(KernelBug, match="not in memory"):
        machine.pa.pfn_to_page(3 * SECTION)
    assert len(machine.take()) > 2 * SECTION
    assert all(not 3 * SECTION <= page.pfn < 4 * SECTION for page in machine.held)
    machine.give_back()
    assert machine.pa.nr_free_pages() == machine.pa.total_pages


@pytest.mark.parametrize(
    ("start", "pages"),
    [(1, SECTION), (SECTION, SECTION - 1), (SECTION, 0), (SECTION, -SECTION), (-SECTION, SECTION), (SECTION // 2, SECTION)],
)
def test_what_is_no_section_is_refused(machine, start, pages):
    assert MemoryHotplug(machine.pa).online_pages(0, start, pages) == -EINVAL
    assert machine.pa.total_pages == 8192


@pytest.mark.parametrize("nid", [-1, 1])
def test_a_node_that_is_not_there_is_refused(machine, nid):
    assert add(machine, nid=nid) == -EINVAL


def test_memory_that_is_there_is_refused(machine):
    assert add(machine, 0) == -EEXIST
    assert add(machine, 2) == 0
    assert add(machine, 1, 2) == -EEXIST
    assert machine.pa.total_pages == 8192 + SECTION


def test_it_may_go_to_any_node():
    with ground(64 * MIB, ncpus=2, nodes=2) as machine:
        assert add(machine, 1, nid=1) == 0
        zonelist = machine.pa.nodes[0].zonelists[0]  # in zone order now: most of memory is NORMAL
        assert [(zone.node, zone.name) for zone in zonelist] == [(1, "NORMAL"), (0, "DMA32"), (1, "DMA32"), (0, "DMA")]
        machine.pa.set_mempolicy(MPOL_BIND, (1,))
        assert machine.pa.alloc_page(g.GFP_KERNEL).zone is machine.pa.nodes[1].zones[2]
        machine.pa.check()


def test_the_emergency_pool_is_shared_out_anew(machine):
    machine.pa.adjust_memalloc_reserve(1000)
    add(machine)
    shares = [1000 * zone.present_pages // (8192 + SECTION) for zone in machine.pa.zones]
    assert [zone.pages_emerg for zone in machine.pa.zones] == shares


def test_a_machine_can_be_given_memory():
    with Machine(MachineConfig(mem=32 * MIB)) as machine:
        hotplug = machine.memory_hotplug
        assert hotplug.online_pages(0, hotplug.section_pages, hotplug.section_pages) == 0
        page = machine.page_alloc.alloc_page(g.GFP_KERNEL)
        assert page.pfn >= hotplug.section_pages
        machine.page_alloc.free_pages(page)
        machine.check()
