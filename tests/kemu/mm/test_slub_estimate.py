"""How many pages objects can cost at most."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from slab_ground import slab_ground


@pytest.fixture
def sg():
    with slab_ground(ncpus=2) as machine:
        yield machine


@given(st.integers(1, 2048), st.lists(st.integers(0, 1), max_size=60))
@settings(max_examples=30, deadline=None)
def test_a_fresh_cache_never_costs_more_than_the_estimate(size, cpus):
    with slab_ground(ncpus=2) as sg:
        cache = sg.slub.kmem_cache_create("objects", size)
        for cpu in cpus:
            sg.cpu(cpu)
            sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC)
        assert len(cache.slabs) << cache.order <= sg.slub.kmem_estimate_pages(cache, GFP_KERNEL, len(cpus))


@given(st.lists(st.tuples(st.integers(1, 2048), st.integers(0, 1)), max_size=60))
@settings(max_examples=30, deadline=None)
def test_kmallocs_of_any_sizes_never_cost_more_than_the_estimate_of_their_bytes(requests):
    with slab_ground(ncpus=2) as sg:
        before = sg.pa.vmstat.nr_slab
        for size, cpu in requests:
            sg.cpu(cpu)
            sg.slub.kmalloc(size, GFP_ATOMIC)
        assert sg.pa.vmstat.nr_slab - before <= sg.slub.kestimate(GFP_KERNEL, sum(size for size, _ in requests))


def test_no_objects_cost_what_the_slabs_of_the_cpus_may_hold(sg):
    cache = sg.slub.kmem_cache_create("objects", 500)
    assert sg.slub.kmem_estimate_pages(cache, GFP_KERNEL, 0) == 2 << cache.order


def test_a_slab_of_one_object_costs_no_cpu_anything(sg):
    cache = sg.slub.kmem_cache_create("objects", 8192)
    assert sg.slub.kmem_estimate_pages(cache, GFP_KERNEL, 7) == 7 * 2


def test_no_cache_costs_nothing(sg):
    assert sg.slub.kmem_estimate_pages(None, GFP_KERNEL, 10) == 0


@pytest.mark.parametrize(("size", "pages"), [(4096, 3), (4097, 6), (16384, 12)])
def test_above_2048_bytes_objects_count_as_the_pages_that_they_are(sg, size, pages):
    assert sg.slub.kestimate_single(size, GFP_KERNEL, 3) == pages


def test_up_to_2048_bytes_objects_count_as_those_of_their_cache(sg):
    assert sg.slub.kestimate_single(100, GFP_KERNEL, 50) == sg.slub.kmem_estimate_pages(sg.cache(128), GFP_KERNEL, 50)


@pytest.mark.parametrize(("nbytes", "pages"), [(0, 0), (1, 1), (4096, 1), (4097, 2)])
def test_with_the_patch_off_bytes_are_rounded_up_to_pages(nbytes, pages):
    with slab_ground(patches="none") as sg:
        assert sg.slub.kestimate(GFP_KERNEL, nbytes) == pages


@pytest.mark.parametrize("size", [100, 5000])
def test_with_the_patch_off_so_are_objects_of_any_size(size):
    with slab_ground(patches="none", ncpus=2) as sg:
        assert sg.slub.kestimate_single(size, GFP_KERNEL, 3) == -(-3 * size // 4096)
