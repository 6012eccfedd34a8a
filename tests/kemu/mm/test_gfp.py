"""gfp bits, their combinations, and how people read and write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu.mm import gfp as g


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GFP_NOWAIT", 0x00),
        ("GFP_ATOMIC", 0x20),
        ("GFP_NOIO", 0x10),
        ("GFP_NOFS", 0x50),
        ("GFP_KERNEL", 0xD0),
        ("GFP_USER", 0x200D0),
        ("GFP_HIGHUSER", 0x200D2),
        ("GFP_THISNODE", 0x41200),
        ("GFP_RECLAIM_MASK_BASE", 0x11EF0),
        ("GFP_RECLAIM_MASK", 0x13EF0),
        ("_GFP_MEMALLOC", 0x2000),
        ("_GFP_NOMEMALLOC", 0x10000),
        ("_GFP_RECLAIMABLE", 0x80000),
        ("_GFP_MOVABLE", 0x100000),
    ],
)
def test_values_are_those_of_2_6_23_mm1(name, value):
    assert getattr(g, name) == value


def test_the_swap_sockets_mask_reads_as_in_the_series():
    assert g.decode_gfp(0x2020) == "GFP_ATOMIC|__GFP_MEMALLOC"


def test_the_preload_of_the_swap_cache_reads_as_in_the_series():
    assert g.decode_gfp(0x10220) == "GFP_ATOMIC|__GFP_NOWARN|__GFP_NOMEMALLOC"


@settings(max_examples=50, deadline=None)
@given(st.integers(0, g.GFP_BITS_MASK))
def test_what_is_decoded_is_parsed_back(mask):
    assert g.parse_gfp(g.decode_gfp(mask)) == mask


@pytest.mark.parametrize("text", ["GFP_KERNLE", "", "0x200000", "GFP_ATOMIC|", "-1"])
def test_what_is_no_flag_is_refused_with_a_sentence(text):
    with pytest.raises(ConfigError, match="gfp"):
        g.parse_gfp(text)


def test_alloc_flags_before_patch_01_have_other_numbers():
    assert g.alloc_flags_2623(g.ALLOC_WMARK_MIN | g.ALLOC_HIGH | g.ALLOC_HARDER) == 0x32
    assert g.alloc_flags_2623(g.ALLOC_NO_WATERMARKS) == 0x01
    assert g.alloc_flags_2623(g.ALLOC_WMARK_LOW | g.ALLOC_CPUSET) == 0x44


def test_alloc_flags_are_read_by_name():
    assert g.decode_alloc_flags(0x24) == "ALLOC_WMARK_MIN|ALLOC_NO_WATERMARKS"
    assert g.decode_alloc_flags(0) == "0"


@pytest.mark.parametrize(("size", "order"), [(1, 0), (4096, 0), (4097, 1), (8192, 1), (8193, 2), (1 << 22, 10)])
def test_get_order_is_the_smallest_block_that_holds(size, order):
    assert g.get_order(size) == order
