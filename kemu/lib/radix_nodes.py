"""Nodes of radix trees: slab objects that can be refused, and the stock that makes sure of one insert (2.6.23 lib/radix-tree.c).

Interface
    * :class:`RadixNode`: 64 slots. :class:`RadixNodes`: the nodes of a machine: ``alloc``, ``preload(gfp)``, ``preload_end()``.

Rules
    * A node comes from the allocator, with the tree's own gfp; the stock is used only when that fails and the tree may not wait.
    * preload() returns 0 with preemption disabled, -ENOMEM with preemption as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel

gfp_t = int  # the page allocator's word stands above this floor
Item = Any  # what a tree's user puts in, or None

MAP_SHIFT = 6
MAP_SIZE = 1 << MAP_SHIFT
MAP_MASK = MAP_SIZE - 1


def radix_tree_max_path(bits: int) -> int:
    """Return RADIX_TREE_MAX_PATH for words of so many bits.

    >>> radix_tree_max_path(64), radix_tree_max_path(32)
    (12, 7)
    """
    return bits // MAP_SHIFT + 2


MAX_PATH = radix_tree_max_path(64)
MAX_TAGS = 2
NODE_SIZE = 552  # sizeof(struct radix_tree_node): height and count, an RCU head, 64 slots, two tag bitmaps

_GFP_WAIT = 0x10


class RadixNode:
    """``struct radix_tree_node``.

    :ivar address: its slab object.
    :ivar slots: 64 children, or items on the lowest level.
    :ivar tags: per tag 64 bits: which slots have something tagged in or below them.
    """

    __slots__ = ("address", "count", "slots", "tags")

    def __init__(self, address: int) -> None:
        self.address = address
        self.count = 0
        self.slots: list[Item] = [None] * MAP_SIZE
        self.tags = [0] * MAX_TAGS


def radix_tree_node_ctor(address: int) -> None:
    """Clear a node of a fresh slab; whoever frees a node leaves it empty. What it holds is in the :class:`RadixNode`.

    That there is a constructor is what counts: the free pointer then stands behind the node, 560 bytes from one to the next.
    """


class RadixNodes:
    """The nodes of a machine's trees.

    :param node_alloc: gfp to the address of a node's memory, or None; :data:`NODE_SIZE` bytes.
    :param node_free: gives the address back.
    :param max_path: nodes that an insert can need (RADIX_TREE_MAX_PATH): 12, with words of 32 bits 7.
    :ivar stock: ``radix_tree_preloads``: addresses, per CPU.
    """

    def __init__(
        self,
        kernel: Kernel,
        node_alloc: Callable[[gfp_t], int | None],
        node_free: Callable[[int], None],
        max_path: int = MAX_PATH,
    ) -> None:
        self.sched = kernel.sched
        self.max_path = max_path
        self._node_alloc = node_alloc
        self.node_free = node_free
        self.stock: list[list[int]] = [[] for _ in kernel.cpus]

    def preload(self, gfp: gfp_t) -> int:
        """Fill this CPU's stock so that one insert cannot fail (``radix_tree_preload()``).

        The caller stays on this CPU until :meth:`preload_end`.
        """
        sched = self.sched
        sched.preempt_disable()
        stock = self.stock[sched.cpu.id]
        while len(stock) < self.max_path:
            sched.preempt_enable()
            address = self._node_alloc(gfp)
            if address is None:
                return -ENOMEM
            sched.preempt_disable()
            stock = self.stock[sched.cpu.id]  # perhaps another CPU by now
            if len(stock) < self.max_path:
                stock.append(address)
            else:
                self.node_free(address)
        return 0

    def preload_end(self) -> None:
        """Allow preemption again."""
        self.sched.preempt_enable()

    def alloc(self, gfp: gfp_t) -> RadixNode | None:
        """Return an empty node or None (``radix_tree_node_alloc()``)."""
        address = self._node_alloc(gfp)
        if address is None and not gfp & _GFP_WAIT:
            stock = self.stock[self.sched.cpu.id]
            if stock:
                address = stock.pop()
        return None if address is None else RadixNode(address)

    def check(self) -> None:
        """Assert that no stock is larger than one insert can need, and that no node is in two places."""
        addresses = [address for stock in self.stock for address in stock]
        if any(len(stock) > self.max_path for stock in self.stock) or len(frozenset(addresses)) != len(addresses):
            raise KernelBug(f"radix tree: stocks of {[len(stock) for stock in self.stock]} nodes, {self.max_path} is the limit")

    def drain(self) -> None:
        """Give the stock of all CPUs back; for the leak count at the end of a run."""
        for stock in self.stock:
            while stock:
                self.node_free(stock.pop())
