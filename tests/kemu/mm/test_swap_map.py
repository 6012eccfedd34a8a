"""Slots of an area (mm/swap_map.py)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.mm.swap_map import SWAP_MAP_BAD, SWAP_MAP_MAX, SWAPFILE_CLUSTER, SwapMap


def test_slot_0_is_the_header_and_never_given():
    slots = SwapMap(4)
    assert [slots.scan() for _ in range(4)] == [1, 2, 3, 0]
    assert slots.counts[0] == SWAP_MAP_BAD
    slots.check()


def test_a_full_area_has_no_bits_and_the_first_free_slot_brings_them_back():
    slots = SwapMap(4)
    for _ in range(3):
        slots.scan()
    assert (slots.lowest_bit, slots.highest_bit) == (4, 0)
    slots.free(2)
    assert (slots.lowest_bit, slots.highest_bit) == (2, 2)
    assert slots.scan() == 2


def test_a_cluster_begins_where_256_slots_in_a_row_are_free():
    slots = SwapMap(2000)
    for _ in range(300):
        slots.scan()
    for offset in range(1, 100):
        slots.free(offset)
    # the second cluster began at 257, and goes on; when it is over, [1, 100) is too short for a third
    taken = [slots.scan() for _ in range(SWAPFILE_CLUSTER)]
    assert taken[:212] == list(range(301, 513))
    assert taken[212] == 513


def test_without_a_free_cluster_the_lowest_slots_are_taken():
    slots = SwapMap(1000)
    for _ in range(999):
        slots.scan()
    for offset in range(2, 1000, 2):
        slots.free(offset)
    slots.cluster_nr = 0
    assert [slots.scan() for _ in range(3)] == [2, 4, 6]


def test_counts_go_up_with_users_and_the_last_one_frees():
    slots = SwapMap(10)
    offset = slots.scan()
    assert slots.duplicate(offset)
    assert slots.free(offset) == 1
    assert slots.free(offset) == 0
    assert slots.inuse_pages == 0


def test_an_overflowed_count_never_falls_again():
    slots = SwapMap(10)
    offset = slots.scan()
    for _ in range(SWAP_MAP_MAX + 10):
        assert slots.duplicate(offset)
    assert slots.counts[offset] == SWAP_MAP_MAX
    assert slots.free(offset) == SWAP_MAP_MAX


@pytest.mark.parametrize("offset", [0, 3, 10, 11])
def test_free_and_bad_slots_have_no_users(offset):
    slots = SwapMap(10)
    assert not slots.duplicate(offset)
    with pytest.raises(KernelBug, match="unused or bad"):
        slots.free(offset)


def test_bad_slots_are_jumped():
    slots = SwapMap(6)
    slots.mark_bad(2)
    slots.mark_bad(3)
    slots.pages -= 2
    assert [slots.scan() for _ in range(4)] == [1, 4, 5, 0]
    assert slots.next_in_use(1) == 1
    assert slots.next_in_use(2) == 4
    slots.check()


def test_next_in_use_ends_with_0():
    slots = SwapMap(6)
    slots.scan()
    assert slots.next_in_use(2) == 0


def test_check_finds_a_slot_outside_the_bits():
    slots = SwapMap(6)
    slots.lowest_bit = 3
    with pytest.raises(KernelBug, match="outside"):
        slots.check()


def reference_scan(counts, state):
    """scan_swap_map() word for word, slot by slot."""
    if not state["highest"]:
        return 0
    goto_lowest = False
    if not state["cluster_nr"]:
        state["cluster_nr"] = SWAPFILE_CLUSTER - 1
        if state["pages"] - state["inuse"] < SWAPFILE_CLUSTER:
            goto_lowest = True
        else:
            offset = state["lowest"]
            last = offset + SWAPFILE_CLUSTER - 1
            found = False
            while last <= state["highest"]:
                if counts[offset]:
                    last = offset + SWAPFILE_CLUSTER
                elif offset == last:
                    state["next"] = offset - SWAPFILE_CLUSTER + 1
                    found = True
                    break
                offset += 1
            goto_lowest = not found
    else:
        state["cluster_nr"] -= 1
    offset = state["next"]
    if goto_lowest or offset > state["highest"]:
        offset = state["lowest"]
    while True:
        if not counts[offset]:
            return offset
        offset += 1
        if offset > state["highest"]:
            offset = state["lowest"]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 1200), st.lists(st.tuples(st.booleans(), st.integers(0, 2000), st.integers(1, 300)), max_size=12))
def test_the_search_finds_what_the_kernels_walk_finds(size, actions):
    slots = SwapMap(size)
    used = []
    for take, where, count in actions:
        for _ in range(count):
            if take:
                state = {
                    "highest": slots.highest_bit,
                    "lowest": slots.lowest_bit,
                    "cluster_nr": slots.cluster_nr,
                    "pages": slots.pages,
                    "inuse": slots.inuse_pages,
                    "next": slots.cluster_next,
                }
                expected = reference_scan(slots.counts, state)
                offset = slots.scan()
                assert offset == expected
                if offset:
                    used.append(offset)
            elif used:
                slots.free(used.pop(where % len(used)))
        slots.check()
    assert len(used) == slots.inuse_pages


def test_a_claimed_slot_is_taken_once():
    slots = SwapMap(10)
    assert slots.claim(4)
    assert not slots.claim(4)
    assert (slots.counts[4], slots.inuse_pages) == (1, 1)
    slots.check()


@pytest.mark.parametrize("offset", [-1, 0, 3, 10, 2**24])
def test_a_header_a_bad_slot_and_one_outside_cannot_be_claimed(offset):
    slots = SwapMap(10)
    slots.mark_bad(3)
    before = list(slots.counts)
    assert not slots.claim(offset)
    assert list(slots.counts) == before


@given(st.lists(st.integers(1, 39), unique=True), st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_what_is_claimed_is_never_given_out_and_all_else_is(claimed, scans):
    slots = SwapMap(40)
    assert all(slots.claim(offset) for offset in claimed)
    given_out = [offset for offset in (slots.scan() for _ in range(scans)) if offset]
    assert not set(given_out) & set(claimed)
    assert len(given_out) == min(scans, 39 - len(claimed))
    slots.check()
    for offset in claimed:
        assert slots.free(offset) == 0
    slots.check()
