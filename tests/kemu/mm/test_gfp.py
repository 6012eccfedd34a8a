"""gfp bits, their combinations, and how people read and write them."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.mm import gfp as g

# include/linux/gfp.h of 2.6.24, and patch 10's bit
BITS = {
    "__GFP_DMA": 0x01,
    "__GFP_HIGHMEM": 0x02,
    "__GFP_DMA32": 0x04,
    "__GFP_WAIT": 0x10,
    "__GFP_HIGH": 0x20,
    "__GFP_IO": 0x40,
    "__GFP_FS": 0x80,
    "__GFP_COLD": 0x100,
    "__GFP_NOWARN": 0x200,
    "__GFP_REPEAT": 0x400,
    "__GFP_NOFAIL": 0x800,
    "__GFP_NORETRY": 0x1000,
    "__GFP_MEMALLOC": 0x2000,
    "__GFP_COMP": 0x4000,
    "__GFP_ZERO": 0x8000,
    "__GFP_NOMEMALLOC": 0x10000,
    "__GFP_HARDWALL": 0x20000,
    "__GFP_THISNODE": 0x40000,
    "__GFP_RECLAIMABLE": 0x80000,
    "__GFP_MOVABLE": 0x100000,
}


@pytest.mark.parametrize(("name", "value"), BITS.items())
def test_every_bit_is_that_of_2_6_23_mm1_and_has_the_kernels_name(name, value):
    assert getattr(g, name[1:]) == value == g.parse_gfp(name)
    assert name in g.decode_gfp(value) or g.decode_gfp(value) in ("GFP_NOIO", "GFP_ATOMIC")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GFP_NOWAIT", 0x00),
        ("GFP_ATOMIC", 0x20),
        ("GFP_NOIO", 0x10),
        ("GFP_NOFS", 0x50),
        ("GFP_KERNEL", 0xD0),
        ("GFP_TEMPORARY", 0x800D0),
        ("GFP_USER", 0x200D0),
        ("GFP_HIGHUSER", 0x200D2),
        ("GFP_HIGHUSER_MOVABLE", 0x1200D2),
        ("GFP_NOFS_PAGECACHE", 0x100050),
        ("GFP_USER_PAGECACHE", 0x1200D0),
        ("GFP_HIGHUSER_PAGECACHE", 0x1200D2),
        ("GFP_THISNODE", 0x41200),
        ("GFP_DMA", 0x01),
        ("GFP_DMA32", 0x04),
    ],
)
def test_every_combination_has_the_kernels_value_and_can_be_said(name, value):
    assert getattr(g, name) == value == g.parse_gfp(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GFP_RECLAIM_MASK_BASE", 0x11EF0),
        ("GFP_RECLAIM_MASK", 0x13EF0),
        ("GFP_CONSTRAINT_MASK", 0x60000),
        ("GFP_MOVABLE_MASK", 0x180000),
        ("GFP_BITS_SHIFT", 21),
        ("GFP_BITS_MASK", 0x1FFFFF),
        ("_GFP_MOVABLE_2623", 0x80000),
        ("GFP_BITS_SHIFT_2623", 20),
        ("GFP_LEVEL_MASK_2623", 0xF5FF0),
    ],
)
def test_masks_are_those_of_2_6_23_mm1_and_of_2_6_23(name, value):
    assert getattr(g, name) == value


def test_no_slab_allocator_hears_of_highmem_or_of_bits_that_do_not_exist():
    assert g.GFP_SLAB_BUG_MASK & 0xFFFFFFFF == 0xFFE00006


def test_the_swap_sockets_mask_reads_as_in_the_series():
    assert g.decode_gfp(0x2020) == "GFP_ATOMIC|__GFP_MEMALLOC"


def test_the_preload_of_the_swap_cache_reads_as_in_the_series():
    assert g.decode_gfp(0x10220) == "GFP_ATOMIC|__GFP_NOWARN|__GFP_NOMEMALLOC"


@settings(max_examples=50, deadline=None)
@given(st.integers(0, g.GFP_BITS_MASK))
def test_what_is_decoded_is_parsed_back(mask):
    assert g.parse_gfp(g.decode_gfp(mask)) == mask


def test_all_pairs_of_bits_are_parsed_back():
    for a, b in combinations(range(g.GFP_BITS_SHIFT), 2):
        mask = 1 << a | 1 << b
        assert g.parse_gfp(g.decode_gfp(mask)) == mask


def test_bits_that_do_not_exist_are_shown_as_a_number():
    assert g.decode_gfp(0x200020) == "GFP_ATOMIC|0x200000"
    assert g.decode_gfp(0x8) == "0x8"


@pytest.mark.parametrize("text", ["GFP_KERNLE", "", "0x200000", "GFP_ATOMIC|", "-1", "9" * 5000, "GFP_ATOMIC||GFP_KERNEL", "\0"])
def test_what_is_no_flag_is_refused_with_a_sentence(text):
    with pytest.raises(ConfigError, match="gfp"):
        g.parse_gfp(text)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_mask_or_a_config_error(text):
    try:
        assert 0 <= g.parse_gfp(text) <= g.GFP_BITS_MASK
    except ConfigError as error:
        assert "gfp" in str(error)


# the mask of a kernel without -mm1


def test_mainlines_movable_stands_where_mm1_has_reclaimable():
    assert g.decode_gfp(0xA00D2, mainline=True) == "GFP_HIGHUSER_MOVABLE"
    assert g.parse_gfp("0xa00d2", mainline=True) == g.GFP_HIGHUSER_MOVABLE
    assert g.decode_gfp(0x100010, mainline=True) == "GFP_NOIO|0x100000"
    with pytest.raises(ConfigError, match="above the 20"):
        g.parse_gfp("0x100000", mainline=True)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, (1 << 20) - 1))
def test_a_mainline_mask_means_the_same_however_it_is_read(mask):
    assert g.parse_gfp(g.decode_gfp(mask, mainline=True)) == g.parse_gfp(hex(mask), mainline=True)


# ALLOC_*

# name, value before patch 01, value after
ALLOC = [
    ("ALLOC_NO_WATERMARKS", 0x01, 0x20),
    ("ALLOC_WMARK_MIN", 0x02, 0x04),
    ("ALLOC_WMARK_LOW", 0x04, 0x08),
    ("ALLOC_WMARK_HIGH", 0x08, 0x10),
    ("ALLOC_HARDER", 0x10, 0x01),
    ("ALLOC_HIGH", 0x20, 0x02),
    ("ALLOC_CPUSET", 0x40, 0x40),
]


@pytest.mark.parametrize(("name", "before", "after"), ALLOC)
def test_alloc_flags_have_two_numberings(name, before, after):
    assert (getattr(g, name + "_2623"), getattr(g, name)) == (before, after)
    assert g.alloc_flags_2623(after) == before
    assert g.decode_alloc_flags(after) == g.decode_alloc_flags(before, base=True) == name


def test_alloc_flags_before_patch_01_have_other_numbers():
    assert g.alloc_flags_2623(g.ALLOC_WMARK_MIN | g.ALLOC_HIGH | g.ALLOC_HARDER) == 0x32
    assert g.alloc_flags_2623(g.ALLOC_WMARK_LOW | g.ALLOC_CPUSET) == 0x44


@given(st.integers(0, 0x7F))
@settings(max_examples=50, deadline=None)
def test_both_numberings_read_alike(alloc_flags):
    assert g.decode_alloc_flags(g.alloc_flags_2623(alloc_flags), base=True) == g.decode_alloc_flags(alloc_flags)


def test_alloc_flags_are_read_by_name():
    assert g.decode_alloc_flags(0x24) == "ALLOC_WMARK_MIN|ALLOC_NO_WATERMARKS"
    assert g.decode_alloc_flags(0) == "0"


@pytest.mark.parametrize(
    ("size", "order"), [(0, 0), (1, 0), (4095, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2), (1 << 22, 10), (1 << 40, 28)]
)
def test_get_order_is_the_smallest_block_that_holds(size, order):
    assert g.get_order(size) == order
