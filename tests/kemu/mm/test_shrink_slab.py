"""Caches that give back memory when asked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.core import Kernel
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.shrink_slab import SHRINK_BATCH, ShrinkSlab
from kemu.mm.vmstat import VmStat


class Cache:
    """A cache of so many objects that frees what it is asked to; ``busy``: not now."""

    def __init__(self, objects: int) -> None:
        self.objects = objects
        self.busy = False
        self.gfps: list[int] = []

    def shrink(self, nr, gfp):
        self.gfps.append(gfp)
        if nr and self.busy:
            return -1
        self.objects = max(0, self.objects - nr)
        return self.objects


@pytest.fixture
def shrink_slab():
    kernel = Kernel()
    yield ShrinkSlab(kernel, VmStat())
    kernel.shutdown()


def test_a_cache_is_scanned_in_twice_the_share_of_the_lru_lists_in_whole_batches(shrink_slab):
    cache = Cache(10_000)
    shrink_slab.register_shrinker(cache.shrink)
    # 100 of 1000 LRU pages: 2 * 10 % of the objects are 1998 (of 1001 pages), which is 15 batches
    assert shrink_slab(100, GFP_KERNEL, 1000) == 15 * SHRINK_BATCH
    assert cache.objects == 10_000 - 15 * SHRINK_BATCH


def test_what_is_no_whole_batch_is_owed_until_the_next_time(shrink_slab):
    cache = Cache(1000)
    shrinker = shrink_slab.register_shrinker(cache.shrink)
    assert shrink_slab(50, GFP_KERNEL, 999) == 0
    assert shrinker.nr == 100
    assert shrink_slab(50, GFP_KERNEL, 999) == SHRINK_BATCH


def test_a_cache_of_fewer_seeks_gives_more(shrink_slab):
    cheap, dear = Cache(10_000), Cache(10_000)
    shrink_slab.register_shrinker(cheap.shrink, seeks=1)
    shrink_slab.register_shrinker(dear.shrink, seeks=4)
    shrink_slab(100, GFP_KERNEL, 1000)
    assert cheap.objects < dear.objects


def test_a_cache_that_cannot_now_keeps_its_objects_and_its_debt(shrink_slab):
    cache = Cache(10_000)
    cache.busy = True
    shrinker = shrink_slab.register_shrinker(cache.shrink)
    assert shrink_slab(100, GFP_KERNEL, 999) == 0
    assert shrinker.nr == 2000


def test_a_debt_never_grows_beyond_twice_the_objects(shrink_slab):
    cache = Cache(500)
    cache.busy = True
    shrinker = shrink_slab.register_shrinker(cache.shrink)
    for _ in range(10):
        shrink_slab(1000, GFP_KERNEL, 1000)
    assert shrinker.nr == 1000


def test_a_cache_that_left_is_asked_no_more(shrink_slab):
    cache = Cache(10_000)
    shrink_slab.unregister_shrinker(shrink_slab.register_shrinker(cache.shrink))
    assert shrink_slab(1000, GFP_KERNEL, 1000) == 0
    assert cache.gfps == []


def test_the_callers_gfp_reaches_the_cache(shrink_slab):
    cache = Cache(1)
    shrink_slab.register_shrinker(cache.shrink)
    shrink_slab(100, GFP_KERNEL, 1000)
    assert cache.gfps == [GFP_KERNEL]


@given(st.integers(0, 20_000), st.integers(0, 2000), st.integers(0, 2000))
@settings(max_examples=50, deadline=None)
def test_the_answer_is_the_number_of_objects_that_went(objects, scanned, lru_pages):
    kernel = Kernel()
    shrink_slab = ShrinkSlab(kernel, VmStat())
    cache = Cache(objects)
    shrink_slab.register_shrinker(cache.shrink)
    freed = shrink_slab(scanned, GFP_KERNEL, lru_pages)
    kernel.shutdown()
    assert freed == objects - cache.objects


def test_what_is_owed_is_taken_from_the_shrinker_while_it_works(shrink_slab):
    """Who reclaims meanwhile adds to nothing, and does not scan the same share again."""
    seen = []

    def shrink(_nr, _gfp):
        seen.append(shrinker.nr)
        return 10_000

    shrinker = shrink_slab.register_shrinker(shrink)
    shrinker.nr = 500
    shrink_slab(0, GFP_KERNEL, 100_000)
    assert seen[0] == 500 and set(seen[1:]) == {0}
    assert shrinker.nr == (500 + 6) % SHRINK_BATCH, "32 pages scanned at least: 4 * 32 // 2 * 10000 // 100001 = 6"


def test_a_sum_that_overflows_a_long_is_set_right_and_said(shrink_slab):
    shrinker = shrink_slab.register_shrinker(lambda nr, _gfp: -1 if nr else 1000)
    shrinker.nr = (1 << 63) - 1
    shrink_slab(1000, GFP_KERNEL, 0)
    assert shrinker.nr == 1000
    assert "shrink_slab: nr=-922337203" in shrink_slab.printk.buffer[-1][2]


def test_a_cache_that_grows_while_it_shrinks_has_freed_nothing(shrink_slab):
    sizes = iter(range(1000, 100_000))
    shrink_slab.register_shrinker(lambda _nr, _gfp: next(sizes))
    assert shrink_slab(100, GFP_KERNEL, 99) == 0
    assert shrink_slab.vmstat.slabs_scanned > 0


@given(st.integers(0, 5000), st.integers(1, 8), st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 600))
@settings(max_examples=50, deadline=None)
def test_the_arithmetic_is_the_kernels(objects, seeks, scanned, lru_pages, owed):
    """4 * scanned / seeks * objects / (lru_pages + 1), at most twice the objects, in batches of 128."""
    kernel = Kernel()
    shrink_slab = ShrinkSlab(kernel, VmStat())
    shrinker = shrink_slab.register_shrinker(lambda _nr, _gfp: objects, seeks)
    shrinker.nr = owed
    shrink_slab(scanned, GFP_KERNEL, lru_pages)
    kernel.shutdown()
    expected = min(owed + 4 * (scanned or 32) // seeks * objects // (lru_pages + 1), 2 * objects)
    assert shrink_slab.vmstat.slabs_scanned == expected // SHRINK_BATCH * SHRINK_BATCH
    assert shrinker.nr == expected % SHRINK_BATCH
