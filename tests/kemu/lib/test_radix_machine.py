"""The radix tree against a dict and sets of tagged keys; nodes are SLUB's and can be refused, for any patches.

The model also knows how many nodes the tree must have: those that lie on the way to a key, no more and no fewer.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST, ENOMEM
from kemu.lib.radix_nodes import MAX_PATH, NODE_SIZE, RadixNodes
from kemu.lib.radix_tree import RadixTree
from kemu.mm import gfp as g
from kemu.mm.fault_inject import FailSlab
from kernel_sets import fix_sets, patch_sets
from leaks import assert_no_objects, assert_no_pages
from profiles import machine_settings
from slab_ground import SlabGround, slab_ground

TOP = (1 << 64) - 1
EDGES = sorted({edge for bits in range(0, 65, 6) for edge in ((1 << bits) - 1, 1 << bits) if edge <= TOP} | {TOP, 1 << 63})
KEYS = st.one_of(st.integers(0, 130), st.sampled_from(EDGES), st.integers(0, 1 << 14), st.integers(0, TOP))
TAGS = st.integers(0, 1)


def height(keys) -> int:
    """Levels of nodes that the largest key needs: six bits each; key 0 alone needs none."""
    largest = max(keys, default=0)
    return next(levels for levels in range(12) if largest < 64**levels)


def count_nodes(keys) -> int:
    """Count the nodes on the ways to all keys."""
    return sum(len({key // 64**level for key in keys}) for level in range(1, height(keys) + 1))


class RadixMachine(RuleBasedStateMachine):
    """Items come and go, are tagged and looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.sg: SlabGround | None = None

    @initialize(patches=patch_sets(), fixes=fix_sets(), gfp=st.sampled_from((g.GFP_ATOMIC, g.GFP_KERNEL)))
    def boot(self, patches, fixes, gfp):
        self.sg = self.stack.enter_context(slab_ground(512 << 12, str(patches), str(fixes), ncpus=2))
        slub = self.sg.slub
        self.cache = cache = slub.kmem_cache_create("radix_tree_node", NODE_SIZE)
        self.nodes = RadixNodes(
            self.sg.kernel, lambda gfp: slub.kmem_cache_alloc(cache, gfp), lambda address: slub.kmem_cache_free(cache, address)
        )
        self.tree = RadixTree(gfp, self.nodes)
        self.model: dict[int, object] = {}
        self.tagged: tuple[set[int], set[int]] = (set(), set())
        self.preloaded = [0, 0]  # per CPU
        self.answers: list[bool] = []  # of the injected failures: did it fail?

    @property
    def cpu(self) -> int:
        return self.sg.kernel.sched.cpu.id

    def new_nodes(self, key) -> int:
        """Count the nodes that an insert has to add."""
        return count_nodes({*self.model, key}) - count_nodes(self.model)

    def known_key(self, data):
        return data.draw(st.one_of(st.sampled_from(sorted(self.model)), KEYS) if self.model else KEYS)

    # rules

    @rule(key=KEYS)
    def insert(self, key):
        item = ("item", key)
        if key in self.model:
            assert self.tree.insert(key, item) == -EEXIST
            return
        assert self.tree.insert(key, item) == 0
        self.model[key] = item

    @rule(key=KEYS, good=st.integers(0, 12))
    def insert_with_few_nodes(self, key, good):
        """Only so many nodes come from the allocator; a tree that may not wait then has what was preloaded."""
        self.sg.slub.failslab = FailSlab(self.sg.kernel, ignore_gfp_wait=False, space=good * NODE_SIZE)
        needed = self.new_nodes(key)
        stock = 0 if self.tree.gfp & g._GFP_WAIT else self.preloaded[self.cpu]
        result = self.tree.insert(key, "few")
        self.sg.slub.failslab = None
        # `space` lets a request pass while more than its size is left
        granted = max(good - 1, 0)
        if key in self.model:
            assert result == -EEXIST
            return
        taken = min(max(needed - granted, 0), stock)
        self.preloaded[self.cpu] -= taken
        if needed > granted + stock:
            # what was got goes to the allocator, also what came from the stock
            assert result == -ENOMEM
        else:
            assert result == 0
            self.model[key] = "few"

    @rule(key=KEYS, good=st.integers(0, 14))
    def preload_and_insert(self, key, good):
        """After a preload that worked, an insert into a tree that may not wait cannot fail, if one path is all that it needs.

        An item at key 0 alone and then a large key: that takes two paths, of up to 21 nodes. Later kernels stock as many.
        """
        before = self.preloaded[self.cpu]
        self.sg.slub.failslab = FailSlab(self.sg.kernel, ignore_gfp_wait=False, space=good * NODE_SIZE)
        result = self.nodes.preload(g.GFP_KERNEL)
        granted = max(good - 1, 0)
        self.preloaded[self.cpu] = min(before + granted, MAX_PATH)
        assert result == (0 if before + granted >= MAX_PATH else -ENOMEM)
        assert self.sg.kernel.sched.cpu.preempt_count == (result == 0)
        if result == 0:
            self.sg.slub.failslab = FailSlab(self.sg.kernel, ignore_gfp_wait=False)
            if not self.tree.gfp & g._GFP_WAIT and key not in self.model:
                needed = self.new_nodes(key)
                self.preloaded[self.cpu] -= min(needed, MAX_PATH)
                assert self.tree.insert(key, "preloaded") == (0 if needed <= MAX_PATH else -ENOMEM)
                if needed <= MAX_PATH:
                    self.model[key] = "preloaded"
            self.nodes.preload_end()
        self.sg.slub.failslab = None

    @rule(cpu=st.integers(0, 1))
    def go_to_cpu(self, cpu):
        self.sg.cpu(cpu)

    @rule(data=st.data(), count=st.sampled_from((1, 1, 5)))
    def delete(self, data, count):
        for _ in range(count):
            key = self.known_key(data)
            assert self.tree.delete(key) == self.model.pop(key, None)
            for tagged in self.tagged:
                tagged.discard(key)

    @rule(data=st.data())
    def lookup(self, data):
        key = self.known_key(data)
        assert self.tree.lookup(key) == self.model.get(key)

    @rule(data=st.data(), count=st.one_of(st.integers(0, 5), st.just(1000)))
    def gang_lookup(self, data, count):
        first = self.known_key(data)
        expected = [self.model[key] for key in sorted(self.model) if key >= first]
        assert self.tree.gang_lookup(first, count) == expected[:count]

    @rule(data=st.data(), tag=TAGS, count=st.one_of(st.integers(0, 5), st.just(1000)))
    def gang_lookup_tag(self, data, tag, count):
        first = self.known_key(data)
        expected = [self.model[key] for key in sorted(self.tagged[tag]) if key >= first]
        assert self.tree.gang_lookup_tag(first, count, tag) == expected[:count]

    @rule(data=st.data(), tag=TAGS)
    def tag_set(self, data, tag):
        key = self.known_key(data)
        if key in self.model:
            assert self.tree.tag_set(key, tag) == self.model[key]
            self.tagged[tag].add(key)
        else:
            try:
                self.tree.tag_set(key, tag)
            except KernelBug:
                return
            raise AssertionError("nothing was tagged")

    @rule(data=st.data(), tag=TAGS)
    def tag_clear(self, data, tag):
        key = self.known_key(data)
        assert self.tree.tag_clear(key, tag) == self.model.get(key)
        self.tagged[tag].discard(key)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), tag=TAGS, low=KEYS, high=KEYS)
    def tag_range(self, data, tag, low, high):
        """Tag many: what a page cache does with dirty pages."""
        for key in self.model:
            if min(low, high) <= key <= max(low, high):
                self.tree.tag_set(key, tag)
                self.tagged[tag].add(key)

    # what always holds

    @invariant()
    def agrees(self):
        if self.sg is None:
            return
        self.tree.check()
        self.sg.slub.check()
        self.sg.pa.check()
        assert len(self.tree) == len(self.model)
        assert self.tree.height == height(self.model)
        assert list(self.tree.items()) == sorted(self.model.items(), key=lambda pair: pair[0])
        for tag, tagged in enumerate(self.tagged):
            assert [key for key, _ in self.tree.items(0, tag)] == sorted(tagged)
            assert self.tree.tagged(tag) == bool(tagged)
            assert all(self.tree.tag_get(key, tag) == (key in tagged) for key in self.model)
        assert [len(stock) for stock in self.nodes.stock] == self.preloaded
        assert self.sg.slub.objects_in_use(self.cache) == count_nodes(self.model) + sum(self.preloaded)

    def teardown(self) -> None:
        with self.stack:
            if self.sg is not None and sys.exc_info()[0] is None:  # else what went wrong is known
                for key, item in self.model.items():
                    assert self.tree.delete(key) == item
                self.nodes.drain()
                assert_no_objects(self.sg.slub)
                assert_no_pages(self.sg.pa)


TestRadixTree = RadixMachine.TestCase
TestRadixTree.settings = machine_settings()
