"""Reading of a radix tree: single items, their tags, many items in the order of keys (2.6.23 lib/radix-tree.c).

Interface: :class:`RadixReader`, the half of ``RadixTree`` that changes nothing; :func:`maxindex`.

Rules of this file
    * The tree must not change while somebody walks through it: there is no RCU.
"""

from __future__ import annotations

from collections.abc import Iterator

from kemu.errors import KernelBug
from kemu.lib.radix_nodes import MAP_MASK, MAP_SHIFT, MAP_SIZE, MAX_TAGS, Item, RadixNode

INDEX_BITS = 64
MAX_INDEX = (1 << INDEX_BITS) - 1


def maxindex(height: int) -> int:
    """Return the largest key of a tree of this height (``radix_tree_maxindex()``)."""
    return min((1 << height * MAP_SHIFT) - 1, MAX_INDEX)


def check_tag(tag: int) -> None:
    """Stop at a tag that trees do not have."""
    if not 0 <= tag < MAX_TAGS:
        raise KernelBug(f"radix tree: there is no tag {tag}: they go from 0 to {MAX_TAGS - 1}")


class RadixReader:
    """What can be asked of a tree.

    :ivar height: levels of nodes; 0: ``rnode`` is the item of key 0, or nothing.
    :ivar tags: per tag, whether anything is tagged.
    """

    __slots__ = ()

    height: int
    rnode: Item
    tags: list[bool]

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

    def next_hole(self, index: int, max_scan: int) -> int:
        """Return the first free key from ``index`` on, or the one behind ``max_scan`` keys (``radix_tree_next_hole()``).

        Behind the largest key comes 0.
        """
        for _ in range(max_scan):
            if self.lookup(index) is None:
                break
            index = (index + 1) & MAX_INDEX
            if not index:
                break
        return index

    def tag_get(self, index: int, tag: int) -> bool:
        """Tell whether an item is there and tagged (``radix_tree_tag_get()``)."""
        check_tag(tag)
        path = self._path(index)
        if path is None:
            return False
        if not path:
            return self.tags[tag] and self.rnode is not None
        node, offset = path[-1]
        return bool(node.tags[tag] >> offset & 1)

    def tagged(self, tag: int) -> bool:
        """Tell whether any item is tagged (``radix_tree_tagged()``)."""
        check_tag(tag)
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
        if tag is not None:
            check_tag(tag)
        if first_index < 0:
            raise KernelBug(f"radix tree: {first_index} is no unsigned long")
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


def _next_offset(node: RadixNode, offset: int, tag: int | None) -> int:
    """Return the next slot from ``offset`` on that is in use, or tagged; 64 if there is none."""
    slots = node.slots
    if tag is None:
        while offset < MAP_SIZE and slots[offset] is None:
            offset += 1
        return offset
    bits = node.tags[tag] >> offset
    return offset + (bits & -bits).bit_length() - 1 if bits else MAP_SIZE
