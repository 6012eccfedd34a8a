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
