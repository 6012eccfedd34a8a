"""Injected allocation failures."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError, KernelBug
from kemu.mm import gfp as g
from kemu.mm.fault_inject import SLAB_FAILSLAB, FailPageAlloc, FailSlab, setup_fault_attr
from kemu.mm.slub import ZERO_SIZE_PTR
from mm_ground import MIB, ground
from slab_ground import slab_ground


@pytest.fixture
def machine():
    with ground(8 * MIB) as machine:
        yield machine


def failures(machine, calls=100, gfp=g.GFP_ATOMIC, order=0, **how):
    how = {"min_order": 0, **how}
    machine.pa.fail_page_alloc = FailPageAlloc(machine.kernel, **how)
    return [i for i in range(calls) if machine.pa.alloc_pages(gfp, order) is None]


def test_everything_fails_if_told_so(machine):
    assert failures(machine, 10) == list(range(10))


def test_times_bounds_the_number(machine):
    assert failures(machine, times=3) == [0, 1, 2]


def test_interval_spreads_them(machine):
    assert failures(machine, 12, interval=4) == [3, 7, 11]


def test_space_lets_so_many_pages_pass(machine):
    assert failures(machine, 12, space=10, times=1) == [9]


def test_probability_comes_from_the_machines_seed():
    runs = []
    for _ in range(2):
        with ground(8 * MIB) as machine:
            runs.append(failures(machine, probability=30))
    assert runs[0] == runs[1] and 10 < len(runs[0]) < 60


@pytest.mark.parametrize(("gfp", "order"), [(g.GFP_KERNEL, 1), (g.GFP_ATOMIC, 0), (g.GFP_ATOMIC | g._GFP_HIGHMEM, 1)])
def test_the_kernels_filters_let_these_pass(machine, gfp, order):
    assert failures(machine, 5, gfp, order, min_order=1) == []


def test_nofail_is_never_failed(machine):
    assert failures(machine, 5, g.GFP_KERNEL | g._GFP_NOFAIL, ignore_gfp_wait=False) == []


def test_injection_is_silent_and_counted(machine):
    failures(machine, 5)
    assert machine.pa.fail_page_alloc.failed == 5 and not machine.kernel.printk.buffer


# what both attributes share


@pytest.mark.parametrize("how", [{"probability": 101}, {"probability": -1}, {"interval": 0}, {"times": -2}, {"space": -1}])
def test_what_no_attribute_can_be_is_refused(machine, how):
    with pytest.raises(ConfigError, match="fail_page_alloc"):
        FailPageAlloc(machine.kernel, **how)


def test_a_boot_word_says_all_four(machine):
    assert failures(machine, 9, **setup_fault_attr("3,100,0,2")) == [2, 5]


@pytest.mark.parametrize("word", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d"])
def test_a_boot_word_that_cannot_be_read_is_refused(word):
    with pytest.raises(ConfigError, match="four integers"):
        setup_fault_attr(word)


def test_a_verbose_attribute_says_each_failure(machine):
    failures(machine, 2, verbose=1, times=1)
    assert [line.split("] ")[-1] for line in machine.kernel.printk.lines()] == ["FAULT_INJECTION: forcing a failure"]


def test_with_a_task_filter_only_these_tasks_fail(machine):
    task = machine.kernel.sched.current
    assert failures(machine, 3, task_filter=()) == []
    assert failures(machine, 3, task_filter=(task,)) == [0, 1, 2]


def test_with_a_task_filter_nobody_fails_in_an_interrupt(machine):
    with machine.preempt_count(1 << 8):
        assert failures(machine, 3, task_filter=(machine.kernel.sched.current,)) == []


def test_switched_off_again_nothing_fails_and_nothing_asks(machine):
    failures(machine, 1)
    machine.pa.fail_page_alloc = None
    assert machine.pa.fail_page_alloc is None
    assert "alloc_pages" not in vars(machine.pa) and "_alloc_from" not in vars(machine.pa)
    page = machine.pa.alloc_pages(g.GFP_ATOMIC, 1)
    machine.pa.free_pages(page, 1)


def test_a_request_throws_the_dice_once(machine):
    machine.pa.fail_page_alloc = attr = FailPageAlloc(machine.kernel, interval=2, min_order=0)
    pages = [machine.pa.alloc_pages(g.GFP_ATOMIC, order) for order in (0, 1, 0, 1)]
    assert [page is None for page in pages] == [False, True, False, True] and attr.failed == 2


def test_a_request_that_may_wait_is_asked_about_sleeping_first(machine):
    machine.pa.fail_page_alloc = FailPageAlloc(machine.kernel, ignore_gfp_wait=False, min_order=0)
    with machine.preempt_count(1), pytest.raises(KernelBug, match="sleeping function"):
        machine.pa.alloc_pages(g.GFP_KERNEL)


# failslab


@pytest.fixture
def slab():
    with slab_ground() as ground_:
        yield ground_
        ground_.slub.failslab = None
        ground_.slub.check()


def test_failslab_fails_objects_of_every_entry(slab):
    cache = slab.cache(64)
    slab.slub.failslab = FailSlab(slab.kernel)
    assert slab.slub.kmalloc(64, g.GFP_ATOMIC) is None
    assert slab.slub.kzalloc(64, g.GFP_ATOMIC) is None
    assert slab.slub.kmem_cache_alloc(cache, g.GFP_ATOMIC) is None
    assert slab.slub.kmem_cache_alloc_node(cache, g.GFP_ATOMIC, 0) is None
    assert slab.slub.kmalloc_node(64, g.GFP_ATOMIC, 0) is None
    assert slab.slub.failslab.failed == 5 and slab.slub.objects_in_use(cache) == 0


def test_failslab_by_default_spares_those_that_wait_and_always_nofail(slab):
    slab.slub.failslab = FailSlab(slab.kernel)
    assert slab.slub.kmalloc(64, g.GFP_KERNEL) is not None
    assert slab.slub.kmalloc(64, g.GFP_ATOMIC | g._GFP_NOFAIL) is not None
    slab.slub.failslab = FailSlab(slab.kernel, ignore_gfp_wait=False)
    assert slab.slub.kmalloc(64, g.GFP_KERNEL) is None


def test_failslab_leaves_whole_pages_and_nothing_to_others(slab):
    slab.slub.failslab = FailSlab(slab.kernel)
    assert slab.slub.kmalloc(5000, g.GFP_ATOMIC) is not None
    assert slab.slub.kmalloc(0, g.GFP_ATOMIC) == ZERO_SIZE_PTR
    assert slab.slub.failslab.failed == 0


def test_with_a_cache_filter_only_marked_caches_fail(slab):
    marked = slab.slub.kmem_cache_create("marked", 100, flags=SLAB_FAILSLAB)
    slab.slub.failslab = FailSlab(slab.kernel, cache_filter=True)
    assert slab.slub.kmem_cache_alloc(marked, g.GFP_ATOMIC) is None
    assert slab.slub.kmalloc(64, g.GFP_ATOMIC) is not None


def test_space_is_counted_in_bytes_of_objects(slab):
    slab.slub.failslab = FailSlab(slab.kernel, space=200)
    assert [slab.slub.kmalloc(64, g.GFP_ATOMIC) is None for _ in range(5)] == [False, False, False, True, True]


def test_frees_never_fail_and_a_failure_takes_nothing(slab):
    address = slab.slub.kmalloc(64, g.GFP_ATOMIC)
    slab.slub.failslab = FailSlab(slab.kernel)
    slab.slub.kfree(address)
    assert slab.slub.objects_in_use(slab.cache(64)) == 0


def test_without_failslab_the_entries_are_the_classes_own(slab):
    slab.slub.failslab = FailSlab(slab.kernel)
    slab.slub.failslab = None
    assert not {"kmalloc", "kmem_cache_alloc", "kmem_cache_alloc_node"} & vars(slab.slub).keys()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100), st.integers(1, 4), st.integers(-1, 5), st.lists(st.sampled_from([8, 64, 2048, 9000]), max_size=40))
def test_any_injection_leaves_sound_caches_and_nothing_behind(probability, interval, times, sizes):
    with slab_ground() as ground_:
        before = ground_.pa.allocated_pages()
        ground_.slub.failslab = FailSlab(ground_.kernel, probability=probability, interval=interval, times=times)
        ground_.pa.fail_page_alloc = FailPageAlloc(ground_.kernel, probability=probability, min_order=0)
        held = [ground_.slub.kmalloc(size, g.GFP_ATOMIC) for size in sizes]
        ground_.slub.check()
        assert times < 0 or ground_.slub.failslab.failed <= times
        for address in held:
            ground_.slub.kfree(address)
        ground_.slub.shrink_all()
        assert ground_.pa.allocated_pages() == before
