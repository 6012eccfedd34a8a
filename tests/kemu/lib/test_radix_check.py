"""The checker of radix trees: it finds what is damaged, and says nothing of a sound tree."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.core import Kernel
from kemu.lib.radix_check import check_tree
from kemu.lib.radix_tree import MAX_INDEX, TAG_DIRTY, TAG_WRITEBACK, RadixNode, RadixNodes, RadixTree

KEYS = (0, 1, 63, 64, 4100)


def make_tree(keys, tagged=()) -> RadixTree:
    """Return a tree of items at ``keys``; those in ``tagged`` are dirty."""
    kernel = Kernel()
    addresses = itertools.count(0x1000, 0x1000)
    tree = RadixTree(0x20, RadixNodes(kernel, lambda _gfp: next(addresses), lambda _address: None))
    for key in keys:
        assert tree.insert(key, f"item {key}") == 0
    for key in tagged:
        tree.tag_set(key, TAG_DIRTY)
    kernel.shutdown()
    return tree


def leaf(tree) -> RadixNode:
    """Return the lowest node of the smallest keys."""
    node = tree.rnode
    for _ in range(tree.height - 1):
        node = node.slots[0]
    return node


@given(st.sets(st.integers(0, MAX_INDEX) | st.integers(0, 5000), max_size=12), st.data())
@settings(max_examples=40, deadline=None)
def test_a_sound_tree_passes_whatever_was_put_in_and_taken_out(keys, data):
    keys = sorted(keys)
    tree = make_tree(keys, [key for key in keys if data.draw(st.booleans())])
    check_tree(tree)
    for key in keys:
        tree.delete(key)
        check_tree(tree)


def test_a_wrong_count_of_a_node_is_found_and_the_node_named():
    tree = make_tree(KEYS)
    node = leaf(tree)
    node.count += 1
    with pytest.raises(KernelBug, match=f"node {node.address:#x} counts 4, and 3 slots"):
        check_tree(tree)


def test_an_item_lost_from_its_slot_is_found():
    tree = make_tree(KEYS)
    leaf(tree).slots[1] = None
    with pytest.raises(KernelBug, match="counts 3, and 2 slots"):
        check_tree(tree)


def test_an_empty_node_is_found():
    tree = make_tree(KEYS)
    node = leaf(tree)
    node.slots = [None] * 64
    node.count = 0
    with pytest.raises(KernelBug, match="counts 0"):
        check_tree(tree)


def test_a_tag_that_the_level_above_does_not_know_is_found():
    tree = make_tree(KEYS)
    leaf(tree).tags[TAG_WRITEBACK] |= 1
    with pytest.raises(KernelBug, match=f"tag {TAG_WRITEBACK} disagrees"):
        check_tree(tree)


def test_a_tag_lost_below_is_found():
    tree = make_tree(KEYS, tagged=[1])
    leaf(tree).tags[TAG_DIRTY] = 0
    with pytest.raises(KernelBug, match=f"tag {TAG_DIRTY} disagrees"):
        check_tree(tree)


def test_a_tag_of_an_empty_slot_is_found():
    tree = make_tree(KEYS, tagged=[1])
    leaf(tree).tags[TAG_DIRTY] |= 1 << 5
    with pytest.raises(KernelBug, match="of an empty slot"):
        check_tree(tree)


def test_a_tag_of_an_empty_tree_is_found():
    tree = make_tree(())
    tree.height = 1
    tree.tags[TAG_DIRTY] = True
    with pytest.raises(KernelBug, match="empty, but tagged"):
        check_tree(tree)


def test_a_wrong_number_of_items_is_found():
    tree = make_tree(KEYS)
    tree.nr_items -= 1
    with pytest.raises(KernelBug, match="5 items, counted 4"):
        check_tree(tree)


def test_a_tree_that_did_not_shrink_is_found():
    tree = make_tree((1,))
    top = RadixNode(0x9000)
    top.slots[0] = tree.rnode
    top.count = 1
    tree.rnode, tree.height = top, tree.height + 1
    with pytest.raises(KernelBug, match="higher than"):
        check_tree(tree)
