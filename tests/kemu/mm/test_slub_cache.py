"""A cache, and what each CPU keeps of it."""

from __future__ import annotations

from kemu.mm.page import PG_active, PG_slab
from kemu.mm.slub_cache import NO_PFN, KmemCache, KmemCacheCpu, PG_frozen, PG_slab_debug, PG_slab_reserve


def test_a_cpu_begins_with_nothing_and_takes_no_frees():
    c = KmemCacheCpu()
    assert (c.freelist, c.page, c.fast_pfn, c.reserve) == ([], None, NO_PFN, 0)


def test_every_cpu_has_a_part_of_its_own():
    cache = KmemCache("objects", 100, 0, (104, 0, 39), 3)
    cache.cpu_slab[1].freelist.append(1)
    assert [len(c.freelist) for c in cache.cpu_slab] == [0, 1, 0]


def test_the_geometry_is_distance_order_and_objects():
    cache = KmemCache("objects", 100, 0, (104, 1, 78), 1)
    assert (cache.objsize, cache.size, cache.order, cache.objects) == (100, 104, 1, 78)


def test_a_new_cache_has_no_slabs():
    cache = KmemCache("objects", 100, 0, (104, 0, 39), 1)
    assert not cache.slabs and not cache.partial


def test_the_flags_of_slab_pages_are_four_different_bits():
    assert (PG_slab | PG_frozen | PG_slab_debug | PG_slab_reserve).bit_count() == 4


def test_frozen_is_slubs_meaning_of_active():
    assert PG_frozen == PG_active


def test_an_oops_prints_the_cache_and_its_slabs():
    cache = KmemCache("objects", 100, 0, (104, 0, 39), 1)
    assert repr(cache) == "<KmemCache objects objsize=100 size=104 order=0 objects=39 slabs=0 partial=0>"
