"""Nodes of radix trees, and the stock that makes sure of one insert."""

from __future__ import annotations

import pytest

from kemu.kernel.core import Kernel
from kemu.kernel.errno import ENOMEM
from kemu.lib.radix_nodes import MAP_SIZE, MAX_PATH, MAX_TAGS, RadixNode, RadixNodes

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
