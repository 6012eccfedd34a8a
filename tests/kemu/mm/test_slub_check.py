"""The checker of caches finds what is damaged."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.gfp import GFP_ATOMIC, PAGE_SIZE
from kemu.mm.slub_cache import PG_frozen
from kemu.mm.slub_check import check_cache, free_objects, objects_in_use
from slab_ground import slab_ground


@pytest.fixture
def sg():
    with slab_ground() as machine:
        yield machine


def make_cache(sg, count, flags=0):
    """Return a cache of 100 bytes, and ``count`` objects of it."""
    cache = sg.slub.kmem_cache_create("victim", 100, flags=flags)
    return cache, [sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC) for _ in range(count)]


def test_a_double_free_without_debugging_is_found_by_the_check(sg):
    cache, (first, second) = make_cache(sg, 2)
    for address in (first, second, first):
        sg.slub.kmem_cache_free(cache, address)
    with pytest.raises(KernelBug, match=f"slub victim: slab .*: object {first:#x} was freed twice"):
        check_cache(cache)


def test_objects_in_use_are_those_that_users_hold(sg):
    cache, objects = make_cache(sg, PAGE_SIZE // 100 + 5)
    for address in objects[:7]:
        sg.slub.kmem_cache_free(cache, address)
    assert objects_in_use(cache) == len(objects) - 7
    check_cache(cache)


def test_free_objects_are_those_of_the_slab_and_those_of_the_cpu(sg):
    cache, objects = make_cache(sg, 3)
    page = sg.slub.virt_to_page(objects[0])
    sg.slub.kmem_cache_free(cache, objects[1])
    every = range(page.address, page.address + cache.objects * cache.size, cache.size)
    assert sorted(free_objects(cache, page)) == [address for address in every if address not in (objects[0], objects[2])]


def _wrong_inuse(_cache, page):
    page.mapcount -= 1


def _lost_frozen_flag(_cache, page):
    page.flags &= ~PG_frozen


def _foreign_page(_cache, page):
    page.slab = None


def _listed_twice(cache, page):
    cache.partial[page.pfn] = page


def _stray(cache, page):
    del cache.slabs[page.pfn]


def _no_object(cache, _page):
    cache.cpu_slab[0].freelist[0] += 1


def _lost_page(cache, _page):
    cache.cpu_slab[0].page = None


def _wrong_fast_pfn(cache, _page):
    cache.cpu_slab[0].fast_pfn += 1


def _freelist_without_fast_path(cache, _page):
    cache.cpu_slab[0].fast_pfn = -1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_wrong_inuse, "inuse"),
        (_lost_frozen_flag, "frozen flag and cpu slabs disagree"),
        (_foreign_page, "not marked as a slab of the cache"),
        (_listed_twice, "a cpu slab and on the partial list"),
        (_stray, "are listed, but are no slabs"),
        (_no_object, "is no object of it"),
        (_lost_page, "CPU 0 has free objects without a slab"),
        (_wrong_fast_pfn, "a slab that it does not hold"),
        (_freelist_without_fast_path, "but has a freelist"),
    ],
)
def test_the_check_finds_damage(sg, damage, said):
    cache, (first,) = make_cache(sg, 1)
    check_cache(cache)
    damage(cache, sg.slub.virt_to_page(first))
    with pytest.raises(KernelBug, match=said):
        check_cache(cache)
