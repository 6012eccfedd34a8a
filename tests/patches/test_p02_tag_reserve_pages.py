"""Patch 02: a page says whether it was taken without regard to the marks, until somebody else uses the word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.task import PF_MEMALLOC
from kemu.mm import gfp as g
from mm_ground import MIB, ground
from slab_ground import slab_ground

ENTITLED = g.GFP_ATOMIC | g._GFP_MEMALLOC


@pytest.fixture
def machine():
    with ground(32 * MIB) as machine:
        yield machine


def test_an_entitled_page_below_min_and_a_normal_one(machine):
    normal = machine.pa.alloc_page(g.GFP_ATOMIC)
    machine.take()
    entitled = machine.pa.alloc_page(ENTITLED)
    assert not normal.reserve and entitled.reserve


def test_off_the_tag_reads_0():
    with ground(32 * MIB, "all,-2") as machine:
        machine.take()
        page = machine.pa.alloc_page(ENTITLED)
        page.index = 99
        machine.pa.free_pages(page)
        assert machine.pa.alloc_page(ENTITLED).reserve == 0


@pytest.mark.parametrize("gfp", [ENTITLED, g.GFP_ATOMIC, g.GFP_KERNEL])
@pytest.mark.parametrize("pf", [0, PF_MEMALLOC])
def test_with_ample_memory_nobody_is_tagged(machine, gfp, pf):
    machine.task.flags |= pf
    assert not machine.pa.alloc_page(gfp).reserve
    machine.task.flags &= ~pf


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 130), st.sampled_from([g.GFP_ATOMIC, ENTITLED, g.GFP_NOWAIT | g._GFP_MEMALLOC]), st.integers(0, 2))
def test_the_tag_is_set_iff_the_attempt_that_served_ignored_the_marks(free, gfp, order):
    with ground(32 * MIB) as machine:
        machine.starve(free)
        served = machine.pa.vmstat.alloc_no_watermarks
        page = machine.pa.alloc_pages(gfp | g._GFP_NOWARN, order)
        if page is not None:
            assert bool(page.reserve) == (machine.pa.vmstat.alloc_no_watermarks == served + 1)


def test_the_tag_lives_until_the_first_writer_of_the_word(machine):
    machine.take()
    page = machine.pa.alloc_page(ENTITLED)
    page.mapping, page.private, page.mapcount = object(), 5, 1
    assert page.reserve
    page.index = 0
    assert not page.reserve


def test_only_the_head_of_a_block_is_tagged(machine):
    machine.starve()
    machine.give_back()
    machine.starve()
    for page in machine.held[-2:]:
        page.index = 0
    pages = sorted(machine.held, key=lambda page: page.pfn)
    for page in pages[:2]:
        machine.held.remove(page)
        page.index = 0
        machine.pa.free_pages(page)
    head = machine.pa.alloc_pages(ENTITLED, 1)
    tail = machine.pa.pfn_to_page(head.pfn + 1)
    assert head.reserve and not tail.reserve and tail.pfn in machine.pa.reserve_pfns


def test_tagging_does_not_change_which_page_is_returned():
    pfns = []
    for patches in ("all", "all,-2"):
        with ground(32 * MIB, patches) as machine:
            machine.take()
            pfns.append([machine.pa.alloc_page(ENTITLED).pfn for _ in range(20)])
    assert pfns[0] == pfns[1]


def test_no_tag_survives_from_the_pages_previous_life(machine):
    machine.take()
    page = machine.pa.alloc_page(ENTITLED)
    machine.pa.free_pages(page)
    machine.give_back()
    machine.kernel.sysctl.write("vm.min_free_kbytes", "0")
    again = machine.take()
    assert page in again and not any(each.reserve for each in again)


def test_reserve_pages_are_remembered_outside_the_struct(machine):
    machine.take()
    page = machine.pa.alloc_page(ENTITLED)
    page.index = 0  # a new user of the word
    assert list(machine.pa.reserve_pfns) == [page.pfn]
    machine.pa.free_pages(page)
    assert not machine.pa.reserve_pfns


def test_off_all_tags_are_false():
    """D.2, the other side: one entitled page below min, one normal page."""
    with ground(32 * MIB, "all,-2") as machine:
        normal = machine.pa.alloc_page(g.GFP_ATOMIC)
        machine.take()
        entitled = machine.pa.alloc_page(ENTITLED)
        assert not normal.reserve and not entitled.reserve


def test_a_reclaimer_that_is_served_by_the_second_attempt_has_an_ordinary_page(machine):
    """Part F, 3: by the attempt that got it, not by the free count: below pages_low, and no tag."""
    machine.task.flags |= PF_MEMALLOC
    machine.starve(100)
    zone = machine.pa.zones[1]
    assert zone.pages_min * 3 // 8 < zone.free_pages < zone.pages_low
    before = machine.pa.vmstat.alloc_no_watermarks
    page = machine.pa.alloc_page(g.GFP_ATOMIC)
    assert not page.reserve and machine.pa.vmstat.alloc_no_watermarks == before
    machine.task.flags &= ~PF_MEMALLOC


def test_the_tag_is_the_masked_flag_and_a_truth_value(machine):
    machine.take()
    assert machine.pa.alloc_page(ENTITLED).reserve == g.ALLOC_NO_WATERMARKS


@pytest.mark.parametrize("entitled", [False, True])
def test_a_slab_page_has_lost_its_tag_to_the_freelist(entitled):
    """What SLUB writes there is true for any page, tagged or not: it must read the tag before."""
    with slab_ground() as sg:
        if entitled:
            sg.floor()
        address = sg.entitled_kmalloc(64) if entitled else sg.slub.kmalloc(64, g.GFP_ATOMIC)
        page = sg.pa.virt_to_page(address)
        assert page.reserve == page.freelist
        assert (page.pfn in sg.pa.reserve_pfns) is entitled


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["entitled", "atomic", "free", "index"]), st.integers(0, 30)), max_size=60))
def test_each_allocation_tags_its_page_anew(steps):
    """Invariants a and f, for any history of the pages at the floor."""
    with ground(2 * MIB) as machine:
        machine.starve(12)
        pages = []
        for what, place in steps:
            if what == "free" and pages:
                machine.pa.free_pages(pages.pop(place % len(pages)))
            elif what == "index" and pages:
                pages[place % len(pages)].index = place
            elif what in ("entitled", "atomic"):
                before = machine.pa.vmstat.alloc_no_watermarks
                page = machine.pa.alloc_page((ENTITLED if what == "entitled" else g.GFP_ATOMIC) | g._GFP_NOWARN)
                if page is not None:
                    assert bool(page.reserve) == (machine.pa.vmstat.alloc_no_watermarks > before)
                    assert bool(page.reserve) == (page.pfn in machine.pa.reserve_pfns)
                    assert what == "entitled" or not page.reserve
                    pages.append(page)
        for page in pages:
            machine.pa.free_pages(page)
        machine.pa.drain_pages(0)
        assert not machine.pa.reserve_pfns
        machine.pa.check()
