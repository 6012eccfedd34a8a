"""Patch 05, mm: kmem_estimate_pages(): how many pages a number of objects or bytes can cost at most."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC, GFP_KERNEL
from kemu.mm.hog import AtomicHog
from kemu.mm.slub_geometry import KMALLOC_SIZES
from slab_ground import MIB, slab_ground

TABLE = [(1, 12, 140, 17), (2, 24, 152, 18), (4, 48, 176, 20), (8, 96, 224, 24)]


@pytest.mark.parametrize(("cpus", "overhead", "bytes_", "objects"), TABLE)
def test_the_table_of_the_section(cpus, overhead, bytes_, objects):
    with slab_ground(ncpus=cpus) as sg:
        assert sg.slub.kestimate(GFP_ATOMIC, 0) == overhead
        assert sg.slub.kestimate(GFP_ATOMIC, 262144) == bytes_
        assert sg.slub.kestimate_single(512, GFP_ATOMIC, 128) == objects
        assert sg.slub.kmem_estimate_pages(sg.cache(512), GFP_ATOMIC, 128) == objects


def test_no_objects_cost_what_the_cpus_slabs_may_hold():
    with slab_ground(ncpus=4) as sg:
        assert sg.slub.kmem_estimate_pages(sg.cache(2048), GFP_ATOMIC, 0) == 8


def test_a_slab_of_one_object_costs_no_cpu_anything():
    """Invariant e."""
    with slab_ground(ncpus=4) as sg:
        cache = sg.slub.kmem_cache_create("huge", 8000)
        assert (cache.objects, cache.order) == (1, 1)
        assert sg.slub.kmem_estimate_pages(cache, GFP_ATOMIC, 5) == 10


def test_no_cache_is_no_pages_and_a_warning():
    with slab_ground() as sg:
        assert sg.slub.kmem_estimate_pages(None, GFP_ATOMIC, 5) == 0
        assert "no cache" in sg.kernel.printk.buffer[-1][2]


def test_a_size_that_has_no_cache_counts_as_its_pages():
    with slab_ground() as sg:
        assert sg.slub.kestimate_single(5000, GFP_ATOMIC, 3) == 6


def test_a_kmalloc_of_nothing_has_no_cache():
    with slab_ground() as sg, pytest.raises(KernelBug, match="ZERO_SIZE_PTR"):
        sg.slub.kestimate_single(0, GFP_ATOMIC, 3)


@pytest.mark.parametrize(("nbytes", "pages"), [(-1, 12), (-4096, 10), (-262144, (1 << 32) - 116)])
def test_a_negative_number_of_bytes_is_a_huge_one_cut_off_to_an_unsigned_int(nbytes, pages):
    """size_t in, unsigned out: small ones cancel against the overhead of 12 pages."""
    with slab_ground() as sg:
        assert sg.slub.kestimate(GFP_ATOMIC, nbytes) == pages


@pytest.mark.parametrize(("objects", "pages"), [(-1, 1), (-7, 1), (-8, 1), (-15, 0), (-800, (1 << 32) - 98)])
def test_a_negative_number_of_objects_divides_as_in_c(objects, pages):
    """8 objects a slab, one CPU."""
    with slab_ground() as sg:
        assert sg.slub.kmem_estimate_pages(sg.cache(512), GFP_ATOMIC, objects) == pages


def test_cpus_that_come_later_are_not_counted():
    """The estimate is of the moment it is made."""
    with slab_ground(ncpus=2) as sg:
        reserve = sg.slub.kestimate(GFP_ATOMIC, 0)
        sg.kernel.cpus.append(sg.kernel.cpus[0])
        assert sg.slub.kestimate(GFP_ATOMIC, 0) == reserve + 12
        sg.kernel.cpus.pop()


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 4097, 262144])
def test_off_it_is_the_bytes_alone(nbytes):
    with slab_ground(patches="all,-5", ncpus=4) as sg:
        assert sg.slub.kestimate(GFP_ATOMIC, nbytes) == -(-nbytes // 4096)
        assert sg.slub.kestimate_single(512, GFP_ATOMIC, 10) == 2
        assert sg.slub.kmem_estimate_pages(sg.cache(512), GFP_ATOMIC, 9) == 2


def one_object_per_class_and_cpu(patches):
    """D.2: pages held less pages estimated."""
    with slab_ground(patches=patches, ncpus=4) as sg:
        for cpu in range(4):
            sg.cpu(cpu)
            for size in KMALLOC_SIZES[1:]:
                sg.slub.kmalloc(size, GFP_KERNEL)
        return sg.pa.vmstat.nr_slab - sg.slub.kestimate(GFP_ATOMIC, 4 * sum(KMALLOC_SIZES))


def test_one_object_of_each_class_on_each_cpu_fits():
    assert one_object_per_class_and_cpu("all") <= 0


def test_without_the_patch_it_is_short_by_the_open_slabs():
    assert one_object_per_class_and_cpu("all,-5") == 48 - -(-4 * sum(KMALLOC_SIZES) // 4096)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(KMALLOC_SIZES[1:]), st.integers(0, 5000), st.integers(1, 3))
def test_the_estimate_is_monotone_and_covers_the_bytes(size, count, cpus):
    """Invariants b, c and f."""
    with slab_ground(ncpus=cpus) as sg, slab_ground(ncpus=cpus + 1) as more:
        estimate = sg.slub.kestimate_single(size, GFP_ATOMIC, count)
        assert estimate <= sg.slub.kestimate_single(size, GFP_ATOMIC, count + 1)
        assert estimate <= more.slub.kestimate_single(size, GFP_ATOMIC, count)
        assert estimate >= -(-count * size // 4096)
        overhead = sg.slub.kestimate_single(size, GFP_ATOMIC, 0)
        parts = sum(sg.slub.kestimate_single(size, GFP_ATOMIC, part) for part in (count // 3, count - count // 3))
        assert abs(parts - estimate) <= overhead + (1 << sg.cache(size).order)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([192, 256, 1024, 2048]),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 19)), max_size=120),
)
def test_no_sequence_within_the_number_holds_more_pages_than_estimated(size, limit, steps):
    """Invariant a: any CPUs, any order of frees, never more than ``limit`` objects at a time."""
    with slab_ground(ncpus=3) as sg:
        live = []
        for cpu, place in steps:
            sg.cpu(cpu)
            if len(live) == limit or (place < len(live) and place % 2):
                sg.slub.kfree(live.pop(place % len(live)))
            else:
                live.append(sg.slub.kmalloc(size, GFP_KERNEL))
            assert sg.pa.vmstat.nr_slab <= sg.slub.kestimate_single(size, GFP_ATOMIC, limit)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2048), st.integers(0, 1)), max_size=150))
def test_kestimate_covers_any_mix_of_sizes(requests):
    """Invariant d."""
    with slab_ground(16 * MIB, ncpus=2) as sg:
        for size, cpu in requests:
            sg.cpu(cpu)
            sg.slub.kmalloc(size, GFP_KERNEL)
        assert sg.pa.vmstat.nr_slab <= sg.slub.kestimate(GFP_ATOMIC, sum(size for size, _ in requests))


def refused_at_the_floor(patches):
    """D.2 with a reserve of that estimate: every kmalloc slab is full, then each CPU takes one object of each class."""
    with slab_ground(16 * MIB, patches, ncpus=4) as sg:
        assert sg.pa.adjust_memalloc_reserve(sg.slub.kestimate(GFP_ATOMIC, 4 * sum(KMALLOC_SIZES))) == 0
        hogs = []
        for cpu in range(4):
            sg.cpu(cpu)
            hogs.append(AtomicHog(sg.slub))
            hogs[-1].hog()
            sg.pa.drain_pages(cpu)
        for zone in sg.pa.zones:  # nothing but the pool is left
            sg.ground.hold(zone.pages_emerg, zone.name)
        refused = 0
        for cpu in range(4):
            sg.cpu(cpu)
            for size in reversed(KMALLOC_SIZES[1:]):
                refused += sg.entitled_kmalloc(size, GFP_ATOMIC | _GFP_NOWARN) is None
        return refused


def test_at_the_floor_the_reserve_holds_what_was_promised():
    assert refused_at_the_floor("all") == 0
    assert refused_at_the_floor("all,-5") > 20
