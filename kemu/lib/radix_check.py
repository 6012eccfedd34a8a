"""The invariants of a radix tree: counts, tags, height."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.lib.radix_nodes import MAP_SIZE, MAX_TAGS, RadixNode

if TYPE_CHECKING:
    from kemu.lib.radix_tree import RadixTree


def check_tree(tree: RadixTree) -> None:
    """Assert the invariants of a tree and all its nodes."""
    items = 0
    if not tree.height:
        items = int(tree.rnode is not None)
    elif tree.rnode is None:
        if any(tree.tags):
            raise KernelBug("radix tree: empty, but tagged", tree)
    else:
        items = _check_node(tree, tree.rnode, tree.height, tree.tags)
        if tree.rnode.count == 1 and tree.rnode.slots[0] is not None:
            raise KernelBug("radix tree: higher than its largest key needs", tree)
    if items != tree.nr_items:
        raise KernelBug(f"radix tree: {items} items, counted {tree.nr_items}", tree)


def _check_node(tree: RadixTree, node: RadixNode, height: int, tagged: list[bool]) -> int:
    """Assert one node's invariants and those below it; return the items."""
    full = [slot is not None for slot in node.slots]
    if node.count != sum(full) or not node.count:
        raise KernelBug(f"radix tree: node {node.address:#x} counts {node.count}, and {sum(full)} slots are in use", tree)
    for tag in range(MAX_TAGS):
        if bool(node.tags[tag]) != bool(tagged[tag]):
            raise KernelBug(f"radix tree: node {node.address:#x}: tag {tag} disagrees with the level above", tree)
        if any(node.tags[tag] >> offset & 1 and not full[offset] for offset in range(MAP_SIZE)):
            raise KernelBug(f"radix tree: node {node.address:#x}: tag {tag} of an empty slot", tree)
    if height == 1:
        return node.count
    below = 0
    for offset, child in enumerate(node.slots):
        if child is not None:
            below += _check_node(tree, child, height - 1, [bool(bits >> offset & 1) for bits in node.tags])
    return below
