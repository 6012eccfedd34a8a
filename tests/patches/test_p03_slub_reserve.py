"""Patch 03, mm: slub: add knowledge of reserve pages: what one entitled allocation pulls in, nobody else takes for free."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.mm.gfp import _GFP_MEMALLOC, _GFP_NOMEMALLOC, _GFP_NOWARN, _GFP_WAIT, GFP_ATOMIC, GFP_KERNEL
from slab_ground import MIB, slab_ground

QUIET = GFP_ATOMIC | _GFP_NOWARN


@pytest.fixture
def poor():
    with slab_ground() as sg:
        sg.floor()
        yield sg
        sg.slub.check()


def snapshot(cache):
    c = cache.cpu_slab[0]
    return (c.page, list(c.freelist), c.reserve, c.page.mapcount, list(c.page.word_d or ()), list(cache.partial), list(cache.slabs))


def test_nothing_leaks_to_the_unentitled():
    """D.2: one entitled kmalloc(32), then 200 unentitled ones at free <= min."""
    with slab_ground() as sg:
        sg.floor()
        assert sg.entitled_kmalloc(32) is not None
        assert [sg.slub.kmalloc(32, QUIET) for _ in range(200)] == [None] * 200


def test_without_the_patch_the_rest_of_the_page_leaks():
    with slab_ground(patches="all,-3") as sg:
        sg.floor()
        assert sg.entitled_kmalloc(32) is not None
        served = [address for address in (sg.slub.kmalloc(32, QUIET) for _ in range(200)) if address is not None]
        assert len(served) == 127
        assert all(sg.slub.is_reserve_backed(address) for address in served)


@pytest.mark.parametrize("patches", ["all,-1", "all,-2"])
def test_without_the_question_or_the_tag_there_is_no_rationing(patches):
    """02 off: the tag reads 0. 01 off: entitlement reads no, so the tagged slab is closed to everybody."""
    with slab_ground(patches=patches) as sg:
        sg.floor()
        assert sg.entitled_kmalloc(32) is not None
        served = sum(sg.slub.kmalloc(32, QUIET) is not None for _ in range(200))
        assert served == (0 if patches == "all,-1" else 127)


def test_without_the_question_the_entitled_asks_for_a_page_per_object():
    with slab_ground(patches="all,-1") as sg:
        sg.floor()
        before = sg.pa.vmstat.alloc_no_watermarks
        assert all(sg.entitled_kmalloc(32) for _ in range(5))
        assert sg.pa.vmstat.alloc_no_watermarks == before + 5


def test_the_tag_is_read_before_the_freelist_overwrites_it(poor):
    address = poor.entitled_kmalloc(32)
    cache = poor.cache(32)
    assert cache.cpu_slab[0].reserve == 1
    assert isinstance(poor.slub.virt_to_page(address).word_d, list)


@pytest.mark.parametrize("gfp", [GFP_ATOMIC | _GFP_MEMALLOC, GFP_ATOMIC])
def test_whoever_is_entitled_gets_objects_of_the_same_page(poor, gfp):
    """Invariant b: at most ceil(n / objects) pages for n objects."""
    before = poor.pa.vmstat.alloc_no_watermarks
    objects = [poor.slub.kmalloc(32, gfp) if gfp & _GFP_MEMALLOC else poor.entitled_kmalloc(32, gfp) for _ in range(130)]
    assert None not in objects
    assert poor.pa.vmstat.alloc_no_watermarks == before + 2


def test_nomemalloc_beats_the_task(poor):
    poor.entitled_kmalloc(32)
    assert poor.entitled_kmalloc(32, QUIET | _GFP_NOMEMALLOC) is None


def test_the_lockless_list_stays_empty_while_the_slab_is_rationed(poor):
    """Invariant d, also when objects come back."""
    c = poor.cache(32).cpu_slab[0]
    first = poor.entitled_kmalloc(32)
    second = poor.entitled_kmalloc(32)
    poor.slub.kfree(first)
    assert c.freelist == []
    assert poor.entitled_kmalloc(32) == first
    poor.slub.kfree(second)
    assert c.freelist == []


def test_a_refused_allocation_changes_nothing(poor):
    """Invariant f."""
    poor.entitled_kmalloc(32)
    before = snapshot(poor.cache(32))
    assert poor.slub.kmalloc(32, QUIET) is None
    assert snapshot(poor.cache(32)) == before


def test_a_refused_allocation_does_not_look_at_the_partial_list():
    """v14: the unentitled jumps straight to the page allocator, past partial slabs of ordinary pages."""
    with slab_ground() as sg:
        ordinary = [sg.slub.kmalloc(1024, GFP_ATOMIC) for _ in range(4)]  # a full slab
        sg.floor()
        assert sg.entitled_kmalloc(1024) is not None
        sg.slub.kfree(ordinary[0])
        assert len(sg.cache(1024).partial) == 1
        assert sg.slub.kmalloc(1024, QUIET) is None


def test_one_ordinary_page_ends_the_rationing():
    """Invariant c. The new page is given back: the slab that is there is used, and from now on by everybody."""
    with slab_ground() as sg:
        sg.floor()
        first = sg.entitled_kmalloc(32)
        sg.relief()
        slabs = list(sg.cache(32).slabs)
        second = sg.slub.kmalloc(32, QUIET)
        c = sg.cache(32).cpu_slab[0]
        assert c.reserve == 0
        assert sg.slub.virt_to_page(second) is sg.slub.virt_to_page(first) and list(sg.cache(32).slabs) == slabs
        assert len(c.freelist) == 126
        sg.slub.check()


def test_an_unentitled_caller_costs_one_attempt_each_time(poor, monkeypatch):
    poor.entitled_kmalloc(32)
    attempts = []
    real = poor.pa.alloc_pages
    monkeypatch.setattr(poor.pa, "alloc_pages", lambda gfp, order=0: attempts.append(gfp) or real(gfp, order))
    for _ in range(3):
        poor.slub.kmalloc(32, QUIET)
    assert len(attempts) == 3


def test_a_second_reserve_page_keeps_the_tag(poor):
    objects = [poor.entitled_kmalloc(2048) for _ in range(5)]
    assert None not in objects
    assert poor.cache(2048).cpu_slab[0].reserve == 1
    assert poor.slub.kmalloc(2048, QUIET) is None


def test_with_ample_memory_who_asks_makes_no_tag():
    with slab_ground() as sg:
        sg.entitled_kmalloc(32)
        assert sg.cache(32).cpu_slab[0].reserve == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([16, 256, 1024, 2048]), st.booleans(), st.integers(0, 30)), max_size=60))
def test_with_ample_memory_the_addresses_are_those_of_the_base(steps):
    """Invariant e."""

    def addresses(patches):
        with slab_ground(16 * MIB, patches) as sg:
            live, seen = [], []
            for size, entitled, victim in steps:
                live.append(sg.entitled_kmalloc(size) if entitled else sg.slub.kmalloc(size, GFP_KERNEL))
                seen.append(live[-1])
                if victim < len(live):
                    sg.slub.kfree(live.pop(victim))
            return seen

    assert addresses("all") == addresses("all,-3")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([32, 1024, 2048]), st.sampled_from(["entitled", "ordinary", "free", "flush", "cpu"]), st.integers(0, 9)
        ),
        max_size=80,
    )
)
def test_as_long_as_memory_is_short_no_unentitled_caller_holds_reserve_memory(steps):
    """Invariant a, over all CPUs and lists, with b03a and b03b mended."""
    with slab_ground(16 * MIB, ncpus=2) as sg:
        sg.floor()
        live = []
        for size, what, number in steps:
            if what == "cpu":
                sg.cpu(number % 2)
            elif what == "flush":
                sg.slub.flush_cpu_slab(sg.cache(size), number % 2)
            elif what == "free":
                if live:
                    sg.slub.kfree(live.pop(number % len(live)))
            else:
                for _ in range(number + 1):
                    address = sg.entitled_kmalloc(size, QUIET) if what == "entitled" else sg.slub.kmalloc(size, QUIET)
                    if address is not None:
                        assert what == "entitled" or not sg.slub.is_reserve_backed(address)
                        live.append(address)
            sg.slub.check()


@pytest.mark.parametrize("size", [8, 96, 256, 1024, 2048])
def test_without_the_patch_a_slab_leaks_all_but_one(size):
    """D.2 for the other classes: off, what one entitled object pulled in serves everybody; on, nobody."""
    for patches, leaks in (("all", False), ("all,-3", True)):
        with slab_ground(patches=patches) as sg:
            sg.floor()
            assert sg.entitled_kmalloc(size) is not None
            served = sum(sg.slub.kmalloc(size, QUIET) is not None for _ in range(600))
            assert served == (sg.cache(size).objects - 1 if leaks else 0)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([32, 192, 1024, 2048]), st.integers(1, 60))
def test_n_objects_for_the_entitled_cost_at_most_so_many_pages(size, count):
    """Invariant b."""
    with slab_ground(16 * MIB) as sg:
        sg.floor()
        before = sg.pa.vmstat.alloc_no_watermarks
        assert None not in [sg.entitled_kmalloc(size) for _ in range(count)]
        assert sg.pa.vmstat.alloc_no_watermarks - before <= -(-count // sg.cache(size).objects)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["entitled", "ordinary", "free", "flush", "floor", "relief"]), max_size=60),
    st.sampled_from(["all", "none"]),
)
def test_an_ordinary_page_for_the_cache_ends_the_rationing(steps, fixes):
    """Invariant c, with v14's defects and without: whatever was before, c.reserve is 0 after a page was had above the marks."""
    with slab_ground(16 * MIB, fixes=fixes) as sg:
        cache, live = sg.cache(1024), []
        for what in steps:
            pages, reserves = sg.pa.vmstat.pgalloc, sg.pa.vmstat.alloc_no_watermarks
            if what in ("entitled", "ordinary"):
                live.append(sg.entitled_kmalloc(1024, QUIET) if what == "entitled" else sg.slub.kmalloc(1024, QUIET))
                ordinary = sg.pa.vmstat.pgalloc != pages and sg.pa.vmstat.alloc_no_watermarks == reserves
                assert not ordinary or cache.cpu_slab[0].reserve == 0
            elif what == "free" and live:
                sg.slub.kfree(live.pop())
            elif what == "flush":
                sg.slub.flush_cpu_slab(cache, 0)
            elif what in ("floor", "relief"):
                getattr(sg, what)()


