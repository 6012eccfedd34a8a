"""kmalloc's relatives: zeros, arrays, other sizes, other zones, and sizes that are none."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.gfp import _GFP_DMA, _GFP_HIGHMEM, _GFP_NOWARN, GFP_ATOMIC, GFP_KERNEL, PAGE_SIZE
from kemu.mm.slub import ZERO_SIZE_PTR
from kemu.mm.slub_geometry import (
    SLAB_CACHE_DMA,
    SLAB_DESTROY_BY_RCU,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
)
from slab_ground import slab_ground


@pytest.fixture
def sg():
    with slab_ground() as machine:
        yield machine
        machine.slub.check()
        machine.pa.check()


@pytest.mark.parametrize("size", [-1, -4096, 1 << 40, 1 << 63, (1 << 64) - 1, (PAGE_SIZE << 10) + 1])
def test_a_size_that_no_block_has_is_null(sg, size):
    before = sg.pa.allocated_pages()
    assert sg.slub.kmalloc(size, GFP_KERNEL) is None
    assert sg.slub.kzalloc(size, GFP_ATOMIC | _GFP_NOWARN) is None
    assert sg.pa.allocated_pages() == before


def test_kmalloc_of_nothing_is_the_same_for_everybody(sg):
    assert sg.slub.kzalloc(0, GFP_KERNEL) == sg.slub.kcalloc(0, 8, GFP_KERNEL) == ZERO_SIZE_PTR
    assert sg.slub.kmalloc(0, GFP_ATOMIC | _GFP_DMA) == ZERO_SIZE_PTR


def test_kcalloc_of_a_product_that_is_no_size_is_null(sg):
    assert sg.slub.kcalloc(1 << 33, 1 << 33, GFP_KERNEL) is None
    assert sg.slub.kcalloc(-1, 8, GFP_KERNEL) is None
    assert sg.slub.ksize(sg.slub.kcalloc(10, 10, GFP_KERNEL)) == 128


# krealloc


def test_krealloc_of_null_is_kmalloc_and_to_nothing_is_kfree(sg):
    address = sg.slub.krealloc(None, 100, GFP_KERNEL)
    assert sg.slub.ksize(address) == 128
    assert sg.slub.krealloc(address, 0, GFP_KERNEL) == ZERO_SIZE_PTR
    assert sg.slub.objects_in_use(sg.cache(128)) == 0


def test_krealloc_within_what_is_there_gives_the_same_address(sg):
    address = sg.slub.kmalloc(65, GFP_KERNEL)
    assert sg.slub.krealloc(address, 96, GFP_KERNEL) == address
    assert sg.slub.krealloc(address, 3, GFP_KERNEL) == address


def test_krealloc_beyond_moves_and_frees_the_old(sg):
    address = sg.slub.kmalloc(64, GFP_KERNEL)
    moved = sg.slub.krealloc(address, 3000, GFP_KERNEL)
    assert sg.slub.ksize(moved) == 4096
    assert sg.slub.objects_in_use(sg.cache(64)) == 0
    sg.slub.kfree(moved)


def test_krealloc_from_no_memory_allocates(sg):
    address = sg.slub.krealloc(ZERO_SIZE_PTR, 10, GFP_KERNEL)
    assert sg.slub.ksize(address) == 16


def test_a_krealloc_that_fails_leaves_the_old_memory(sg):
    address = sg.slub.kmalloc(64, GFP_KERNEL)
    assert sg.slub.krealloc(address, 1 << 40, GFP_KERNEL) is None
    assert sg.slub.krealloc(address, -1, GFP_KERNEL) is None
    assert sg.slub.objects_in_use(sg.cache(64)) == 1


# DMA


def test_a_dma_cache_is_made_by_the_first_request(sg):
    assert "kmalloc_dma-64" not in sg.slub.caches
    address = sg.slub.kmalloc(50, GFP_ATOMIC | _GFP_DMA)
    cache = sg.slub.caches["kmalloc_dma-64"]
    assert cache.flags & SLAB_CACHE_DMA and cache.allocflags & _GFP_DMA
    assert sg.slub.virt_to_page(address).zone.name == "DMA"
    assert sg.slub.kmalloc_caches_dma[6] is cache
    sg.slub.kfree(address)
    assert sg.slub.objects_in_use(cache) == 0


def test_a_dma_cache_is_made_once(sg):
    objects = [sg.slub.kmalloc(64, GFP_ATOMIC | _GFP_DMA) for _ in range(3)]
    assert len(sg.slub.caches["kmalloc_dma-64"].slabs) == 1
    assert sg.slub.ksize(objects[0]) == 64


def test_large_dma_requests_are_pages_of_that_zone(sg):
    address = sg.slub.kmalloc(5000, GFP_ATOMIC | _GFP_DMA)
    assert sg.slub.virt_to_page(address).zone.name == "DMA"
    sg.slub.kfree(address)


def test_an_estimate_of_dma_memory_makes_and_counts_the_dma_caches(sg):
    """v14's kestimate(): dma_kmalloc_cache() of every class."""
    assert sg.slub.kestimate_single(512, GFP_ATOMIC | _GFP_DMA, 128) == 17
    assert [name for name in sg.slub.caches if "dma" in name] == ["kmalloc_dma-512"]
    assert sg.slub.kestimate(GFP_ATOMIC | _GFP_DMA, 262144) == 140 == sg.slub.kestimate(GFP_ATOMIC, 262144)
    assert sum("dma" in name for name in sg.slub.caches) == 11


def test_objects_have_an_address_always(sg):
    with pytest.raises(KernelBug, match="GFP_SLAB_BUG_MASK"):
        sg.slub.kmalloc(64, GFP_KERNEL | _GFP_HIGHMEM)


# ksize


@pytest.mark.parametrize(
    ("flags", "usable"),
    [(0, 104), (SLAB_RED_ZONE, 100), (SLAB_POISON, 100), (SLAB_STORE_USER, 104), (SLAB_DESTROY_BY_RCU, 104)],
)
def test_ksize_leaves_out_what_debugging_and_rcu_need(sg, flags, usable):
    cache = sg.slub.kmem_cache_create("thing", 100, flags=flags)
    assert sg.slub.ksize(sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC)) == usable
    assert flags == 0 or cache.size > usable or flags == SLAB_STORE_USER


def test_a_pointer_is_valid_where_an_object_of_the_cache_begins(sg):
    address = sg.slub.kmalloc(64, GFP_KERNEL)
    other = sg.slub.kmalloc(5000, GFP_KERNEL)
    cache = sg.cache(64)
    assert sg.slub.kmem_ptr_validate(cache, address)
    assert not sg.slub.kmem_ptr_validate(cache, address + 8)
    assert not sg.slub.kmem_ptr_validate(sg.cache(128), address)
    assert not any(sg.slub.kmem_ptr_validate(cache, wrong) for wrong in (0, other, -1))


def test_traces_show_nodes_and_dma_requests(sg):
    sg.kernel.trace.enable("kmem:k*")
    sg.slub.kmalloc_node(64, GFP_KERNEL, 0)
    sg.slub.kmalloc(50, GFP_ATOMIC | _GFP_DMA)
    text = "\n".join(sg.kernel.trace.last(20))
    assert "kmem_cache_alloc_node" in text and "node=0" in text and "bytes_req=50 bytes_alloc=64" in text
