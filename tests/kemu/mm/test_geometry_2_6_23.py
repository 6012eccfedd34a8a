"""The arithmetic of SLUB against the table of 2.6.23 with 4 KB pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.mm.geometry import BootWords
from kemu.mm.geometry_2_6_23 import Geometry2623
from kemu.mm.gfp import PAGE_SIZE
from kemu.mm.slub_geometry import (
    KMALLOC_SIZES,
    SLAB_DESTROY_BY_RCU,
    SLAB_HWCACHE_ALIGN,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    kmalloc_index,
)

GEOMETRY = Geometry2623()
calculate_sizes = GEOMETRY.calculate_sizes

KMALLOC = [
    (1, 96, 0, 42),
    (2, 192, 0, 21),
    (3, 8, 0, 512),
    (4, 16, 0, 256),
    (5, 32, 0, 128),
    (6, 64, 0, 64),
    (7, 128, 0, 32),
    (8, 256, 0, 16),
    (9, 512, 0, 8),
    (10, 1024, 0, 4),
    (11, 2048, 1, 4),
]
OTHERS = [(320, 0, 12), (384, 0, 10), (704, 1, 11), (768, 0, 5), (1152, 1, 7), (1536, 1, 5), (4096, 1, 2), (8192, 1, 1)]


@pytest.mark.parametrize(("index", "size", "order", "objects"), KMALLOC)
def test_kmalloc_caches_have_the_kernels_order_and_objects(index, size, order, objects):
    assert KMALLOC_SIZES[index] == size
    assert calculate_sizes(size, 0, 0, has_ctor=False) == (size, order, objects)


@pytest.mark.parametrize(("size", "order", "objects"), OTHERS)
def test_other_sizes_have_the_kernels_order_and_objects(size, order, objects):
    assert calculate_sizes(size, 0, 0, has_ctor=False) == (size, order, objects)


@pytest.mark.parametrize(
    ("size", "index"),
    [(0, 0), (1, 3), (8, 3), (9, 4), (16, 4), (17, 5), (64, 6), (65, 1), (96, 1), (97, 7), (128, 7), (129, 2), (192, 2), (193, 8)],
)
def test_kmalloc_index_at_the_edges(size, index):
    assert kmalloc_index(size) == index


@given(st.integers(1, 2048))
def test_kmalloc_index_is_the_smallest_class_that_fits(size):
    assert KMALLOC_SIZES[kmalloc_index(size)] == min(each for each in KMALLOC_SIZES if each >= size)


def test_an_object_is_at_least_a_word_and_a_multiple_of_it():
    assert calculate_sizes(1, 0, 0, has_ctor=False)[0] == 8
    assert calculate_sizes(13, 0, 0, has_ctor=False)[0] == 16


@pytest.mark.parametrize(("flags", "has_ctor"), [(0, True), (SLAB_DESTROY_BY_RCU, False), (SLAB_POISON, False)])
def test_the_free_pointer_lies_behind_an_object_whose_contents_must_survive(flags, has_ctor):
    assert calculate_sizes(64, 0, flags, has_ctor=has_ctor)[0] == 72


def test_a_red_zone_takes_a_word_where_no_gap_serves():
    assert calculate_sizes(64, 0, SLAB_RED_ZONE, has_ctor=False)[0] == 64 + 8 + 8  # and a word of padding
    assert calculate_sizes(60, 0, SLAB_RED_ZONE, has_ctor=False)[0] == 64 + 8


def test_owner_tracking_takes_two_tracks():
    assert calculate_sizes(64, 0, SLAB_STORE_USER, has_ctor=False)[0] == 64 + 2 * 24
    assert Geometry2623(word=4).calculate_sizes(64, 0, SLAB_STORE_USER, has_ctor=False)[0] == 64 + 2 * 16


@pytest.mark.parametrize(
    ("boot", "size", "order"),
    [
        (BootWords(slub_max_order=0), 2048, 0),
        (BootWords(slub_max_order=3), 2048, 1),
        (BootWords(slub_min_order=2), 64, 2),
        (BootWords(slub_min_objects=16), 512, 1),
        (BootWords(slub_min_objects=16, slub_max_order=3), 512, 1),
        (BootWords(slub_min_objects=1, slub_max_order=0), 2048, 0),
    ],
)
def test_boot_words_move_the_order(boot, size, order):
    assert Geometry2623(boot=boot).order(size) == order


@pytest.mark.parametrize(("objsize", "size"), [(32, 32), (33, 64), (160, 192), (232, 256)])
def test_hwcache_align_rounds_to_lines_only_above_half_a_line(objsize, size):
    assert calculate_sizes(objsize, 0, SLAB_HWCACHE_ALIGN, has_ctor=False)[0] == size


def test_what_fits_no_slab_is_a_bug():
    with pytest.raises(KernelBug, match="fits no slab"):
        GEOMETRY.order(PAGE_SIZE << 12)


def test_slab_order_says_one_more_than_the_limit_when_nothing_fits():
    assert GEOMETRY.slab_order(3000, 1, 0, 8) == 1


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8192))
def test_the_order_holds_an_object_and_is_low_where_it_can_be(objsize):
    size, order, objects = calculate_sizes(objsize, 0, 0, has_ctor=False)
    assert objects >= 1
    assert objects * size <= PAGE_SIZE << order
    assert order <= GEOMETRY.default_max_order


def test_a_slab_that_could_not_be_counted_goes_below_slub_min_order():
    """64 K objects of 8 bytes are one more than page->inuse can count."""
    geometry = Geometry2623(boot=BootWords(slub_min_order=7))
    assert (geometry.order(8), geometry.order(16)) == (6, 7)