def test_each_cpu_has_its_own_tag():
    """Hole iii: CPU 1 knows nothing of CPU 0's reserve slab, and gets nothing of it either."""
    with slab_ground(ncpus=2) as sg:
        sg.floor()
        mine = sg.entitled_kmalloc(32)
        sg.cpu(1)
        assert [c.reserve for c in sg.cache(32).cpu_slab] == [1, 0]
        assert sg.slub.kmalloc(32, QUIET) is None
        other = sg.entitled_kmalloc(32)
        assert sg.slub.virt_to_page(other) is not sg.slub.virt_to_page(mine)
        sg.slub.check()


def test_a_rationed_slab_with_debugging_is_checked_too():
    """v14 runs the debug checks only if the page has debugging: the two reasons to hand out singly do not disturb each other."""
    with slab_ground(slub_debug="FZPU") as sg:
        sg.floor()
        first, second = sg.entitled_kmalloc(32), sg.entitled_kmalloc(32)
        assert sg.slub.kmalloc(32, QUIET) is None
        sg.slub.write(first, 32, b"!")
        with pytest.raises(KernelBug, match="Redzone overwritten"):
            sg.slub.kfree(first)
        for address in (first, second):
            sg.slub.kfree(address)
        sg.slub.check()


# b03a: the tag belongs to the CPU's place, not to the page


