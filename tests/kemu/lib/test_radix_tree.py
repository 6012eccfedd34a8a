"""Radix trees: against a dict, and node by node."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kemu.errors import KernelBug
from kemu.kernel.core import Kernel
from kemu.kernel.errno import EEXIST, ENOMEM
from kemu.lib.radix_nodes import MAX_PATH
from kemu.lib.radix_tree import MAX_INDEX, TAG_DIRTY, TAG_WRITEBACK, RadixNodes, RadixTree, maxindex

GFP_ATOMIC = 0x20
GFP_KERNEL = 0xD0


class Nodes:
    """Node memory that can run out: ``left`` None is plenty."""

    def __init__(self, ncpus: int = 1) -> None:
        self.kernel = Kernel(ncpus=ncpus)
        self.left: int | None = None
        self.live: dict[int, None] = {}
        self.asked: list[int] = []
        self._next = 0x1000
        self.nodes = RadixNodes(self.kernel, self.alloc, self.free)

    def alloc(self, gfp: int) -> int | None:
        self.asked.append(gfp)
        if self.left is not None:
            if not self.left:
                return None
            self.left -= 1
        self._next += 560
        self.live[self._next] = None
        return self._next

    def free(self, address: int) -> None:
        del self.live[address]

    def tree(self, gfp: int = GFP_ATOMIC) -> RadixTree:
        return RadixTree(gfp, self.nodes)


@pytest.fixture
def memory():
    nodes = Nodes(ncpus=2)
    yield nodes
    nodes.kernel.shutdown()


# height and nodes


def test_key_zero_alone_needs_no_node(memory):
    tree = memory.tree()
    assert tree.insert(0, "a") == 0
    assert tree.lookup(0) == "a" and tree.lookup(1) is None and not memory.live
    assert tree.delete(0) == "a" and len(tree) == 0


@pytest.mark.parametrize(
    ("index", "height"), [(1, 1), (63, 1), (64, 2), (4095, 2), (4096, 3), (1 << 59, 10), (1 << 60, 11), (MAX_INDEX, 11)]
)
def test_a_tree_is_as_high_as_its_largest_key_needs(memory, index, height):
    tree = memory.tree()
    tree.insert(index, "a")
    assert tree.height == height == len(memory.live)
    assert tree.lookup(index) == "a"
    tree.check()


def test_the_largest_keys_of_each_height():
    assert [maxindex(height) for height in (0, 1, 2, 3, 11)] == [0, 63, 4095, 262143, MAX_INDEX]


def test_growing_puts_nodes_above_the_old_root(memory):
    tree = memory.tree()
    tree.insert(5, "a")
    tree.insert(4096, "b")
    assert tree.height == 3 and len(memory.live) == 5  # a root, two paths of two
    assert (tree.lookup(5), tree.lookup(4096)) == ("a", "b")
    tree.check()


def test_deleting_frees_nodes_and_shrinks_the_tree(memory):
    tree = memory.tree()
    for index in (0, 5, 4096):
        tree.insert(index, index + 1)
    assert tree.delete(4096) == 4097
    assert tree.height == 1 and len(memory.live) == 1
    tree.delete(5)
    assert tree.height == 0 and not memory.live and tree.lookup(0) == 1
    tree.check()


def test_deleting_what_is_not_there_is_nothing(memory):
    tree = memory.tree()
    assert tree.delete(7) is None
    tree.insert(1, "a")
    assert tree.delete(7) is None and tree.delete(70) is None and tree.delete(0) is None


def test_a_key_in_use_is_eexist(memory):
    tree = memory.tree()
    for index in (0, 9):
        tree.insert(index, "a")
        nodes = len(memory.live)
        assert tree.insert(index, "b") == -EEXIST
        assert tree.lookup(index) == "a" and len(memory.live) == nodes
    assert len(tree) == 2


# memory


@pytest.mark.parametrize("left", range(10))
def test_an_insert_that_fails_changes_nothing(memory, left):
    tree = memory.tree()
    tree.insert(5, "a")
    memory.left = left
    live = dict(memory.live)
    assert tree.insert(1 << 31, "b") == -ENOMEM  # 5 levels above the old root, 5 nodes in the new branch
    assert tree.height == 1 and memory.live == live and tree.lookup(5) == "a"
    tree.check()


def test_the_nodes_are_asked_for_with_the_trees_own_gfp(memory):
    memory.tree(GFP_ATOMIC).insert(1, "a")
    memory.tree(GFP_KERNEL).insert(1, "a")
    assert memory.asked == [GFP_ATOMIC, GFP_KERNEL]


def test_time_may_pass_in_the_allocator(memory):
    """Somebody inserts into the same tree while an insert waits for a node."""
    tree = memory.tree()
    real = memory.nodes._node_alloc

    def interrupted(gfp):
        memory.nodes._node_alloc = real
        assert tree.insert(70, "b") == 0
        return real(gfp)

    memory.nodes._node_alloc = interrupted
    assert tree.insert(3, "a") == 0
    assert (tree.lookup(3), tree.lookup(70), len(tree)) == ("a", "b", 2)
    tree.check()
    tree.delete(3)
    tree.delete(70)
    assert not memory.live


# preload


def test_preload_fills_the_stock_and_leaves_preemption_disabled(memory):
    assert memory.nodes.preload(GFP_KERNEL) == 0
    assert memory.kernel.sched.in_atomic()
    assert len(memory.nodes.stock[0]) == MAX_PATH == 12
    memory.nodes.preload_end()
    assert not memory.kernel.sched.in_atomic()


def test_a_full_stock_asks_for_nothing(memory):
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    asked = len(memory.asked)
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    assert len(memory.asked) == asked


def test_preload_that_fails_leaves_preemption_enabled_and_keeps_what_it_got(memory):
    memory.left = 3
    assert memory.nodes.preload(GFP_KERNEL) == -ENOMEM
    assert not memory.kernel.sched.in_atomic()
    assert len(memory.nodes.stock[0]) == 3


def test_preload_lets_its_allocations_sleep(memory):
    memory.nodes._node_alloc = lambda gfp: memory.kernel.sched.might_sleep() or memory.alloc(gfp)
    assert memory.nodes.preload(GFP_KERNEL) == 0
    memory.nodes.preload_end()


def test_after_preload_any_insert_succeeds(memory):
    tree = memory.tree()
    tree.insert(3, "a")
    memory.nodes.preload(GFP_KERNEL)
    memory.left = 0
    assert tree.insert(1 << 30, "b") == 0
    memory.nodes.preload_end()
    tree.check()


def test_the_stock_is_for_trees_that_may_not_wait(memory):
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    memory.left = 0
    assert memory.tree(GFP_KERNEL).insert(1, "a") == -ENOMEM
    assert memory.tree(GFP_ATOMIC).insert(1, "a") == 0


def test_the_stock_is_used_only_when_the_allocator_refuses(memory):
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    memory.tree().insert(1, "a")
    assert len(memory.nodes.stock[0]) == MAX_PATH


def test_each_cpu_has_its_stock(memory):
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    memory.left = 0
    memory.kernel.sched.cpu = memory.kernel.cpus[1]
    assert memory.tree().insert(1, "a") == -ENOMEM


def test_drain_gives_the_stock_back(memory):
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    memory.nodes.drain()
    assert not memory.live


# tags


def test_tags_reach_the_root_and_go_again(memory):
    tree = memory.tree()
    for index in (0, 70, 5000):
        tree.insert(index, index + 1)
    tree.tag_set(70, TAG_DIRTY)
    assert tree.tagged(TAG_DIRTY) and not tree.tagged(TAG_WRITEBACK)
    assert tree.tag_get(70, TAG_DIRTY) and not tree.tag_get(0, TAG_DIRTY) and not tree.tag_get(9999999, TAG_DIRTY)
    tree.check()
    assert tree.tag_clear(70, TAG_DIRTY) == 71
    assert not tree.tagged(TAG_DIRTY)
    tree.check()


def test_tagging_nothing_is_a_bug_and_clearing_nothing_is_nothing(memory):
    tree = memory.tree()
    with pytest.raises(KernelBug, match="nothing is at 0x5"):
        tree.tag_set(5, TAG_DIRTY)
    assert tree.tag_clear(5, TAG_DIRTY) is None


def test_deleting_an_item_takes_its_tags(memory):
    tree = memory.tree()
    for index in (3, 200):
        tree.insert(index, "a")
        tree.tag_set(index, TAG_WRITEBACK)
    tree.delete(3)
    assert tree.gang_lookup_tag(0, 9, TAG_WRITEBACK) == ["a"]
    tree.delete(200)
    assert not tree.tagged(TAG_WRITEBACK)


# places of items


@pytest.mark.parametrize("keys", [[0], [0, 1], [5, 700, MAX_INDEX]])
def test_an_item_is_replaced_in_its_place_and_keeps_its_tags(memory, keys):
    tree = memory.tree()
    for key in keys:
        tree.insert(key, f"old {key}")
        tree.tag_set(key, TAG_DIRTY)
    asked = len(memory.asked)
    for key in keys:
        tree.replace_slot(tree.lookup_slot(key), f"new {key}")
    tree.check()
    assert tree.gang_lookup_tag(0, 10, TAG_DIRTY) == [f"new {key}" for key in keys]
    assert len(memory.asked) == asked and len(tree) == len(keys)


def test_there_is_no_place_for_what_is_not_there(memory):
    tree = memory.tree()
    assert tree.lookup_slot(0) is None
    tree.insert(64, "a")
    assert tree.lookup_slot(0) is None and tree.lookup_slot(65) is None and tree.lookup_slot(1 << 40) is None
    with pytest.raises(KernelBug, match="anything but NULL"):
        tree.replace_slot(tree.lookup_slot(64), None)


def test_an_empty_tree_is_true():
    """So that ``if mapping.page_tree`` does not mean "if it has pages"."""
    nodes = Nodes()
    assert nodes.tree()
    nodes.kernel.shutdown()


# against a dict

KEYS = st.one_of(
    st.integers(0, 200),
    st.integers(0, 70_000),
    st.integers(0, MAX_INDEX),
    st.builds(lambda kind, offset: kind << 59 | offset, st.integers(0, 31), st.integers(0, 100)),
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, st.booleans(), max_size=40), KEYS, st.integers(1, 10))
def test_gang_lookups_give_items_in_order(keys, first, count):
    nodes = Nodes()
    tree = nodes.tree()
    for index, dirty in keys.items():
        assert tree.insert(index, index + 1) == 0
        if dirty:
            tree.tag_set(index, TAG_DIRTY)
    wanted = sorted(index for index in keys if index >= first)
    assert tree.gang_lookup(first, count) == [index + 1 for index in wanted[:count]]
    assert tree.gang_lookup_tag(first, count, TAG_DIRTY) == [index + 1 for index in wanted if keys[index]][:count]
    assert list(tree.items()) == [(index, index + 1) for index in sorted(keys)]
    nodes.kernel.shutdown()


class RadixMachine(RuleBasedStateMachine):
    """A tree, a dict and a set of tagged keys per tag; nodes are refused now and then."""

    @initialize()
    def boot(self):
        self.memory = Nodes()
        self.tree = self.memory.tree()
        self.model: dict[int, object] = {}
        self.tags = ({}, {})

    @rule(index=KEYS, left=st.one_of(st.none(), st.integers(0, 12)))
    def insert(self, index, left):
        self.memory.left = left
        error = self.tree.insert(index, index + 1)
        self.memory.left = None
        if index in self.model:
            assert error in (-EEXIST, -ENOMEM)
            assert left is not None or error == -EEXIST
        elif error:
            assert error == -ENOMEM and left is not None
        else:
            self.model[index] = index + 1

    @rule(data=st.data(), known=st.booleans(), index=KEYS)
    def delete(self, data, known, index):
        if known and self.model:
            index = data.draw(st.sampled_from(sorted(self.model)))
        assert self.tree.delete(index) == self.model.pop(index, None)
        for tagged in self.tags:
            tagged.pop(index, None)

    @rule(data=st.data(), tag=st.integers(0, 1), on=st.booleans())
    def tag(self, data, tag, on):
        if not self.model:
            return
        index = data.draw(st.sampled_from(sorted(self.model)))
        if on:
            assert self.tree.tag_set(index, tag) == index + 1
            self.tags[tag][index] = None
        else:
            assert self.tree.tag_clear(index, tag) == index + 1
            self.tags[tag].pop(index, None)

    @rule(index=KEYS)
    def lookup(self, index):
        assert self.tree.lookup(index) == self.model.get(index)

    @invariant()
    def same(self):
        if not hasattr(self, "tree"):
            return
        self.tree.check()
        assert dict(self.tree.items()) == self.model and len(self.tree) == len(self.model)
        for tag in (0, 1):
            assert dict.fromkeys(index for index, _ in self.tree.items(0, tag)) == self.tags[tag]
            assert self.tree.tagged(tag) == bool(self.tags[tag])

    def teardown(self):
        if hasattr(self, "tree"):
            for index in list(self.model):
                self.tree.delete(index)
            assert not self.memory.live
            self.memory.kernel.shutdown()


TestRadixMachine = RadixMachine.TestCase
TestRadixMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
