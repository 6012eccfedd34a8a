"""A radix tree of 64 slots per node, whose nodes are slab objects that can be refused (2.6.23 lib/radix-tree.c).

Interface
    * :class:`RadixTree`: ``insert`` (0, -EEXIST, -ENOMEM), ``lookup``, ``delete``, ``lookup_slot`` and ``replace_slot``,
      ``next_hole``, ``gang_lookup``, ``tag_set``, ``tag_clear``, ``tag_get``, ``tagged``, ``gang_lookup_tag``, ``items``, ``len``,
      ``check``.

Rules
    * Keys are 0 to 2**64 - 1 (a swap entry has its type in the top bits); an item is anything but None.
    * The tree is as high as its largest key needs and shrinks again; an item of key 0 alone needs no node at all.
    * An insert that fails changes nothing, where the kernel leaves the nodes that it got in the tree, empty. Nodes are got first
      and linked then: time may pass in the allocator.
    * What only reads is in radix_read.py.
    * Left out: RCU (a node is freed at once).
"""

from __future__ import annotations

from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST, ENOMEM
from kemu.lib.radix_check import check_tree
from kemu.lib.radix_nodes import MAP_MASK, MAP_SHIFT, MAX_TAGS, NODE_SIZE, Item, RadixNode, RadixNodes, gfp_t
from kemu.lib.radix_read import MAX_INDEX, RadixReader, check_tag, maxindex

__all__ = [
    "MAX_INDEX",
    "MAX_TAGS",
    "NODE_SIZE",
    "TAG_DIRTY",
    "TAG_WRITEBACK",
    "RadixNode",
    "RadixNodes",
    "RadixTree",
    "Slot",
    "maxindex",
]

TAG_DIRTY = 0  # PAGECACHE_TAG_DIRTY; NFS names them otherwise
TAG_WRITEBACK = 1


Slot = tuple["RadixNode | RadixTree", int]
"""Where an item is: the node and the offset in it, or the tree itself for key 0 without nodes."""


