"""Patch 01: who may take how much is asked once, and can be asked from outside."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.task import PF_MEMALLOC, TIF_MEMDIE
from kemu.mm import gfp as g
from kemu.mm.mempool import mempool_create_page_pool
from mm_ground import MIB, GaveUpError, ground
from slab_ground import slab_ground

SOFTIRQ, HARDIRQ = 1 << 8, 1 << 16
ALONE = "1"
gfps = st.lists(
    st.sampled_from(
        [
            g._GFP_WAIT,
            g._GFP_HIGH,
            g._GFP_IO,
            g._GFP_FS,
            g._GFP_REPEAT,
            g._GFP_NOFAIL,
            g._GFP_NORETRY,
            g._GFP_NOMEMALLOC,
            g._GFP_MEMALLOC,
        ]
    ),
    max_size=6,
).map(lambda bits: g._GFP_NOWARN | sum(set(bits)))


@pytest.fixture(scope="module")
def on():
    with ground(32 * MIB) as machine:
        yield machine


@pytest.mark.parametrize(
    ("gfp", "memalloc", "flags"),
    [
        (g.GFP_KERNEL, False, 0x44),
        (g.GFP_ATOMIC, False, 0x07),
        (g.GFP_NOWAIT, False, 0x05),
        (g.GFP_NOIO, False, 0x44),
        (g.GFP_KERNEL, True, 0x64),
        (g.GFP_ATOMIC | g._GFP_NOMEMALLOC, True, 0x07),
    ],
)
def test_sample_values(gfp, memalloc, flags):
    with ground(2 * MIB, ALONE) as machine:
        machine.task.flags |= PF_MEMALLOC if memalloc else 0
        assert machine.pa.gfp_to_alloc_flags(gfp) == flags


@settings(max_examples=50, deadline=None)
@given(
    gfps,
    st.sampled_from([0, PF_MEMALLOC]),
    st.sampled_from([0, TIF_MEMDIE]),
    st.sampled_from([0, 1, SOFTIRQ, HARDIRQ]),
    st.booleans(),
)
def test_the_answer_has_no_side_effects_and_obeys_the_table(on, gfp, pf, tif, context, rt):
    task = on.task
    task.flags, task.thread_flags, task.rt = task.flags & ~PF_MEMALLOC | pf, tif, rt
    with on.preempt_count(context):
        before = (task.flags, task.thread_flags, on.kernel.sched.cpu.preempt_count, on.pa.nr_free_pages())
        flags = on.pa.gfp_to_alloc_flags(gfp)
        assert flags == on.pa.gfp_to_alloc_flags(gfp)
        assert before == (task.flags, task.thread_flags, on.kernel.sched.cpu.preempt_count, on.pa.nr_free_pages())
    assert bool(flags & g.ALLOC_CPUSET) == bool(gfp & g._GFP_WAIT)
    assert flags & g.ALLOC_WMARK_MIN and not flags & (g.ALLOC_WMARK_LOW | g.ALLOC_WMARK_HIGH)
    assert bool(flags & g.ALLOC_HIGH) == bool(gfp & g._GFP_HIGH)
    assert bool(flags & g.ALLOC_HARDER) == (not gfp & g._GFP_WAIT or (rt and context in (0, 1)))
    if gfp & g._GFP_NOMEMALLOC:
        assert not flags & g.ALLOC_NO_WATERMARKS
    task.flags, task.thread_flags, task.rt = task.flags & ~PF_MEMALLOC, 0, False


def attempts(machine, gfp):
    """Return the (alloc_flags, served) of every attempt of one request, and what reclaim was asked."""
    seen = []
    real = machine.pa.get_page_from_freelist

    def spy(gfp, order, zonelist, alloc_flags):
        page = real(gfp, order, zonelist, alloc_flags)
        seen.append((alloc_flags, page is not None))
        return page

    machine.pa.get_page_from_freelist = spy
    reclaim = machine.script(lambda: 1, lambda: 0, lambda: machine.give_back(400), patience=2)
    try:
        page = machine.pa.alloc_page(gfp)
    except GaveUpError:
        page = "loops"
    return seen, reclaim.calls, page if isinstance(page, str) else page is not None


@settings(max_examples=50, deadline=None)
@given(gfps, st.sampled_from([0, 40, 70, 100, 150]))
def test_without_entitlement_the_slow_path_goes_as_in_the_base(gfp, free):
    gfp &= ~g._GFP_MEMALLOC
    histories = []
    for patches in ("all", "all,-1"):
        with ground(32 * MIB, patches) as machine:
            machine.starve(free)
            histories.append(attempts(machine, gfp))
    assert histories[0] == histories[1]


@settings(max_examples=50, deadline=None)
@given(gfps, st.sampled_from([0, PF_MEMALLOC]), st.sampled_from([0, TIF_MEMDIE]), st.sampled_from(["all", "all,-1", "1", "none"]))
def test_the_first_two_attempts_never_ignore_the_marks(gfp, pf, tif, patches):
    with ground(2 * MIB, patches) as machine:
        machine.starve(1)
        machine.task.flags |= pf
        machine.task.thread_flags |= tif
        seen, calls, _ = attempts(machine, gfp)
    assert not any(flags & g.ALLOC_NO_WATERMARKS for flags, _ in seen[:2])
    if pf or (tif and not gfp & g._GFP_NOMEMALLOC):
        assert "reclaim" not in calls


# What a test can see of the difference


def outcome(patches, gfp, *, pf=0, tif=0, fixes="all", patience=3):
    with ground(2 * MIB, patches, fixes) as machine:
        machine.starve()
        machine.task.flags |= pf
        machine.task.thread_flags |= tif
        reclaim = machine.script(patience=patience)
        try:
            result = machine.pa.alloc_page(gfp | g._GFP_NOWARN)
        except GaveUpError:
            result = "loops"
        return result, [call for call in reclaim.calls if not call.startswith("kswapd")]


@pytest.mark.parametrize("patches", ["all", "all,-1"])
def test_memalloc_task_with_nomemalloc_gets_null_at_once(patches):
    assert outcome(patches, g.GFP_KERNEL | g._GFP_NOMEMALLOC, pf=PF_MEMALLOC) == (None, [])


def test_a_dying_task_with_nomemalloc_reclaims_since_patch_01():
    gfp = g.GFP_KERNEL | g._GFP_NOMEMALLOC | g._GFP_NORETRY
    assert outcome("all", gfp, tif=TIF_MEMDIE) == (None, ["reclaim"])
    assert outcome("all,-1", gfp, tif=TIF_MEMDIE) == (None, [])


def test_nofail_without_wait_no_longer_sleeps():
    gfp = g.GFP_ATOMIC | g._GFP_NOFAIL
    assert outcome("all", gfp, pf=PF_MEMALLOC) == (None, [])
    assert outcome("all,-1", gfp, pf=PF_MEMALLOC) == ("loops", ["wait 5"] * 4)


@pytest.mark.parametrize(("patches", "fixes", "notices"), [("all", "none", False), ("all", "all", True), ("all,-1", "none", True)])
def test_a_victim_notices_on_its_next_lap_except_in_v14(patches, fixes, notices):
    """B01: entitlement is what it was at restart, so the victim of the OOM killer goes on reclaiming beside the reserve."""
    with ground(32 * MIB, patches, fixes) as machine:
        machine.starve(20)
        reclaim = machine.script(lambda: 1, lambda: 1, patience=1)

        def killed():
            machine.task.thread_flags |= TIF_MEMDIE

        reclaim.on_wait = killed
        if notices:
            assert machine.pa.alloc_page(g.GFP_NOFS) is not None
            assert reclaim.calls[2:] == ["reclaim", "wait 5"]
        else:
            with pytest.raises(GaveUpError):
                machine.pa.alloc_page(g.GFP_NOFS)
            assert reclaim.calls[2:] == ["reclaim", "wait 5"] * 2


@pytest.mark.parametrize("fixes", ["all", "none"])
def test_a_restart_notices_in_any_case(fixes):
    with ground(32 * MIB, "all", fixes) as machine:
        machine.starve(20)
        reclaim = machine.script(patience=1)

        def killed():
            machine.task.thread_flags |= TIF_MEMDIE

        reclaim.on_oom = killed
        assert machine.pa.alloc_page(g.GFP_KERNEL) is not None


def test_in_interrupt_memalloc_only_discounts_without_patch_06():
    with ground(2 * MIB, "1") as machine:
        machine.task.flags |= PF_MEMALLOC
        with machine.preempt_count(SOFTIRQ):
            assert machine.pa.gfp_to_alloc_flags(g.GFP_ATOMIC) == 0x07


# entitled(): the question of SLUB and mempools


@pytest.mark.parametrize(("patches", "answer"), [("all", True), ("all,-1", False)])
def test_without_the_patch_nobody_outside_is_told_of_his_entitlement(patches, answer):
    """The allocator itself still serves kswapd from the reserve."""
    with ground(2 * MIB, patches) as machine:
        machine.starve(1)
        machine.task.flags |= PF_MEMALLOC
        assert machine.pa.entitled(g.GFP_NOIO) is answer
        assert machine.pa.alloc_page(g.GFP_NOIO) is not None


@pytest.mark.parametrize("gfp", [g.GFP_ATOMIC, g.GFP_ATOMIC | g._GFP_MEMALLOC, g.GFP_KERNEL, g.GFP_ATOMIC | g._GFP_NOMEMALLOC])
@pytest.mark.parametrize("pf", [0, PF_MEMALLOC])
def test_the_answer_is_what_an_allocation_would_do(gfp, pf):
    with ground(2 * MIB) as machine:
        machine.starve(1)
        machine.task.flags |= pf
        entitled = machine.pa.entitled(gfp)
        assert entitled == (machine.pa.alloc_page(gfp | g._GFP_NOWARN) is not None)


@pytest.mark.parametrize(("patches", "served"), [("all", [True, True]), ("all,-1", [True, False])])
def test_kswapds_own_slab_allocation_at_the_floor(patches, served):
    """D.2: the last page becomes a reserve slab. Its second object is kswapd's only if SLUB can ask whose it is."""
    with slab_ground(2 * MIB, patches) as sg:
        sg.ground.starve(1)
        with sg.memalloc():
            assert [sg.slub.kmalloc(64, g.GFP_ATOMIC) is not None for _ in served] == served


