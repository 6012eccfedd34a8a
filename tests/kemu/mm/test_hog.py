"""The atomic hog takes what atomic requests can get, and gives it back."""

from __future__ import annotations

import pytest

from kemu.mm.gfp import _GFP_MEMALLOC, GFP_ATOMIC
from kemu.mm.hog import AtomicHog
from kemu.mm.slub_geometry import KMALLOC_SIZES
from mm_ground import MIB
from slab_ground import slab_ground


@pytest.fixture
def machine():
    with slab_ground(8 * MIB) as machine:
        yield machine


def test_it_leaves_the_emergency_pool_and_three_eighths(machine):
    machine.pa.adjust_memalloc_reserve(300)
    AtomicHog(machine.slub).hog()
    assert machine.pa.at_the_floor() is not None
    assert machine.pa.nr_free_pages() == machine.pa.zonelist[0].atomic_floor(0) > 300


def test_no_size_class_has_an_object_left(machine):
    machine.slub.kmalloc(8, GFP_ATOMIC)
    AtomicHog(machine.slub).hog()
    assert [machine.slub.kmalloc(size, GFP_ATOMIC) for size in KMALLOC_SIZES if size] == [None] * 11


def test_entitled_requests_are_still_served(machine):
    AtomicHog(machine.slub).hog()
    assert machine.slub.kmalloc(2048, GFP_ATOMIC | _GFP_MEMALLOC) is not None


def test_released_objects_are_free_again(machine):
    hog = AtomicHog(machine.slub)
    taken = hog.hog()
    assert hog.release(10) == 10 and len(hog.held) == taken - 10
    assert hog.release() == taken - 10 and hog.held == []
    assert machine.pa.at_the_floor() is None
    machine.slub.check()
    machine.pa.check()


def test_its_appetite_can_be_limited(machine):
    hog = AtomicHog(machine.slub)
    assert hog.hog(100) == 100 == len(hog.held)
    assert machine.pa.at_the_floor() is None


@pytest.mark.parametrize("emergency", [0, 200])
@pytest.mark.parametrize("patches", ["all", "none"])
def test_d2_it_takes_free_down_to_emergency_and_three_eighths_of_min(patches, emergency):
    """patches.md D.2, row 08: without the pool 3/8 of pages_min are left, with it the pool stays as well."""
    with slab_ground(8 * MIB, patches=patches) as machine:
        machine.pa.adjust_memalloc_reserve(emergency)
        hog = AtomicHog(machine.slub)
        hog.hog()
        zone = machine.pa.zonelist[0]
        discounted = zone.pages_min - zone.pages_min // 2
        discounted -= discounted // 4
        pool = emergency if patches == "all" else 0
        assert machine.pa.nr_free_pages() == discounted + zone.lowmem_reserve[zone.zone_idx] + pool
        hog.release()
        machine.slub.shrink_all()
        assert machine.pa.vmstat.nr_slab == 0


def test_it_empties_the_partial_slabs_of_every_class(machine):
    keep = []
    for size in filter(None, KMALLOC_SIZES):
        objects = [machine.slub.kmalloc(size, GFP_ATOMIC) for _ in range(3 * machine.cache(size).objects)]
        keep += objects[::2]
        for address in objects[1::2]:
            machine.slub.kfree(address)
    caches = [machine.cache(size) for size in KMALLOC_SIZES if size]
    assert all(cache.partial for cache in caches)
    AtomicHog(machine.slub).hog()
    assert not any(cache.partial for cache in caches)
    assert not any(c.freelist for cache in caches for c in cache.cpu_slab)
    machine.slub.check()


def test_on_two_nodes_it_takes_both():
    with slab_ground(32 * MIB, ncpus=2, nodes=2) as machine:
        AtomicHog(machine.slub).hog()
        assert machine.pa.at_the_floor() is not None
        assert all(machine.slub.kmalloc_node(64, GFP_ATOMIC, node) is None for node in (0, 1))


def test_a_hog_that_asks_for_more_gets_more(machine):
    machine.pa.adjust_memalloc_reserve(100)
    AtomicHog(machine.slub, GFP_ATOMIC | _GFP_MEMALLOC).hog()
    assert machine.pa.nr_free_pages() < 100
