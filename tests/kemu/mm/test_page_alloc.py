"""The ten steps of __alloc_pages: who gets a page, who reclaims, who waits, who is told NULL."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from kemu.errors import KernelBug
from kemu.kernel.task import PF_MEMALLOC, TIF_MEMDIE
from kemu.mm import gfp as g
from kemu.mm.fault_inject import FailPageAlloc
from mm_ground import MIB, GaveUpError, ground

KSWAPD = ["kswapd DMA32", "kswapd DMA"]


@pytest.fixture(params=["all", "none"])
def machine(request):
    """32 MiB with the whole series and with none of it: without a reserve both must behave alike."""
    with ground(32 * MIB, request.param) as machine:
        yield machine


@pytest.fixture
def empty(machine):
    """The same with not one free page."""
    machine.starve()
    return machine


# marks


def test_with_ample_memory_nobody_is_woken(machine):
    reclaim = machine.script()
    machine.pa.alloc_page(g.GFP_KERNEL)
    machine.pa.alloc_page(g.GFP_ATOMIC)
    machine.pa.alloc_pages(g.GFP_KERNEL, 3)
    assert reclaim.calls == [] and machine.pa.vmstat.alloc_low == 3


def test_below_pages_low_kswapd_is_woken_and_pages_min_serves(machine):
    reclaim = machine.script()
    machine.starve(112)
    assert machine.pa.alloc_page(g.GFP_KERNEL).zone.name == "DMA32"
    assert reclaim.calls == KSWAPD and machine.pa.vmstat.alloc_min == 1


def test_atomic_requests_stop_at_three_eighths(machine):
    machine.take(g.GFP_ATOMIC | g._GFP_NOWARN)
    assert [zone.free_pages for zone in machine.pa.zones[:2]] == [34 + 16, 34]


def test_waiting_requests_stop_at_pages_min(machine):
    machine.script(patience=0)
    with pytest.raises(GaveUpError):
        machine.take(g.GFP_KERNEL)
    assert [zone.free_pages for zone in machine.pa.zones[:2]] == [90 + 16, 90]


def test_requests_that_neither_wait_nor_are_high_stop_at_three_quarters(machine):
    machine.take(g.GFP_NOWAIT | g._GFP_NOWARN)
    assert machine.pa.zones[1].free_pages == 90 - 22


def test_a_real_time_task_may_go_deeper_but_not_in_interrupt(machine):
    machine.task.rt = True
    assert machine.pa._mark_flags(g.GFP_KERNEL) & g.ALLOC_HARDER
    with machine.preempt_count(1 << 8):
        assert not machine.pa._mark_flags(g.GFP_KERNEL) & g.ALLOC_HARDER


def test_a_dma_request_gets_no_other_zone(machine):
    machine.hold(0, "DMA")
    assert machine.pa.alloc_page(g.GFP_ATOMIC | g.GFP_DMA | g._GFP_NOWARN) is None


def test_ordinary_requests_leave_lowmem_reserve_in_the_dma_zone(machine):
    machine.hold(0, "DMA32")
    machine.hold(112 + 16, "DMA")
    assert machine.pa.get_page_from_freelist(0, 0, machine.pa.zonelist, g.ALLOC_WMARK_LOW) is None
    assert machine.pa.get_page_from_freelist(0, 0, machine.pa.zonelists[g.GFP_DMA], g.ALLOC_WMARK_LOW) is not None


# steps 2 and 5 to 10


def test_a_request_for_one_node_only_gives_up_at_once(empty):
    reclaim = empty.script()
    assert empty.pa.alloc_page(g.GFP_KERNEL | g.GFP_THISNODE) is None
    assert reclaim.calls == []


def test_without_a_reclaimer_waiting_requests_get_null(empty):
    assert empty.pa.alloc_page(g.GFP_KERNEL) is None


def test_atomic_requests_never_reclaim(empty):
    reclaim = empty.script()
    assert empty.pa.alloc_page(g.GFP_ATOMIC) is None
    assert reclaim.calls == KSWAPD


def test_reclaim_runs_as_pf_memalloc_and_the_page_it_frees_is_had(empty):
    progress = []
    empty.kernel.judge.progress = lambda: progress.append(1)
    reclaim = empty.script(lambda: empty.give_back(200))
    assert empty.pa.alloc_page(g.GFP_KERNEL) is not None
    assert reclaim.calls == [*KSWAPD, "reclaim"]
    assert reclaim.flags_inside[0] & PF_MEMALLOC and not empty.task.flags & PF_MEMALLOC
    assert progress == [1] and empty.pa.vmstat.allocstall == 1 and empty.task.reclaim_state is None


def test_pf_memalloc_is_cleared_not_restored(empty):
    """Whoever sets it inside reclaim loses it."""

    def meddle():
        empty.task.flags |= PF_MEMALLOC
        return empty.give_back(200)

    empty.script(meddle)
    empty.pa.alloc_page(g.GFP_KERNEL)
    assert not empty.task.flags & PF_MEMALLOC


def test_progress_without_a_page_waits_and_tries_again(empty):
    reclaim = empty.script(lambda: 1, lambda: 1, lambda: empty.give_back(200))
    assert empty.pa.alloc_page(g.GFP_KERNEL) is not None
    assert reclaim.calls == [*KSWAPD, "reclaim", "wait 5", "reclaim", "wait 5", "reclaim"]


def test_no_progress_kills_and_starts_anew(empty):
    reclaim = empty.script()
    reclaim.on_oom = lambda: empty.give_back(300)
    assert empty.pa.alloc_page(g.GFP_KERNEL) is not None
    assert reclaim.calls == [*KSWAPD, "reclaim", "oom"] and empty.pa.vmstat.alloc_low == 1


def test_before_a_kill_the_high_mark_is_tried(empty):
    """Somebody else's victim may have freed enough in the meantime."""

    def victim_of_another():
        empty.give_back(200)
        return 0

    reclaim = empty.script(victim_of_another)
    assert empty.pa.alloc_page(g.GFP_KERNEL) is not None
    assert "oom" not in reclaim.calls and empty.pa.vmstat.alloc_high == 1