def b03a_leak(fixes):
    """A reserve slab is used up and left, regains an object, and another CPU finds it on the partial list."""
    with slab_ground(fixes=fixes, ncpus=2) as sg:
        sg.floor()
        objects = [sg.entitled_kmalloc(32) for _ in range(130)]
        sg.slub.kfree(objects[0])
        sg.cpu(1)
        served = sg.slub.kmalloc(32, QUIET)
        sg.slub.check()
        return served


def test_b03a_as_posted_a_reserve_slab_comes_back_untagged():
    assert b03a_leak("all,-b03a") is not None


def test_b03a_mended_the_page_keeps_its_tag():
    assert b03a_leak("all") is None


def test_b03a_mended_the_entitled_may_use_it_one_object_at_a_time():
    with slab_ground(ncpus=2) as sg:
        sg.floor()
        objects = [sg.entitled_kmalloc(32) for _ in range(130)]
        for address in objects[:2]:
            sg.slub.kfree(address)
        sg.cpu(1)
        assert sg.entitled_kmalloc(32) in objects[:2]
        assert sg.cache(32).cpu_slab[1].reserve == 1
        assert sg.slub.kmalloc(32, QUIET) is None


def test_b03a_mended_an_ordinary_page_frees_the_slab_for_everybody():
    with slab_ground() as sg:
        sg.floor()
        sg.entitled_kmalloc(32)
        sg.relief()
        held = [sg.slub.kmalloc(32, QUIET)]
        sg.floor()
        held += [sg.slub.kmalloc(32, QUIET) for _ in range(126)]
        assert None not in held
        assert sg.slub.kmalloc(32, QUIET) is None  # the slab is full and the next page is refused
        sg.slub.kfree(held[0])
        sg.slub.flush_cpu_slab(sg.cache(32), 0)
        assert sg.slub.kmalloc(32, QUIET) == held[0]


