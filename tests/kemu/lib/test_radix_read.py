"""Reading of a radix tree: keys, tags and holes, in order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.core import Kernel
from kemu.lib.radix_read import MAX_INDEX, maxindex
from kemu.lib.radix_tree import TAG_DIRTY, TAG_WRITEBACK, RadixNodes, RadixTree


@pytest.fixture(scope="module")
def nodes():
    kernel = Kernel()
    addresses = itertools.count(0x1000, 560)
    yield RadixNodes(kernel, lambda _gfp: next(addresses), lambda _address: None)
    kernel.shutdown()


@pytest.mark.parametrize(("height", "largest"), [(0, 0), (1, 63), (2, 4095), (10, (1 << 60) - 1), (11, MAX_INDEX)])
def test_the_largest_key_of_a_height(height, largest):
    assert maxindex(height) == largest


@pytest.mark.parametrize(
    ("index", "max_scan", "hole"),
    [(0, 10, 3), (2, 10, 3), (3, 10, 3), (0, 2, 2), (0, 0, 0), (5, 10, 6), (MAX_INDEX, 10, 0), (MAX_INDEX - 1, 1, MAX_INDEX - 1)],
)
def test_the_next_hole(nodes, index, max_scan, hole):
    tree = RadixTree(0x20, nodes)
    for key in (0, 1, 2, 5, MAX_INDEX):
        tree.insert(key, key + 1)
    assert tree.next_hole(index, max_scan) == hole


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.integers(0, 300) | st.integers(0, MAX_INDEX), st.sampled_from([(), (0,), (1,), (0, 1)]), max_size=30),
    st.integers(0, 300) | st.integers(0, MAX_INDEX),
    st.integers(0, 40),
)
def test_many_items_come_in_the_order_of_their_keys(nodes, tagged, first, count):
    tree = RadixTree(0x20, nodes)
    for key, tags in tagged.items():
        tree.insert(key, key + 1)
        for tag in tags:
            tree.tag_set(key, tag)
    assert tree.gang_lookup(first, count) == [key + 1 for key in sorted(tagged) if key >= first][:count]
    for tag in (TAG_DIRTY, TAG_WRITEBACK):
        wanted = [key for key in sorted(tagged) if tag in tagged[key]]
        assert tree.gang_lookup_tag(first, count, tag) == [key + 1 for key in wanted if key >= first][:count]
        assert [key for key, _ in tree.items(0, tag)] == wanted
        assert tree.tagged(tag) is bool(wanted)
        assert all(tree.tag_get(key, tag) is (tag in tagged[key]) for key in tagged)


def test_a_key_that_is_none_finds_nothing(nodes):
    tree = RadixTree(0x20, nodes)
    tree.insert(3, "a")
    assert tree.lookup(-1) is None and tree.lookup(MAX_INDEX + 1) is None