@pytest.mark.parametrize("gfp", [g.GFP_NOIO, g.GFP_NOFS])
def test_who_may_not_enter_filesystems_never_kills(empty, gfp):
    reclaim = empty.script()
    with pytest.raises(GaveUpError):
        empty.pa.alloc_page(gfp)
    assert reclaim.calls == [*KSWAPD, *["reclaim", "wait 5"] * 4]


def test_noretry_reclaims_once_and_never_kills(empty):
    reclaim = empty.script()
    assert empty.pa.alloc_page(g.GFP_KERNEL | g._GFP_NORETRY) is None
    assert reclaim.calls == [*KSWAPD, "reclaim"]


@pytest.mark.parametrize(("order", "kills"), [(3, True), (4, False)])
def test_large_blocks_are_not_worth_a_process(empty, order, kills):
    reclaim = empty.script(patience=0)
    if kills:
        with pytest.raises(GaveUpError):
            empty.pa.alloc_pages(g.GFP_KERNEL, order)
    else:
        assert empty.pa.alloc_pages(g.GFP_KERNEL, order) is None
    assert ("oom" in reclaim.calls) == kills


@pytest.mark.parametrize(
    ("flag", "order", "retries"),
    [(0, 3, True), (0, 4, False), (g._GFP_REPEAT, 4, True), (g._GFP_NOFAIL, 4, True), (g._GFP_NORETRY, 0, False)],
)
def test_who_tries_again_after_progress(empty, flag, order, retries):
    reclaim = empty.script(lambda: 1, patience=0)
    if retries:
        with pytest.raises(GaveUpError):
            empty.pa.alloc_pages(g.GFP_KERNEL | flag, order)
    else:
        assert empty.pa.alloc_pages(g.GFP_KERNEL | flag, order) is None
    assert ("wait 5" in reclaim.calls) == retries


@pytest.mark.parametrize("who", ["PF_MEMALLOC", "TIF_MEMDIE"])
def test_who_may_ignore_the_marks_gets_the_last_page_and_then_null(machine, who):
    machine.starve(1)
    reclaim = machine.script()
    if who == "PF_MEMALLOC":
        machine.task.flags |= PF_MEMALLOC
    else:
        machine.task.thread_flags |= TIF_MEMDIE
    assert machine.pa.alloc_page(g.GFP_KERNEL) is not None
    assert machine.pa.alloc_page(g.GFP_KERNEL) is None
    assert "reclaim" not in reclaim.calls and machine.pa.vmstat.alloc_no_watermarks == 1