class RadixTree(RadixReader):
    """``struct radix_tree_root``.

    :param gfp: what every node of the tree is asked for with.
    :ivar height: levels of nodes; 0: ``rnode`` is the item of key 0, or nothing.
    :ivar nr_items: items in the tree; kemu's own count.
    """

    __slots__ = ("gfp", "height", "nodes", "nr_items", "rnode", "tags")

    def __init__(self, gfp: gfp_t, nodes: RadixNodes) -> None:
        self.gfp = gfp
        self.nodes = nodes
        self.height = 0
        self.rnode: Item = None
        self.tags = [False] * MAX_TAGS
        self.nr_items = 0

    def __len__(self) -> int:
        """Count the items."""
        return self.nr_items

    def __bool__(self) -> bool:
        """Be true also when empty: an empty tree is not NULL."""
        return True

    # one item

    def insert(self, index: int, item: object) -> int:
        """Put an item at a free key: 0, -EEXIST or -ENOMEM (``radix_tree_insert()``)."""
        if not 0 <= index <= MAX_INDEX:
            raise KernelBug(f"radix_tree_insert: {index:#x} is no unsigned long")
        spare: list[RadixNode] = []
        while True:
            missing = self._missing_nodes(index)
            if missing <= len(spare):
                break
            node = self.nodes.alloc(self.gfp)
            if node is None:
                self._free_spare(spare)
                return -ENOMEM
            spare.append(node)
        error = self._insert(index, item, spare)
        self._free_spare(spare)
        return error

    def _free_spare(self, spare: list[RadixNode]) -> None:
        while spare:
            self.nodes.node_free(spare.pop().address)

    def _missing_nodes(self, index: int) -> int:
        """Count the nodes that the path to a key lacks."""
        height = self.height
        if index >> height * MAP_SHIFT:  # beyond maxindex()
            new_height = -(-index.bit_length() // MAP_SHIFT)
            if self.rnode is None:
                return new_height
            # the levels above the old root, and the new branch: it leaves the old one at the new root
            return new_height - height + new_height - 1
        node = self.rnode
        while height and node is not None:
            height -= 1
            node = node.slots[index >> height * MAP_SHIFT & MAP_MASK]
        return height

    def _insert(self, index: int, item: object, spare: list[RadixNode]) -> int:
        """Link nodes and item; allocates nothing."""
        if index >> self.height * MAP_SHIFT:
            self._extend(index, spare)
        height = self.height
        if not height:
            if self.rnode is not None:
                return -EEXIST
            self.rnode = item
            self.nr_items += 1
            return 0
        node = self.rnode
        if node is None:
            node = self.rnode = spare.pop()
        shift = (height - 1) * MAP_SHIFT
        while shift:
            offset = index >> shift & MAP_MASK
            child = node.slots[offset]
            if child is None:
                child = node.slots[offset] = spare.pop()
                node.count += 1
            node = child
            shift -= MAP_SHIFT
        offset = index & MAP_MASK
        if node.slots[offset] is not None:
            return -EEXIST
        node.slots[offset] = item
        node.count += 1
        self.nr_items += 1
        return 0

    def _extend(self, index: int, spare: list[RadixNode]) -> None:
        """Make the tree high enough for a key (``radix_tree_extend()``)."""
        new_height = -(-index.bit_length() // MAP_SHIFT)
        if self.rnode is None:
            self.height = new_height
            return
        while self.height < new_height:
            node = spare.pop()
            node.slots[0] = self.rnode
            node.count = 1
            node.tags = [1 if tagged else 0 for tagged in self.tags]
            self.rnode = node
            self.height += 1

    def delete(self, index: int) -> Item:
        """Take the item of a key out and return it, or None; nodes that become empty are freed (``radix_tree_delete()``)."""
        path = self._path(index)
        if path is None:
            return None
        if not path:
            item = self.rnode
            if item is not None:
                self.rnode = None
                self.tags = [False] * MAX_TAGS
                self.nr_items -= 1
            return item
        node, offset = path[-1]
        item = node.slots[offset]
        if item is None:
            return None
        for tag in range(MAX_TAGS):
            if node.tags[tag] >> offset & 1:
                self._clear_path(path, tag)
        self.nr_items -= 1
        emptied: list[RadixNode] = []
        for node, offset in reversed(path):
            node.slots[offset] = None
            node.count -= 1
            if node.count:
                if node is self.rnode:
                    self._shrink(emptied)
                break
            emptied.append(node)
        else:
            self.height = 0
            self.rnode = None
            self.tags = [False] * MAX_TAGS
        self._free_spare(emptied)
        return item

    def _shrink(self, emptied: list[RadixNode]) -> None:
        """Drop root nodes that have nothing but slot 0 (``radix_tree_shrink()``)."""
        while self.height and self.rnode.count == 1 and self.rnode.slots[0] is not None:
            emptied.append(self.rnode)
            self.rnode = self.rnode.slots[0]
            self.height -= 1

    # places of items

    def lookup_slot(self, index: int) -> Slot | None:
        """Return the place of an item that is there, for :meth:`replace_slot`; else None (``radix_tree_lookup_slot()``).

        It is good until the tree changes.
        """
        path = self._path(index)
        if path is None or self.lookup(index) is None:
            return None
        return path[-1] if path else (self, 0)

    @staticmethod
    def replace_slot(slot: Slot, item: object) -> None:
        """Put another item into a place; its tags stay (``radix_tree_replace_slot()``)."""
        if item is None:
            raise KernelBug("radix_tree_replace_slot: an item is anything but NULL")
        node, offset = slot
        if isinstance(node, RadixTree):
            node.rnode = item
        else:
            node.slots[offset] = item

    # tags

    def tag_set(self, index: int, tag: int) -> Item:
        """Tag an item, which must be there, and return it (``radix_tree_tag_set()``)."""
        check_tag(tag)
        path = self._path(index)
        if path is None or self.lookup(index) is None:
            raise KernelBug(f"radix_tree_tag_set: nothing is at {index:#x}")
        for node, offset in path:
            node.tags[tag] |= 1 << offset
        self.tags[tag] = True
        return self.lookup(index)

    def tag_clear(self, index: int, tag: int) -> Item:
        """Clear the tag of an item; return the item, or None (``radix_tree_tag_clear()``)."""
        check_tag(tag)
        path = self._path(index)
        if path is None:
            return None
        item = self.lookup(index)
        if item is not None:
            self._clear_path(path, tag)
        return item

    def _clear_path(self, path: list[tuple[RadixNode, int]], tag: int) -> None:
        """Clear a tag from the lowest level upwards, as long as nothing else below is tagged."""
        for node, offset in reversed(path):
            node.tags[tag] &= ~(1 << offset)
            if node.tags[tag]:
                return
        self.tags[tag] = False

    def check(self) -> None:
        """Assert the tree's invariants."""
        check_tree(self)