def node_leak(fixes):
    """An ordinary request for the other node, which has memory, pushes the reserve slab of this one to its partial list."""
    with slab_ground(64 * MIB, fixes=fixes, ncpus=2, nodes=2) as sg:
        sg.floor()
        sg.entitled_kmalloc(32)
        (reserve,) = sg.cache(32).slabs.values()
        sg.ground.give_back(len(sg.ground.held) // 2)  # the pages that were taken last are the other node's
        other = 1 - reserve.zone.node
        assert sg.slub.kmalloc_node(32, QUIET, other) is not None
        assert list(sg.cache(32).partials[reserve.zone.node]) == [reserve.pfn]
        sg.slub.check()
        while (page := sg.pa.alloc_page(QUIET)) is not None:
            sg.ground.held.append(page)
        sg.slub.flush_cpu_slab(sg.cache(32), 0)
        served = [sg.slub.kmalloc_node(32, QUIET, reserve.zone.node) for _ in range(127)]
        return sum(address is not None and sg.slub.virt_to_page(address) is reserve for address in served)


def test_b03a_as_posted_a_request_for_another_node_opens_the_reserve_slab():
    assert node_leak("none") == 127


def test_b03a_mended_the_list_of_the_node_keeps_it_shut():
    assert node_leak("all") == 0


# b03b: no cpu slab, but a stale tag


def b03b_leak(fixes):
    """The CPU gave its reserve slab up, so it stands on the partial list while the tag is still there."""
    with slab_ground(fixes=fixes) as sg:
        sg.floor()
        sg.entitled_kmalloc(32)
        sg.slub.flush_cpu_slab(sg.cache(32), 0)
        return sum(sg.slub.kmalloc(32, QUIET) is not None for _ in range(200))


def test_b03b_as_posted_the_check_is_skipped():
    assert b03b_leak("none") == 127


def test_b03b_mended_the_tag_is_asked_first():
    assert b03b_leak("all,-b03a") == 0


def test_the_fix_of_b03a_covers_this_way_too():
    assert b03b_leak("all,-b03b") == 0


def test_a_caller_that_can_wait_is_asked_again_after_its_sleep(poor, monkeypatch):
    """The page may have come from the reserve to an interrupt meanwhile; what counts is the page that this caller got."""
    real = poor.pa.alloc_pages

    def interrupted(gfp, order=0):
        monkeypatch.setattr(poor.pa, "alloc_pages", real)
        assert poor.entitled_kmalloc(512) is not None
        poor.relief()
        return real(gfp, order)

    monkeypatch.setattr(poor.pa, "alloc_pages", interrupted)
    assert poor.slub.kmalloc(512, GFP_ATOMIC | _GFP_WAIT) is not None
    assert poor.cache(512).cpu_slab[0].reserve == 0


def test_a_report_can_say_who_holds_the_reserve(poor):
    poor.entitled_kmalloc(32)
    poor.entitled_kmalloc(2048)
    poor.entitled_kmalloc(5000)
    assert poor.slub.reserve_pages_by_holder() == {"kmalloc-32": 1, "kmalloc-2048": 2, "pages": 2}