def test_a_pf_memalloc_task_that_may_not_fail_waits(empty):
    empty.task.flags |= PF_MEMALLOC
    reclaim = empty.script()
    reclaim.on_wait = lambda: empty.give_back(1)
    assert empty.pa.alloc_page(g.GFP_NOIO | g._GFP_NOFAIL) is not None
    assert reclaim.calls == [*KSWAPD, "wait 5"]


def test_a_waiting_request_in_atomic_context_is_an_oops(machine):
    with machine.preempt_count(1), pytest.raises(KernelBug, match="sleeping function"):
        machine.pa.alloc_page(g.GFP_KERNEL)
    machine.kernel.sched.cpu.preempt_count = 0


# what people see


def test_a_failure_is_reported_once_in_a_while(empty):
    for _ in range(30):
        empty.pa.alloc_pages(g.GFP_ATOMIC, 1)
    texts = [text for _, _, text in empty.kernel.printk.buffer if "page allocation failure" in text]
    assert len(texts) == 10 and texts[0].startswith("init: page allocation failure. order:1, mode:0x20")


def test_nowarn_is_silent(empty):
    empty.pa.alloc_page(g.GFP_ATOMIC | g._GFP_NOWARN)
    assert not empty.kernel.printk.buffer and empty.pa.vmstat.alloc_failed == 1


def test_the_judge_is_told_why_somebody_waits(machine):
    machine.starve(61)
    explain = machine.kernel.judge.explainers["memory"]
    assert explain(machine.pa) == ("no page: free 61, min 180, emergency 0, entitled: no", None)


def test_at_the_floor_means_that_atomic_requests_fail(machine):
    assert machine.pa.at_the_floor() is None
    machine.take(g.GFP_ATOMIC | g._GFP_NOWARN)
    assert "84 pages" in machine.pa.at_the_floor()
    machine.give_back(1)
    assert machine.pa.at_the_floor() is None


def test_tracepoints_bear_the_kernels_names(machine):
    machine.kernel.trace.enable("kmem:*")
    page = machine.pa.alloc_pages(g.GFP_KERNEL, 1)
    machine.pa.free_pages(page, 1)
    machine.pa.free_pages(machine.pa.alloc_page(g.GFP_ATOMIC))
    text = "\n".join(machine.kernel.trace.last(4))
    assert text.count(" mm_page_alloc: ") == text.count(" mm_page_free: ") == 2
    assert f"page={page.address:#x}" in text and "order=1" in text


def test_sysctl_min_free_kbytes_moves_the_marks(machine):
    assert machine.kernel.sysctl.write("vm.min_free_kbytes", "2048\n") == 0
    assert machine.kernel.sysctl.read("vm.min_free_kbytes") == "2048\n"
    assert [zone.pages_min for zone in machine.pa.zones] == [256, 256, 0]


def test_sysctl_min_free_kbytes_is_not_negative(machine):
    assert machine.kernel.sysctl.write("vm.min_free_kbytes", "-1") < 0
    assert machine.pa.min_free_kbytes == 724


def test_buffers_may_use_what_is_above_pages_high(machine):
    assert machine.pa.nr_free_buffer_pages() == 8192 - 2 * 135


def test_sysctl_lowmem_reserve_ratio(machine):
    assert machine.kernel.sysctl.write("vm.lowmem_reserve_ratio", "64 64 32") == 0
    assert machine.kernel.sysctl.read("vm.lowmem_reserve_ratio") == "64\t64\t32\n"
    assert machine.pa.zones[0].lowmem_reserve == [0, 64, 64] and machine.pa.totalreserve_pages == 64 + 135 + 135


# bad input


