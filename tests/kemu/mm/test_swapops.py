"""Swap entries: two numbers in one word."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.mm.swapops import BITS_PER_LONG, MAX_SWAPFILES, SWP_OFFSET_MASK, swp_entry, swp_offset, swp_type

types = st.integers(0, 31)
offsets = st.integers(0, SWP_OFFSET_MASK)


@given(types, offsets)
@settings(max_examples=50, deadline=None)
def test_an_entry_gives_back_its_type_and_its_offset(kind, offset):
    entry = swp_entry(kind, offset)
    assert (swp_type(entry), swp_offset(entry)) == (kind, offset)


@given(types, offsets)
@settings(max_examples=50, deadline=None)
def test_an_entry_fits_a_word(kind, offset):
    assert 0 <= swp_entry(kind, offset) < 1 << BITS_PER_LONG


@given(types, offsets, types, offsets)
@settings(max_examples=50, deadline=None)
def test_entries_are_in_the_order_of_their_areas_and_then_of_their_slots(kind, offset, other_kind, other_offset):
    assert (swp_entry(kind, offset) < swp_entry(other_kind, other_offset)) == ((kind, offset) < (other_kind, other_offset))


def test_an_offset_too_large_does_not_spill_into_the_type():
    assert swp_entry(3, SWP_OFFSET_MASK + 1 + 7) == swp_entry(3, 7)


def test_the_type_stands_in_the_five_top_bits():
    assert swp_entry(1, 0) == 1 << 59


def test_two_of_the_32_types_are_no_swap_areas():
    assert MAX_SWAPFILES == 30


def test_no_entry_is_the_header_of_the_first_area():
    assert (swp_type(0), swp_offset(0)) == (0, 0)