@pytest.mark.parametrize(("patches", "served"), [("all", True), ("all,-1", False)])
def test_kswapds_own_element_of_an_empty_pool_at_the_floor(patches, served):
    """D.2, the other one who asks: a mempool falls back to the reserve for whoever is entitled."""
    with slab_ground(2 * MIB, patches) as sg:
        pool = mempool_create_page_pool(sg.kernel, "pages", 1, sg.pa, 0)
        element = pool.alloc(g.GFP_ATOMIC)
        sg.ground.take()
        while pool.curr_nr:
            sg.ground.held.append(pool.alloc(g.GFP_ATOMIC))
        with sg.memalloc():
            emergency = pool.alloc(g.GFP_ATOMIC)
        assert (emergency is not None) is served
        for page in filter(None, (element, emergency)):
            pool.free(page)
        sg.relief()
        pool.destroy()
        assert sg.pa.allocated_pages() == sg.pa.vmstat.nr_slab
        sg.pa.check()


def test_the_stored_flags_are_those_of_the_last_restart():
    """Part F, 1: between two restarts nothing but B01's mend looks again; rt, too, is a thing of the moment."""
    with ground(32 * MIB, "all", "none") as machine:
        machine.starve(20)
        asked = []
        real = machine.pa.gfp_to_alloc_flags

        def count(gfp):
            asked.append(gfp)
            return real(gfp)

        machine.pa.gfp_to_alloc_flags = count
        machine.script(lambda: 1, lambda: 1, lambda: machine.give_back(400), patience=3)
        assert machine.pa.alloc_page(g.GFP_NOFS) is not None
        assert len(asked) == 1


# trap: before the patch the allocator's numbers of the flags were others; people see them in the failure report


@pytest.mark.parametrize(("patches", "shown"), [("all", "alloc_flags:0x7,"), ("all,-1", "alloc_flags:0x32,")])
def test_the_failure_report_shows_the_flags_with_the_numbers_of_the_day(patches, shown):
    with ground(2 * MIB, patches) as machine:
        machine.starve()
        machine.pa.alloc_page(g.GFP_ATOMIC)
        assert shown in machine.kernel.printk.buffer[-1][2]
