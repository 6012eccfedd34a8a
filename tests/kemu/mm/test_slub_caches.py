"""How caches are made, shrunk and removed."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug, KernelPanic
from kemu.mm.gfp import _GFP_COMP, _GFP_DMA, _GFP_RECLAIMABLE, GFP_ATOMIC
from kemu.mm.slub_geometry import (
    SLAB_CACHE_DMA,
    SLAB_DESTROY_BY_RCU,
    SLAB_HWCACHE_ALIGN,
    SLAB_PANIC,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
)
from slab_ground import slab_ground


@pytest.fixture
def sg():
    with slab_ground(ncpus=2) as machine:
        yield machine
        machine.slub.check()
        machine.pa.check()


def fill(sg, cache, slabs):
    """Take as many objects as so many slabs hold."""
    return [sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC) for _ in range(slabs * cache.objects)]


def test_a_cache_itself_costs_no_memory(sg):
    before = sg.pa.vmstat.pgalloc
    sg.slub.kmem_cache_create("objects", 100)
    assert sg.pa.vmstat.pgalloc == before


@pytest.mark.parametrize(
    ("name", "size", "align", "why"),
    [
        ("kmalloc-64", 64, 0, "the name is taken"),
        ("none", 0, 0, "objects of 0 bytes"),
        ("less", -1, 0, "objects of -1 bytes"),
        ("huge", 1 << 40, 0, "fits no slab"),
        ("odd", 64, 48, "alignment of 48"),
        ("under", 64, -8, "alignment of -8"),
    ],
)
def test_what_can_be_no_cache_is_a_bug_and_with_slab_panic_a_panic(sg, name, size, align, why):
    before = dict(sg.slub.caches)
    with pytest.raises(KernelBug, match=f"kmem_cache_create.*{why}"):
        sg.slub.kmem_cache_create(name, size, align)
    with pytest.raises(KernelPanic, match=f"Cannot create slabcache {name}: .*{why}"):
        sg.slub.kmem_cache_create(name, size, align, SLAB_PANIC)
    assert sg.slub.caches == before


@pytest.mark.parametrize("align", [16, 32, 256])
def test_objects_lie_on_the_alignment_that_was_asked_for(sg, align):
    cache = sg.slub.kmem_cache_create("objects", 20, align)
    assert all(address % align == 0 for address in fill(sg, cache, 1))


@pytest.mark.parametrize(
    ("size", "flags", "gfp"),
    [(100, 0, 0), (2000, 0, _GFP_COMP), (100, SLAB_CACHE_DMA, _GFP_DMA), (100, SLAB_RECLAIM_ACCOUNT, _GFP_RECLAIMABLE)],
)
def test_every_page_request_carries_what_the_cache_is(sg, size, flags, gfp):
    assert sg.slub.kmem_cache_create("objects", size, flags=flags).allocflags == gfp


def test_the_constructor_sees_every_object_of_a_fresh_slab_once(sg):
    seen = []
    cache = sg.slub.kmem_cache_create("objects", 500, ctor=seen.append)
    objects = fill(sg, cache, 1)
    assert sorted(seen) == sorted(objects)


def test_shrinking_gives_the_slabs_of_all_cpus_back(sg):
    cache = sg.slub.kmem_cache_create("objects", 500)
    for cpu in (0, 1):
        sg.cpu(cpu)
        sg.slub.kmem_cache_free(cache, sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC))
    assert len(cache.slabs) == 2
    sg.slub.kmem_cache_shrink(cache)
    assert not cache.slabs


def test_shrinking_puts_the_fullest_slab_first(sg):
    cache = sg.slub.kmem_cache_create("objects", 500)
    objects = fill(sg, cache, 3)
    per = cache.objects
    for address in (*objects[:4], *objects[per : per + 2], *objects[2 * per : 2 * per + 3]):
        sg.slub.kmem_cache_free(cache, address)
    sg.slub.kmem_cache_shrink(cache)
    assert [page.mapcount for page in cache.partial.values()] == [per - 2, per - 3, per - 4]


def test_a_cache_with_objects_in_use_stays(sg):
    cache = sg.slub.kmem_cache_create("objects", 500)
    held = fill(sg, cache, 1)
    assert sg.slub.kmem_cache_destroy(cache) == len(held)
    assert sg.slub.caches["objects"] is cache


def test_a_destroyed_cache_leaves_its_name_and_no_pages(sg):
    before = sg.pa.vmstat.nr_slab
    cache = sg.slub.kmem_cache_create("objects", 500)
    for address in fill(sg, cache, 3):
        sg.slub.kmem_cache_free(cache, address)
    assert sg.slub.kmem_cache_destroy(cache) == 0
    assert "objects" not in sg.slub.caches
    assert sg.pa.vmstat.nr_slab == before


def test_shrinking_all_caches_leaves_what_is_in_use(sg):
    held = sg.slub.kmalloc(64, GFP_ATOMIC)
    for size in (32, 64, 2048):
        sg.slub.kfree(sg.slub.kmalloc(size, GFP_ATOMIC))
    sg.slub.shrink_all()
    assert [cache.name for cache in sg.slub.caches.values() if cache.slabs] == ["kmalloc-64"]
    assert list(sg.cache(64).slabs) == [sg.slub.virt_to_page(held).pfn]


def test_equally_full_slabs_change_places_when_a_cache_is_shrunk(sg):
    """Each slab is put at the head of the pile of those that are as full."""
    cache = sg.slub.kmem_cache_create("objects", 500)
    objects = fill(sg, cache, 3)
    for place in range(3):
        sg.slub.kmem_cache_free(cache, objects[place * cache.objects])
    before = list(cache.partial)
    assert len(before) == 2  # the third is the cpu slab
    sg.slub.kmem_cache_shrink(cache)
    after = list(cache.partial)
    assert [pfn for pfn in after if pfn in before] == before[::-1]


def test_reclaimable_slabs_are_counted_apart(sg):
    vmstat = sg.pa.vmstat
    cache = sg.slub.kmem_cache_create("inodes", 500, flags=SLAB_RECLAIM_ACCOUNT)
    address = sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC)
    sg.slub.kmalloc(64, GFP_ATOMIC)
    assert (vmstat.nr_slab_reclaimable, vmstat.nr_slab) == (1 << cache.order, (1 << cache.order) + 1)
    sg.slub.kmem_cache_free(cache, address)
    sg.slub.kmem_cache_destroy(cache)
    assert vmstat.nr_slab_reclaimable == 0


def test_a_cache_that_is_gone_cannot_be_destroyed_again(sg):
    cache = sg.slub.kmem_cache_create("objects", 500)
    assert sg.slub.kmem_cache_destroy(cache) == 0
    with pytest.raises(KernelBug, match="no cache of this machine"):
        sg.slub.kmem_cache_destroy(cache)


def test_validating_a_cache_without_debugging_finds_nothing(sg):
    cache = sg.slub.kmem_cache_create("objects", 500)
    fill(sg, cache, 2)
    assert sg.slub.validate_slab_cache(cache) == 2


# merging


@pytest.fixture
def merging():
    with slab_ground(merge=True) as machine:
        yield machine
        machine.slub.check()


def test_caches_of_like_size_are_one(merging):
    first = merging.slub.kmem_cache_create("first", 300)
    second = merging.slub.kmem_cache_create("second", 298)
    assert second is first and first.refcount == 2
    assert merging.slub.aliases == {"second": first} and "second" not in merging.slub.caches


def test_a_merged_cache_clears_the_larger_of_its_objects(merging):
    first = merging.slub.kmem_cache_create("first", 298)
    merging.slub.kmem_cache_create("second", 300)
    assert first.objsize == 300


def test_new_caches_join_the_kmalloc_caches(merging):
    assert merging.slub.kmem_cache_create("tiny", 60) is merging.cache(64)


@pytest.mark.parametrize(
    ("size", "align", "flags", "ctor"),
    [
        (300, 0, SLAB_POISON, None),
        (300, 0, SLAB_DESTROY_BY_RCU, None),
        (300, 0, SLAB_RECLAIM_ACCOUNT, None),
        (300, 0, SLAB_CACHE_DMA, None),
        (300, 0, SLAB_HWCACHE_ALIGN, None),
        (300, 0, 0, lambda _address: None),
        (290, 0, 0, None),
        (305, 0, 0, None),
    ],
)
def test_caches_that_are_not_alike_stay_apart(merging, size, align, flags, ctor):
    first = merging.slub.kmem_cache_create("first", 300)
    assert merging.slub.kmem_cache_create("second", size, align, flags, ctor) is not first
    assert not merging.slub.aliases


def test_the_last_user_of_a_merged_cache_destroys_it(merging):
    cache = merging.slub.kmem_cache_create("first", 300)
    merging.slub.kmem_cache_create("second", 300)
    assert merging.slub.kmem_cache_destroy(cache) == 0 and cache.name in merging.slub.caches
    assert merging.slub.kmem_cache_destroy(cache) == 0
    assert "first" not in merging.slub.caches and not merging.slub.aliases


@pytest.mark.parametrize(("slub_debug", "merge"), [("", False), ("F,none", True)])
def test_without_the_switch_or_with_debugging_nothing_is_merged(slub_debug, merge):
    with slab_ground(slub_debug=slub_debug, merge=merge) as sg:
        first = sg.slub.kmem_cache_create("first", 300)
        assert sg.slub.kmem_cache_create("second", 300) is not first
