"""Memory reserves: from many independent demands to one number of pages (patch 11: mm: memory reserve management).

Interface
    * :class:`MemReserve`: a node of the tree (reserve_tree.py). :class:`Reserves`: the tree, and everything that may be done to it:
      ``mem_reserve_init``, ``_connect``, ``_disconnect``; ``_pages_set``, ``_pages_add``, ``_kmalloc_set``, ``_kmem_cache_set``;
      ``_pages_charge``, ``_kmalloc_charge``, ``_kmem_cache_charge``; ``reserve_info()``, the text of /proc/reserve_info.

Rules
    * ``pages`` goes up to the root and from there, by difference, into the page allocator's emergency pool. A subtree that is not
      connected to the root costs nothing yet.
    * Pages first, limit only when the pages are there: who fails changes nothing anywhere.
    * ``limit`` and ``usage`` have the unit of whoever set them: bytes, objects or pages. Nodes above add their children's limits up
      whatever they count, so only where all children count the same does the sum mean anything.
    * A charge touches one node, not its parents. "set" is for leaves: it takes what the node has for its own.
    * The calls that change sizes may sleep; charges may not and do not.
    * Pages are a long here and an int in adjust_memalloc_reserve(): what the emergency pool gets is the difference cut off to 32
      bits. That matters for the absurd demands of b18b alone: 2**32 pages less a few take a few pages away.
    * An oops (a pool of less than nothing) leaves tree and mutex as they were.
    * With the patch off there is no tree that counts: one constant reserve is set by hand, and every charge succeeds.
    * Left out: the nodes' spinlocks: nothing can come between two lines of a charge. reserve_info() does not take the mutex: people
      look at a machine that stands still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KemuError, KernelBug
from kemu.kernel.errno import EEXIST, EINVAL, ENOMEM
from kemu.kernel.spinlock import Mutex
from kemu.mm.gfp import GFP_ATOMIC, PAGE_SHIFT
from kemu.mm.reserve_tree import MemReserve, add_limit, add_pages, check_tree, link, show_item, unlink
from kemu.mm.slub_cache import KmemCache

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.slub import Slub

__all__ = ["MemReserve", "Reserves"]


class Reserves:
    """The reserves of a machine.

    :param constant_pages: with the patch off, the emergency pool that is set by hand when the machine boots.
    :ivar root: ``mem_reserve_root``, "total reserve".
    """

    def __init__(self, kernel: Kernel, page_alloc: PageAllocator, slub: Slub, constant_pages: int = 0) -> None:
        self.kernel = kernel
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.page_alloc = page_alloc
        self.slub = slub
        self.constant_pages = constant_pages
        self.root = MemReserve("total reserve")
        self._mutex = Mutex(kernel, "mem_reserve_mutex")
        if not self.patched.mem_reserve:  # [p11]
            page_alloc.adjust_memalloc_reserve(constant_pages)

    # structure

    def mem_reserve_init(self, name: str, parent: MemReserve | None = None) -> MemReserve:
        """Make a reserve of nothing, below ``parent`` if there is one."""
        reserve = MemReserve(name)
        if parent is not None:
            self.mem_reserve_connect(reserve, parent)
        return reserve

    def mem_reserve_connect(self, new_child: MemReserve, node: MemReserve) -> int:
        """Hang a subtree below a node and reserve what it needs, in one step; 0 or -ENOMEM."""
        if not self.patched.mem_reserve:  # [p11]
            return 0
        _no_ring(new_child, node)
        self._mutex.mutex_lock()
        error = self._connect(new_child, node)
        self._mutex.mutex_unlock()
        return error

    def _connect(self, new_child: MemReserve, node: MemReserve) -> int:
        if self.fixed.b11:  # [b11]
            if new_child.parent is not None:
                return -EEXIST
        link(new_child, node)
        error = self._add(node, new_child.pages, new_child.limit)
        if error:
            unlink(new_child)
        return error

    def mem_reserve_disconnect(self, node: MemReserve) -> int:
        """Take a subtree out and give its pages back. What is charged stays charged."""
        if not self.patched.mem_reserve:  # [p11]
            return 0
        if node.parent is None:
            raise KernelBug(f"mem_reserve_disconnect: {node.name!r} is connected to nothing", node)
        self._mutex.mutex_lock()
        error = self._add(node.parent, -node.pages, -node.limit)
        if not error:
            unlink(node)
        self._mutex.mutex_unlock()
        return error

    # sizes

    def mem_reserve_pages_set(self, reserve: MemReserve, pages: int) -> int:
        """Reserve a number of pages, to be charged in pages."""
        return self._set(reserve, pages, pages)

    def mem_reserve_pages_add(self, reserve: MemReserve, pages: int) -> int:
        """Reserve so many pages more, or fewer."""
        if not self.patched.mem_reserve:  # [p11]
            return 0
        self._mutex.mutex_lock()
        error = self._add(reserve, pages, pages)
        self._mutex.mutex_unlock()
        return error

    def mem_reserve_kmalloc_set(self, reserve: MemReserve, nbytes: int) -> int:
        """Reserve what kmallocs of ``nbytes`` in all can cost, to be charged in bytes."""
        if self.patched.inet_reserves:  # [p18]
            if self.fixed.b18b and nbytes < 0:  # [b18b]
                return -EINVAL
        return self._set(reserve, self.slub.kestimate(GFP_ATOMIC, nbytes), nbytes)

    def mem_reserve_kmem_cache_set(self, reserve: MemReserve, cache: KmemCache, objects: int) -> int:
        """Reserve what ``objects`` objects of a cache can cost, to be charged in objects."""
        if self.patched.inet_reserves:  # [p18]
            if self.fixed.b18b and objects < 0:  # [b18b]
                return -EINVAL
        return self._set(reserve, self.slub.kmem_estimate_pages(cache, GFP_ATOMIC, objects), objects)

    def _set(self, reserve: MemReserve, pages: int, limit: int) -> int:
        """Go from what the node has to what it shall have (``__mem_reserve_set()``)."""
        if not self.patched.mem_reserve:  # [p11]
            return 0
        self._mutex.mutex_lock()
        error = self._add(reserve, pages - reserve.pages, limit - reserve.limit)
        self._mutex.mutex_unlock()
        return error

    def _add(self, node: MemReserve, pages: int, limit: int) -> int:
        """Add to a node and all above it (``__calc_reserve()``, ``__mem_reserve_add()``); may sleep.

        Only what arrives at the root is asked of the page allocator; if that fails, the pages are taken back all the way.
        """
        root_before = self.root.pages
        add_pages(node, pages)
        delta = self.root.pages - root_before
        if delta:
            error = self._adjust(node, pages, delta)
            if error:
                add_pages(node, -pages)
                return error
        add_limit(node, limit)
        return 0

    def _adjust(self, node: MemReserve, pages: int, delta: int) -> int:
        """Change the emergency pool; who asks for less than nothing gets an oops and leaves no trace of it."""
        if self.patched.inet_reserves:  # [p18]
            if self.fixed.b18b and delta != _c_int(delta):  # [b18b]
                return -ENOMEM
        try:
            return self.page_alloc.adjust_memalloc_reserve(_c_int(delta))
        except KemuError:
            add_pages(node, -pages)
            self._mutex.mutex_unlock()
            raise

    # use

    def mem_reserve_pages_charge(self, reserve: MemReserve, pages: int, overcommit: int = 0) -> int:
        """Charge pages, or uncharge a negative number: 1 for yes, 0 for no."""
        return self._charge(reserve, pages, overcommit)

    def mem_reserve_kmalloc_charge(self, reserve: MemReserve, nbytes: int, overcommit: int = 0) -> int:
        """Charge bytes, rounded up to a power of two as kmalloc() would; 0, of which C says nothing, is nothing."""
        if nbytes < 0:
            return self._charge(reserve, -(1 << (-nbytes - 1).bit_length()), overcommit)
        return self._charge(reserve, 1 << (nbytes - 1).bit_length() if nbytes else 0, overcommit)

    def mem_reserve_kmem_cache_charge(self, reserve: MemReserve, objects: int, overcommit: int = 0) -> int:
        """Charge objects."""
        return self._charge(reserve, objects, overcommit)

    def _charge(self, reserve: MemReserve, charge: int, overcommit: int) -> int:
        """Allow what keeps usage strictly below the limit, what gives back, and overcommit (``__mem_reserve_charge()``)."""
        usage = reserve.usage + charge
        if self.patched.mem_reserve and charge >= 0 and usage >= reserve.limit and not overcommit:  # [p11]
            return 0
        if usage < 0:
            reserve.overdrawn -= usage
            usage = 0
        reserve.usage = usage
        reserve.peak = max(reserve.peak, usage)
        return 1

    # for people

    def reserve_info(self) -> str:
        """Return the text of /proc/reserve_info (mode 0400): siblings stand in the reverse order of their connection."""
        lines: list[str] = []
        show_item(self.root, 0, lines)
        return "".join(lines)

    def check(self) -> None:
        """Assert the tree's invariants."""
        check_tree(self.root)
        if self.root.parent is not None:
            raise KernelBug("the root reserve has a parent", self.root)
        if self.patched.emergency_pool:  # [p08]
            backed = self.page_alloc.var_free_kbytes >> (PAGE_SHIFT - 10)
            wanted = self.root.pages if self.patched.mem_reserve else self.constant_pages  # [p11]
            if wanted != backed:
                raise KernelBug(f"the reserves want {wanted} pages, the emergency pool has {backed}", self.root)


def _no_ring(new_child: MemReserve, node: MemReserve) -> None:
    """Assert that a node does not get itself for a parent: all that goes up the tree would go around for ever."""
    above: MemReserve | None = node
    while above is not None:
        if above is new_child:
            raise KernelBug(f"mem_reserve_connect: {new_child.name!r} below itself: a ring, whose way up would never end", node)
        above = above.parent


def _c_int(value: int) -> int:
    """Cut a long off to an int."""
    return ((value + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
