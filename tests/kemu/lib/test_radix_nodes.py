"""Nodes of radix trees, and the stock that makes sure of one insert."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.core import Kernel
from kemu.kernel.errno import ENOMEM
from kemu.lib.radix_nodes import (
    MAP_SIZE,
    MAX_PATH,
    MAX_TAGS,
    NODE_SIZE,
    RadixNode,
    RadixNodes,
    radix_tree_max_path,
    radix_tree_node_ctor,
)
from kemu.lib.radix_tree import MAX_INDEX, RadixTree
from kemu.mm.gfp import _GFP_NOWARN
from slab_ground import slab_ground

GFP_ATOMIC = 0x20
GFP_KERNEL = 0xD0


class Memory:
    """Node memory of ``left`` nodes."""

    def __init__(self, left: int = 1000) -> None:
        self.kernel = Kernel(ncpus=2)
        self.left = left
        self.asked: list[int] = []
        self.live: list[int] = []
        self.on_alloc = lambda: None
        self.nodes = RadixNodes(self.kernel, self.alloc, self.live.remove)

    @property
    def preempt_count(self) -> int:
        return self.kernel.sched.cpu.preempt_count

    def alloc(self, gfp):
        self.asked.append(gfp)
        self.on_alloc()
        if not self.left:
            return None
        self.left -= 1
        self.live.append(0x1000 * len(self.asked))
        return self.live[-1]


@pytest.fixture
def memory():
    memory = Memory()
    yield memory
    memory.kernel.shutdown()


def test_a_new_node_is_empty():
    node = RadixNode(0x1000)
    assert (node.count, node.slots, node.tags) == (0, [None] * MAP_SIZE, [0] * MAX_TAGS)


def test_preload_fills_the_stock_of_this_cpu_alone(memory):
    assert memory.nodes.preload(GFP_KERNEL) == 0
    memory.nodes.preload_end()
    assert [len(stock) for stock in memory.nodes.stock] == [MAX_PATH, 0]


def test_preload_leaves_preemption_disabled_until_its_end(memory):
    before = memory.preempt_count
    memory.nodes.preload(GFP_KERNEL)
    assert memory.preempt_count == before + 1
    memory.nodes.preload_end()
    assert memory.preempt_count == before


def test_a_preload_that_fails_leaves_preemption_as_it_was(memory):
    memory.left = 3
    before = memory.preempt_count
    assert memory.nodes.preload(GFP_KERNEL) == -ENOMEM
    assert memory.preempt_count == before


def test_preload_allocates_with_preemption_enabled(memory):
    seen = []
    memory.on_alloc = lambda: seen.append(memory.preempt_count)
    before = memory.preempt_count
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    assert seen == [before] * MAX_PATH


def test_a_full_stock_asks_for_nothing(memory):
    for _ in range(2):
        memory.nodes.preload(GFP_KERNEL)
        memory.nodes.preload_end()
    assert len(memory.asked) == MAX_PATH


def test_a_node_comes_from_the_allocator_with_the_trees_own_gfp_before_the_stock(memory):
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    memory.nodes.alloc(GFP_ATOMIC)
    assert memory.asked[-1] == GFP_ATOMIC
    assert len(memory.nodes.stock[0]) == MAX_PATH


def test_a_tree_that_may_not_wait_gets_the_stock_and_then_nothing(memory):
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    memory.left = 0
    got = [memory.nodes.alloc(GFP_ATOMIC) for _ in range(MAX_PATH + 1)]
    assert sorted(node.address for node in got[:-1]) == memory.live
    assert got[-1] is None


def test_a_tree_that_may_wait_never_gets_the_stock(memory):
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    memory.left = 0
    assert memory.nodes.alloc(GFP_KERNEL) is None


def test_drain_gives_the_stock_of_all_cpus_back(memory):
    for cpu in memory.kernel.cpus:
        memory.kernel.sched.cpu = cpu
        memory.nodes.preload(GFP_KERNEL)
        memory.nodes.preload_end()
    assert len(memory.live) == 2 * MAX_PATH
    memory.nodes.drain()
    assert memory.live == []


# nodes are objects


@pytest.fixture
def sg():
    with slab_ground() as machine:
        machine.nodes_cache = machine.slub.kmem_cache_create("radix_tree_node", NODE_SIZE, ctor=radix_tree_node_ctor)
        machine.nodes = RadixNodes(
            machine.kernel,
            lambda gfp: machine.slub.kmem_cache_alloc(machine.nodes_cache, gfp),
            lambda address: machine.slub.kmem_cache_free(machine.nodes_cache, address),
        )
        yield machine
        machine.nodes.drain()
        assert machine.slub.objects_in_use(machine.nodes_cache) == 0


def test_nodes_are_560_bytes_apart_and_seven_to_a_page(sg):
    cache = sg.nodes_cache
    assert (cache.objsize, cache.size, cache.order, cache.objects) == (552, 560, 0, 7)


def test_at_the_floor_an_insert_lives_on_the_stock_and_warns_nobody(sg):
    """Patch 33's reason: after a preload that could wait, the insert of a tree with GFP_ATOMIC|__GFP_NOWARN cannot fail."""
    tree = RadixTree(GFP_ATOMIC | _GFP_NOWARN, sg.nodes)
    sg.slub.kmem_cache_alloc(sg.nodes_cache, GFP_ATOMIC)
    assert sg.nodes.preload(GFP_KERNEL) == 0
    sg.floor()
    while sg.slub.kmem_cache_alloc(sg.nodes_cache, GFP_ATOMIC | _GFP_NOWARN) is not None:
        pass
    assert tree.insert(MAX_INDEX, "a page") == 0
    sg.nodes.preload_end()
    assert len(sg.nodes.stock[0]) == MAX_PATH - 11
    assert tree.insert(1, "another") == -ENOMEM and not sg.kernel.printk.lines()
    tree.check()
    sg.relief()
    sg.slub.objects_in_use(sg.nodes_cache)
    tree.delete(MAX_INDEX)
    for page in list(sg.nodes_cache.slabs.values()):
        _free_all(sg, page)


def _free_all(sg, page):
    """Free what the test itself took of a slab."""
    free = frozenset((*(page.word_d or ()), *sg.nodes_cache.cpu_slab[0].freelist, *sg.nodes.stock[0]))
    for address in range(page.address, page.address + 7 * 560, 560):
        if address not in free:
            sg.slub.kmem_cache_free(sg.nodes_cache, address)


# the stock


def test_words_of_32_bits_need_a_stock_of_seven(memory):
    assert (radix_tree_max_path(64), radix_tree_max_path(32)) == (12, 7)
    memory.nodes.max_path = 7
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    assert len(memory.nodes.stock[0]) == 7
    memory.nodes.check()


def test_a_node_in_two_stocks_or_one_too_many_is_found(memory):
    memory.nodes.preload(GFP_KERNEL)
    memory.nodes.preload_end()
    memory.nodes.stock[1].append(memory.nodes.stock[0][0])
    with pytest.raises(KernelBug, match="12 is the limit"):
        memory.nodes.check()
    memory.nodes.stock[1].pop()
    memory.nodes.stock[0].append(1)
    with pytest.raises(KernelBug, match="12 is the limit"):
        memory.nodes.check()
