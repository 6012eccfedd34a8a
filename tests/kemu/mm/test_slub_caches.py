"""How caches are made, shrunk and removed."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.gfp import _GFP_COMP, _GFP_DMA, _GFP_RECLAIMABLE, GFP_ATOMIC
from kemu.mm.slub_geometry import SLAB_CACHE_DMA, SLAB_RECLAIM_ACCOUNT
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


@pytest.mark.parametrize(("name", "size"), [("kmalloc-64", 64), ("none", 0), ("less", -1)])
def test_a_name_that_is_taken_or_a_size_of_none_is_a_bug(sg, name, size):
    with pytest.raises(KernelBug, match="kmem_cache_create"):
        sg.slub.kmem_cache_create(name, size)


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