@pytest.mark.parametrize("order", [11, 12, 64, -1])
@pytest.mark.parametrize("gfp", [g.GFP_KERNEL, g.GFP_ATOMIC, g.GFP_KERNEL | g._GFP_NOFAIL])
def test_an_order_that_is_none_gets_null_without_a_word(machine, gfp, order):
    """In 2.6.23 alloc_pages() looks at it before anything else; an unsigned int is never negative."""
    reclaim = machine.script()
    assert machine.pa.alloc_pages(gfp, order) is None
    assert machine.pa.alloc_pages_node(0, gfp, order) is None
    assert reclaim.calls == [] and not machine.kernel.printk.buffer and machine.pa.vmstat.alloc_failed == 0
    machine.pa.check()


@pytest.mark.parametrize(
    ("gfp", "zone"),
    [
        (g._GFP_DMA | g._GFP_HIGHMEM, "DMA"),
        (g._GFP_DMA | g._GFP_DMA32, "DMA"),
        (g._GFP_DMA32 | g._GFP_HIGHMEM, "DMA32"),
        (g.GFP_ZONEMASK, "DMA"),
        (1 << 30, "DMA32"),  # a bit that nobody knows is ignored
    ],
)
def test_of_several_zone_modifiers_the_first_counts(machine, gfp, zone):
    assert machine.pa.alloc_page(g.GFP_ATOMIC | gfp).zone.name == zone


def test_a_node_that_is_not_there_is_a_bug(machine):
    with pytest.raises(KernelBug, match="there are 1 nodes"):
        machine.pa.alloc_pages_node(1, g.GFP_KERNEL)
    machine.pa.check()


def test_an_unknown_node_is_the_local_one(machine):
    assert machine.pa.alloc_pages_node(-1, g.GFP_KERNEL).zone.name == "DMA32"


@pytest.mark.parametrize("order", [0, 1])
def test_a_request_for_a_node_may_fail_by_injection(machine, order):
    machine.pa.fail_page_alloc = FailPageAlloc(machine.kernel, ignore_gfp_wait=False, min_order=0, times=1)
    assert machine.pa.alloc_pages_node(0, g.GFP_KERNEL, order) is None
    assert machine.pa.alloc_pages_node(0, g.GFP_KERNEL, order) is not None


class Allocating(RuleBasedStateMachine):
    """Any mix of requests and contexts keeps every invariant of the zones."""

    blocks = Bundle("blocks")

    def __init__(self):
        super().__init__()
        self.context = ground(2 * MIB, "all")
        self.machine = self.context.__enter__()
        self.pa = self.machine.pa
        self.count = 0

    def teardown(self):
        self.context.__exit__(None, None, None)

    @rule(
        target=blocks,
        order=st.sampled_from([0, 0, 0, 1, 2, 5]),
        gfp=st.sampled_from([g.GFP_ATOMIC, g.GFP_KERNEL, g.GFP_NOWAIT, g.GFP_ATOMIC | g._GFP_MEMALLOC, g.GFP_KERNEL | g._GFP_ZERO]),
        compound=st.booleans(),
    )
    def allocate(self, order, gfp, compound):
        free = self.pa.nr_free_pages()
        page = self.pa.alloc_pages(gfp | g._GFP_NOWARN | (g._GFP_COMP if compound and order else 0), order)
        if page is None:
            return multiple()
        assert page.count == 1 and self.pa.nr_free_pages() == free - (1 << order)
        assert bool(page.reserve) == (page.pfn in self.pa.reserve_pfns)
        if not page.reserve:
            zone = page.zone
            assert zone.free_pages + 1 > zone.atomic_floor(page.zone.zone_idx)
        self.count += 1 << order
        page.index = 0xDEAD
        return (page, order)

    @rule(block=consumes(blocks))
    def free(self, block):
        page, order = block
        self.pa.free_pages(page, order)
        self.count -= 1 << order

    @precondition(lambda self: self.pa.var_free_kbytes == 0)
    @rule()
    def raise_the_reserve(self):
        if self.pa.adjust_memalloc_reserve(20):
            assert self.pa.var_free_kbytes == 0

    @precondition(lambda self: self.pa.var_free_kbytes)
    @rule()
    def lower_the_reserve(self):
        assert self.pa.adjust_memalloc_reserve(-20) == 0

    @invariant()
    def all_is_sound(self):
        self.pa.check()
        assert self.pa.allocated_pages() == self.count


TestAllocating = Allocating.TestCase
TestAllocating.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
