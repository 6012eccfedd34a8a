"""``struct mem_reserve`` and the lists that make a tree of them (patch 11: mm: memory reserve management).

Interface
    * :class:`MemReserve`: a node. :func:`link`, :func:`unlink`: list_add() and list_del_init() of a child; :func:`add_pages`,
      :func:`add_limit`, up to the top; :func:`show_item`, the lines of /proc/reserve_info; :func:`check_tree`.

Rules of this file
    * Children hang on circular lists of pointers, as in C: list_add() of a node that is on a list already leaves two lists that run
      into each other (b11). Who then walks along one never comes to its end; here that is an oops, the kernel hangs with the mutex
      held.
    * The newest child is first.
"""

from __future__ import annotations

from collections.abc import Iterator

from kemu.errors import KernelBug
from kemu.mm.gfp import PAGE_SHIFT


class _ListHead:
    """``struct list_head``: alone, it points to itself.

    :ivar owner: the reserve whose ``siblings`` it is; None for the head of a list.
    """

    __slots__ = ("next", "owner", "prev")

    def __init__(self, owner: MemReserve | None) -> None:
        self.owner = owner
        self.next = self.prev = self


class MemReserve:
    """``struct mem_reserve``.

    :ivar pages: what the node and all below it need.
    :ivar limit: what may be charged.
    :ivar usage: what is charged.
    :ivar overdrawn: what was given back although nobody had charged it; usage stays at 0 then, and would not show it.
    :ivar peak: the most that ever was charged; for reports.
    """

    __slots__ = ("_head", "_siblings", "limit", "name", "overdrawn", "pages", "parent", "peak", "usage")

    def __init__(self, name: str) -> None:
        self.name = name
        self.parent: MemReserve | None = None
        self._head = _ListHead(None)
        self._siblings = _ListHead(self)
        self.pages = 0
        self.limit = 0
        self.usage = 0
        self.peak = 0
        self.overdrawn = 0

    @property
    def children(self) -> list[MemReserve]:
        """The nodes on the list of children, newest first."""
        return list(self._walk())

    def _walk(self) -> Iterator[MemReserve]:
        """list_for_each_entry(): go on until the head comes again."""
        seen: dict[int, None] = {}
        entry = self._head.next
        while entry is not self._head:
            owner = entry.owner
            if owner is None or id(entry) in seen:
                raise KernelBug(f"the list of children of {self.name!r} is corrupted: it never ends", self)
            seen[id(entry)] = None
            yield owner
            entry = entry.next

    def __repr__(self) -> str:
        """Show what an oops would print."""
        return f"<MemReserve {self.name!r} pages={self.pages} usage={self.usage} limit={self.limit}>"


def link(child: MemReserve, parent: MemReserve) -> None:
    """Make a node the first child of another, wherever it hangs now (list_add())."""
    child.parent = parent
    new, head = child._siblings, parent._head
    first = head.next
    first.prev = new
    new.next = first
    new.prev = head
    head.next = new


def unlink(child: MemReserve) -> None:
    """Take a node off the list that its own pointers say (list_del_init())."""
    child.parent = None
    entry = child._siblings
    entry.next.prev = entry.prev
    entry.prev.next = entry.next
    entry.next = entry.prev = entry


def add_pages(node: MemReserve | None, pages: int) -> None:
    """Add pages to a node and all above it (``__calc_reserve()``)."""
    while node is not None:
        node.pages += pages
        node = node.parent


def add_limit(node: MemReserve | None, limit: int) -> None:
    """Add to the limit of a node and all above it (``__calc_reserve()``)."""
    while node is not None:
        node.limit += limit
        node = node.parent


def show_item(reserve: MemReserve, nesting: int, lines: list[str]) -> None:
    """Write a node and, indented, its children (``mem_reserve_show_item()``)."""
    kbytes = reserve.pages << (PAGE_SHIFT - 10)
    lines.append(f"{'  ' * nesting}{reserve.name:<30} {kbytes}K ({reserve.usage}/{reserve.limit})\n")
    for child in reserve.children:
        show_item(child, nesting + 1, lines)


def check_tree(reserve: MemReserve, seen: dict[int, MemReserve] | None = None) -> None:
    """Assert that a subtree is a tree, and that no node has less than its children together."""
    seen = {} if seen is None else seen
    if id(reserve) in seen:
        raise KernelBug(f"reserve {reserve.name!r} is in the tree twice", reserve)
    seen[id(reserve)] = reserve
    if reserve.usage < 0:
        raise KernelBug(f"reserve {reserve.name!r}: usage {reserve.usage}", reserve)
    children = reserve.children
    if children and reserve.pages < sum(child.pages for child in children):
        raise KernelBug(f"reserve {reserve.name!r} has {reserve.pages} pages, its children have more", reserve)
    for child in children:
        if child.parent is not reserve:
            raise KernelBug(f"reserve {child.name!r} hangs below {reserve.name!r}, but does not know it", child)
        check_tree(child, seen)
