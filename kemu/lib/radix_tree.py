"""A radix tree of 64 slots per node, whose nodes are slab objects that can be refused (2.6.23 lib/radix-tree.c).

Interface
    * :class:`RadixTree`: ``insert`` (0, -EEXIST, -ENOMEM), ``lookup``, ``delete``, ``gang_lookup``, ``tag_set``, ``tag_clear``,
      ``tag_get``, ``tagged``, ``gang_lookup_tag``, ``items``, ``len``, ``check``.

Rules
    * Keys are 0 to 2**64 - 1 (a swap entry has its type in the top bits); an item is anything but None.
    * The tree is as high as its largest key needs and shrinks again; an item of key 0 alone needs no node at all.
    * An insert that fails changes nothing. Nodes are got first and linked then: time may pass in the allocator.
    * Left out: RCU, slot pointers, moving of items.
"""

from __future__ import annotations

from collections.abc import Iterator

from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST, ENOMEM
from kemu.lib.radix_check import check_tree
from kemu.lib.radix_nodes import MAP_MASK, MAP_SHIFT, MAP_SIZE, MAX_TAGS, NODE_SIZE, Item, RadixNode, RadixNodes, gfp_t

__all__ = ["MAX_INDEX", "MAX_TAGS", "NODE_SIZE", "TAG_DIRTY", "TAG_WRITEBACK", "RadixNode", "RadixNodes", "RadixTree", "maxindex"]

INDEX_BITS = 64
MAX_INDEX = (1 << INDEX_BITS) - 1

TAG_DIRTY = 0  # PAGECACHE_TAG_DIRTY; NFS names them otherwise
TAG_WRITEBACK = 1


def maxindex(height: int) -> int:
    """Return the largest key of a tree of this height (``radix_tree_maxindex()``)."""
    return min((1 << height * MAP_SHIFT) - 1, MAX_INDEX)


class RadixTree:
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

    def lookup(self, index: int) -> Item:
        """Return the item of a key or None (``radix_tree_lookup()``)."""
        node = self.rnode
        shift = self.height * MAP_SHIFT
        if index >> shift:
            return None
        while shift and node is not None:
            shift -= MAP_SHIFT
            node = node.slots[index >> shift & MAP_MASK]
        return node

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

    def _path(self, index: int) -> list[tuple[RadixNode, int]] | None:
        """Return nodes and offsets from the root down to a key; None if a node is missing."""
        shift = self.height * MAP_SHIFT
        if index >> shift:
            return None
        path = []
        node = self.rnode
        while shift:
            if node is None:
                return None
            shift -= MAP_SHIFT
            offset = index >> shift & MAP_MASK
            path.append((node, offset))
            node = node.slots[offset]
        return path

    # tags

    def tag_set(self, index: int, tag: int) -> Item:
        """Tag an item, which must be there, and return it (``radix_tree_tag_set()``)."""
        path = self._path(index)
        if path is None or self.lookup(index) is None:
            raise KernelBug(f"radix_tree_tag_set: nothing is at {index:#x}")
        for node, offset in path:
            node.tags[tag] |= 1 << offset
        self.tags[tag] = True
        return self.lookup(index)

    def tag_clear(self, index: int, tag: int) -> Item:
        """Clear the tag of an item; return the item, or None (``radix_tree_tag_clear()``)."""
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

    def tag_get(self, index: int, tag: int) -> bool:
        """Tell whether an item is there and tagged (``radix_tree_tag_get()``)."""
        path = self._path(index)
        if path is None:
            return False
        if not path:
            return self.tags[tag] and self.rnode is not None
        node, offset = path[-1]
        return bool(node.tags[tag] >> offset & 1)

    def tagged(self, tag: int) -> bool:
        """Tell whether any item is tagged (``radix_tree_tagged()``)."""
        return self.tags[tag]

    # many items

    def gang_lookup(self, first_index: int, max_items: int) -> list[Item]:
        """Return at most ``max_items`` items from a key on, in the order of keys (``radix_tree_gang_lookup()``)."""
        return [item for item, _ in zip(self._walk(first_index, None), range(max_items), strict=False)]

    def gang_lookup_tag(self, first_index: int, max_items: int, tag: int) -> list[Item]:
        """Return at most ``max_items`` tagged items from a key on (``radix_tree_gang_lookup_tag()``)."""
        return [item for item, _ in zip(self._walk(first_index, tag), range(max_items), strict=False)]

    def _walk(self, first_index: int, tag: int | None) -> Iterator[Item]:
        for _, item in self.items(first_index, tag):
            yield item

    def items(self, first_index: int = 0, tag: int | None = None) -> Iterator[tuple[int, Item]]:
        """Give keys and items from a key on; the tree must not change meanwhile."""
        height = self.height
        if not height:
            if self.rnode is not None and first_index == 0 and (tag is None or self.tags[tag]):
                yield 0, self.rnode
            return
        index = first_index
        last = maxindex(height)
        while index <= last:
            node = self.rnode
            shift = height * MAP_SHIFT
            while shift:
                shift -= MAP_SHIFT
                offset = _next_offset(node, index >> shift & MAP_MASK, tag)
                here = index >> shift & MAP_MASK
                if offset != here:  # skip: to the next key that can be there, or out of this node
                    index = ((index >> shift) + offset - here) << shift
                    if offset == MAP_SIZE:
                        break
                node = node.slots[offset]
            else:
                yield index, node
                index += 1

    def check(self) -> None:
        """Assert the tree's invariants."""
        check_tree(self)


def _next_offset(node: RadixNode, offset: int, tag: int | None) -> int:
    """Return the next slot from ``offset`` on that is in use, or tagged; 64 if there is none."""
    slots = node.slots
    if tag is None:
        while offset < MAP_SIZE and slots[offset] is None:
            offset += 1
        return offset
    bits = node.tags[tag] >> offset
    return offset + (bits & -bits).bit_length() - 1 if bits else MAP_SIZE
