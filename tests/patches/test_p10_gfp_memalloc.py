"""Patch 10: entitlement of one request, in every context."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.task import PF_MEMALLOC, TIF_MEMDIE
from kemu.mm import gfp as g
from kemu.mm.hog import AtomicHog
from mm_ground import MIB, ground
from slab_ground import slab_ground

PROCESS, SOFTIRQ, HARDIRQ = 0, 1 << 8, 1 << 16


@pytest.fixture(scope="module")
def machines():
    """The series, the series without patch 01 (which must not matter here), and without patch 10."""
    with ground(2 * MIB) as on, ground(2 * MIB, "all,-1") as inline, ground(2 * MIB, "all,-10") as off:
        for machine in (on, inline, off):
            machine.starve(1)
        yield on, inline, off


def expected(nomemalloc, memalloc, context, pf, tif):
    """The table of precedence: the first row that fits."""
    if nomemalloc:
        return False
    if memalloc:
        return True
    if context != HARDIRQ and pf:
        return True
    return context == PROCESS and bool(tif)


def served(machine, gfp, context, pf, tif):
    """Tell whether a request in that state gets the last page; put it back."""
    task = machine.task
    flags = task.flags
    task.flags, task.thread_flags = flags | pf, tif
    with machine.preempt_count(context):
        page = machine.pa.alloc_page(gfp | g._GFP_NOWARN)
    task.flags, task.thread_flags = flags, 0
    if page is None:
        return False
    machine.pa.free_pages(page)
    return True


@pytest.mark.parametrize(
    ("nomemalloc", "memalloc", "context", "pf", "tif"),
    list(product([0, g._GFP_NOMEMALLOC], [0, g._GFP_MEMALLOC], [PROCESS, SOFTIRQ, HARDIRQ], [0, PF_MEMALLOC], [0, TIF_MEMDIE])),
)
def test_the_truth_table(machines, nomemalloc, memalloc, context, pf, tif):
    on, inline, off = machines
    gfp = g.GFP_ATOMIC | nomemalloc | memalloc
    entitled = expected(nomemalloc, memalloc, context, pf, tif)
    assert served(on, gfp, context, pf, tif) == entitled
    assert served(inline, gfp, context, pf, tif) == entitled
    assert served(off, gfp, context, pf, tif) == expected(nomemalloc, 0, context, pf, tif)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, g.GFP_BITS_MASK), st.sampled_from([PROCESS, SOFTIRQ, HARDIRQ]), st.sampled_from([0, PF_MEMALLOC]))
def test_nomemalloc_beats_memalloc(machines, gfp, context, pf):
    on = machines[0]
    flags = on.task.flags
    on.task.flags |= pf
    with on.preempt_count(context):
        both = on.pa.gfp_to_alloc_flags(gfp | g._GFP_MEMALLOC | g._GFP_NOMEMALLOC)
        assert both == on.pa.gfp_to_alloc_flags((gfp | g._GFP_NOMEMALLOC) & ~g._GFP_MEMALLOC)
    on.task.flags = flags


@settings(max_examples=50, deadline=None)
@given(st.integers(0, g.GFP_BITS_MASK))
def test_off_the_bit_is_0(machines, gfp):
    off = machines[2]
    assert off.pa.gfp_to_alloc_flags(gfp | g._GFP_MEMALLOC) == off.pa.gfp_to_alloc_flags(gfp & ~g._GFP_MEMALLOC)


def test_with_ample_memory_the_bit_makes_no_difference():
    pages = []
    for gfp in (g.GFP_ATOMIC, g.GFP_ATOMIC | g._GFP_MEMALLOC):
        with ground(32 * MIB) as machine:
            taken = [machine.pa.alloc_page(gfp) for _ in range(100)]
            pages.append([(page.pfn, page.reserve) for page in taken])
            assert not machine.pa.reserve_pfns
    assert pages[0] == pages[1]


@pytest.mark.parametrize("patches", ["all", "all,-1"])
def test_an_entitled_request_that_could_wait_does_not_reclaim(patches):
    """It trades reclaim for immediacy: the last page, then NULL."""
    with ground(2 * MIB, patches) as machine:
        machine.starve(1)
        reclaim = machine.script()
        gfp = g.GFP_KERNEL | g._GFP_MEMALLOC | g._GFP_NOWARN
        assert machine.pa.alloc_page(gfp) is not None and machine.pa.alloc_page(gfp) is None
        assert "reclaim" not in reclaim.calls


def test_slub_would_drop_the_bit_without_the_other_half():
    assert g.GFP_RECLAIM_MASK & g._GFP_MEMALLOC and not g.GFP_RECLAIM_MASK_BASE & g._GFP_MEMALLOC


def test_the_ack_of_a_swap_socket_at_the_floor():
    """In a softirq, without PF_MEMALLOC."""
    for patches, got in (("all", True), ("all,-10", False)):
        with ground(2 * MIB, patches) as machine:
            machine.take()
            with machine.preempt_count(SOFTIRQ):
                page = machine.pa.alloc_page(g.GFP_ATOMIC | g._GFP_MEMALLOC | g._GFP_NOWARN)
            assert (page is not None) is got


@pytest.mark.parametrize(("patches", "passed"), [("all", g._GFP_MEMALLOC), ("all,-10", 0)])
def test_the_bit_survives_the_way_through_slub(patches, passed):
    """Invariant c: kmalloc -> new_slab -> alloc_pages."""
    with slab_ground(patches=patches) as sg:
        seen = []
        real = sg.pa.alloc_pages

        def alloc_pages(gfp, order=0):
            seen.append(gfp)
            return real(gfp, order)

        sg.pa.alloc_pages = alloc_pages
        assert sg.slub.kmalloc(64, g.GFP_ATOMIC | g._GFP_MEMALLOC) is not None
        assert len(seen) == 1 and seen[0] & g._GFP_MEMALLOC == passed


@pytest.mark.parametrize(("patches", "served"), [("all", True), ("all,-10", False)])
def test_kmalloc_for_a_swap_socket_at_the_floor(patches, served):
    with slab_ground(patches=patches) as sg:
        AtomicHog(sg.slub).hog()
        assert (sg.slub.kmalloc(64, g.GFP_ATOMIC | g._GFP_MEMALLOC | g._GFP_NOWARN) is not None) is served


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 130), st.sampled_from([g.GFP_ATOMIC, g.GFP_NOWAIT, g.GFP_NOIO, g.GFP_KERNEL]), st.integers(0, 1))
def test_an_entitled_request_never_reclaims_and_tags_only_what_violates_a_mark(free, gfp, order):
    """Invariants d and f; part F, 2: a page from the reserve or NULL, at once."""
    with ground(32 * MIB) as machine:
        machine.starve(free)
        reclaim = machine.script(patience=0)
        before = machine.pa.vmstat.alloc_no_watermarks
        page = machine.pa.alloc_pages(gfp | g._GFP_MEMALLOC | g._GFP_NOWARN, order)
        assert not [call for call in reclaim.calls if not call.startswith("kswapd")]
        if page is not None:
            assert bool(page.reserve) == (machine.pa.vmstat.alloc_no_watermarks > before)
        elif not order:
            assert machine.pa.nr_free_pages() == 0


def test_memalloc_does_not_make_a_reclaimer_of_the_task(machines):
    on = machines[0]
    page = on.pa.alloc_page(g.GFP_ATOMIC | g._GFP_MEMALLOC)
    assert not on.task.flags & PF_MEMALLOC
    on.pa.free_pages(page)
