"""Slab pages: how they come, where they wait, how they go."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.gfp import _GFP_DMA32, _GFP_HIGHMEM, GFP_ATOMIC
from kemu.mm.page import PAGE_OFFSET, PG_slab
from kemu.mm.slub_cache import MIN_PARTIAL, PG_frozen
from slab_ground import slab_ground


@pytest.fixture
def sg():
    with slab_ground(ncpus=2) as machine:
        yield machine


@pytest.fixture
def cache(sg):
    return sg.slub.kmem_cache_create("objects", 500)


def alloc(sg, cache, count=1):
    return [sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC) for _ in range(count)]


def test_a_new_slab_has_all_objects_free_and_the_lowest_goes_first(sg, cache):
    page, reserve = sg.slub._new_slab(cache, GFP_ATOMIC)
    assert reserve == 0
    assert page.word_d == [page.address + cache.size * place for place in reversed(range(cache.objects))]


def test_a_slab_without_a_page_is_none(sg, cache):
    sg.floor()
    assert sg.slub._new_slab(cache, GFP_ATOMIC) == (None, 0)
    assert not cache.slabs


def test_only_a_slab_from_below_the_marks_is_tagged(sg, cache):
    sg.floor()
    with sg.memalloc():
        page, reserve = sg.slub._new_slab(cache, GFP_ATOMIC)
    assert reserve == 1
    assert sg.slub.is_reserve_backed(page.address)
    assert sg.slub.reserve_pages_by_holder() == {"objects": 1 << cache.order}


def test_a_discarded_slab_is_a_page_like_any_other(sg, cache):
    before = sg.pa.vmstat.nr_slab
    page, _ = sg.slub._new_slab(cache, GFP_ATOMIC)
    assert sg.pa.vmstat.nr_slab == before + (1 << cache.order)
    sg.slub._discard_slab(cache, page)
    assert (page.flags & PG_slab, page.mapping, sg.pa.vmstat.nr_slab) == (0, None, before)


def test_a_slab_with_objects_in_use_is_not_discarded(sg, cache):
    (address,) = alloc(sg, cache)
    with pytest.raises(KernelBug, match="discarding a slab"):
        sg.slub._discard_slab(cache, sg.slub.virt_to_page(address))


def test_a_flushed_cpu_gives_its_free_objects_back_to_the_slab(sg, cache):
    (address,) = alloc(sg, cache)
    page = sg.slub.virt_to_page(address)
    sg.slub.flush_cpu_slab(cache, 0)
    assert (page.mapcount, len(page.word_d), page.flags & PG_frozen) == (1, cache.objects - 1, 0)
    assert list(cache.partial) == [page.pfn]
    sg.slub.check()


def test_a_flushed_full_slab_is_in_no_list(sg, cache):
    alloc(sg, cache, cache.objects)
    sg.slub.flush_cpu_slab(cache, 0)
    assert not cache.partial and len(cache.slabs) == 1
    sg.slub.check()


def test_the_first_partial_slab_is_taken_and_frozen(sg, cache):
    (address,) = alloc(sg, cache)
    sg.slub.flush_cpu_slab(cache, 0)
    page = sg.slub._get_partial(cache, GFP_ATOMIC)
    assert page is sg.slub.virt_to_page(address)
    assert page.flags & PG_frozen and not cache.partial


def test_empty_slabs_are_kept_up_to_a_number(sg, cache):
    for _ in range(MIN_PARTIAL + 1):
        page, _ = sg.slub._new_slab(cache, GFP_ATOMIC)
        page.flags |= PG_frozen
        cache.cpu_slab[0].page = page
        sg.slub.flush_cpu_slab(cache, 0)
    assert len(cache.slabs) == len(cache.partial) == MIN_PARTIAL
    sg.slub.check()


def test_an_address_without_memory_has_no_page(sg):
    assert sg.slub.virt_to_page(PAGE_OFFSET - 4096) is None
    assert sg.slub.virt_to_head_page(0) is None


def test_a_slab_that_a_cpu_gives_up_is_used_first(sg, cache):
    """unfreeze_slab() of 2.6.23 to 2.6.24: to the head of the list."""
    objects = alloc(sg, cache, cache.objects + 1)
    sg.slub.kmem_cache_free(cache, objects[0])  # the first slab is partial now, the second the CPU's
    sg.slub.flush_cpu_slab(cache, 0)
    assert list(cache.partial) == [sg.slub.virt_to_page(objects[place]).pfn for place in (-1, 0)]


def test_an_empty_slab_that_a_cpu_gives_up_is_used_last(sg, cache):
    objects = alloc(sg, cache, cache.objects + 1)
    sg.slub.kmem_cache_free(cache, objects[0])
    sg.slub.kmem_cache_free(cache, objects[-1])
    sg.slub.flush_cpu_slab(cache, 0)
    assert list(cache.partial) == [sg.slub.virt_to_page(objects[place]).pfn for place in (0, -1)]
    sg.slub.check()


@pytest.mark.parametrize("gfp", [GFP_ATOMIC | _GFP_HIGHMEM, GFP_ATOMIC | _GFP_DMA32])
def test_a_slab_has_an_address(sg, cache, gfp):
    with pytest.raises(KernelBug, match="GFP_SLAB_BUG_MASK"):
        sg.slub._new_slab(cache, gfp)
    assert not cache.slabs
