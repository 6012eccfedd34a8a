"""Memory pools: a few elements kept back so that somebody always gets one, in the end (2.6.23 mm/mempool.c).

Interface
    * :class:`Mempool`: ``alloc(gfp)``, ``free(element)``, ``resize(new_min_nr, gfp)``, ``destroy()``, ``check()``.
    * :func:`mempool_create`, :func:`mempool_create_slab_pool`, :func:`mempool_create_kmalloc_pool`,
      :func:`mempool_create_kzalloc_pool`, :func:`mempool_create_page_pool`: None if there is no memory for the elements.

Rules
    * The plain allocator comes first, the pool second. Patch 04 puts the reserve between the pool and sleep.
    * With __GFP_WAIT alloc() never returns None: it sleeps, at most 5 s at a time, until an element comes back.
    * Whoever gives an element back fills the pool before the allocator gets any, and wakes all who sleep: they are no exclusive
      waiters. One gets it, the others begin their next lap.
    * A kzalloc pool gives zeros only while the plain allocator serves: an element from the pool is as it came back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM
from kemu.kernel.timer import HZ
from kemu.kernel.wait import WaitQueue
from kemu.mm.gfp import _GFP_IO, _GFP_NOMEMALLOC, _GFP_NORETRY, _GFP_NOWARN, _GFP_WAIT, GFP_KERNEL, gfp_t
from kemu.mm.page import Page
from kemu.mm.slub_cache import KmemCache

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.slub import Slub

T = TypeVar("T")

NAP = 5 * HZ  # the kernel's comment: in case the allocator could have served meanwhile, without anybody freeing to the pool


class Mempool(Generic[T]):
    """``mempool_t``.

    :param min_nr: elements that the pool keeps.
    :param alloc: the plain allocator: gfp to an element or None.
    :param free: gives an element to the plain allocator.
    :param fill: get the elements now; KernelBug if that fails, for pools that are made at boot.
    :ivar elements: what the pool has now.
    :ivar sleeps: naps that callers took.
    """

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        min_nr: int,
        alloc: Callable[[gfp_t], T | None],
        free: Callable[[T], None],
        page_alloc: PageAllocator,
        *,
        fill: bool = True,
    ) -> None:
        self.kernel = kernel
        self.patched = kernel.patched
        self.sched = kernel.sched
        self.page_alloc = page_alloc
        self.name = name
        self.min_nr = min_nr
        self.elements: list[T] = []
        self.sleeps = 0
        self._alloc = alloc
        self._free = free
        self._wait = WaitQueue(name)
        self._given_back = 0  # elements that came back to the pool, ever
        if min_nr < 0:
            raise KernelBug(f"mempool {name}: {min_nr} elements")
        kernel.judge.explainers.setdefault("mempool", _explain_wait)
        if fill and self.fill():
            raise KernelBug(f"mempool {name}: no memory for its {min_nr} elements")

    @property
    def curr_nr(self) -> int:
        """Elements in the pool."""
        return len(self.elements)

    def fill(self) -> int:
        """Get the pool's elements; 0, or -ENOMEM with the pool empty (``mempool_create_node()``)."""
        while len(self.elements) < self.min_nr:
            element = self._alloc(GFP_KERNEL)
            if element is None:
                while self.elements:
                    self._free(self.elements.pop())
                return -ENOMEM
            self.elements.append(element)
        return 0

    def alloc(self, gfp: gfp_t) -> T | None:
        """Return an element; None only to those that cannot wait (``mempool_alloc()``)."""
        if gfp & _GFP_WAIT:
            self.sched.might_sleep()
        gfp_orig = gfp
        gfp |= _GFP_NOMEMALLOC | _GFP_NORETRY | _GFP_NOWARN
        gfp_temp = gfp & ~(_GFP_WAIT | _GFP_IO)
        while True:
            element = self._alloc(gfp_temp)
            if element is not None:
                return element
            if self.elements:
                return self.elements.pop()
            if self.patched.mempool_fallback and self.page_alloc.entitled(gfp_orig):  # [p04]
                # one try with the reserve per lap; the second time round the flags are put back
                gfp_temp ^= _GFP_NOMEMALLOC | _GFP_NOWARN
                if not gfp_temp & _GFP_NOMEMALLOC:
                    continue
            if not gfp & _GFP_WAIT:
                return None
            gfp_temp = gfp
            self._nap()

    def free(self, element: T) -> None:
        """Give an element back (``mempool_free()``)."""
        if element is None:
            raise KernelBug(f"mempool {self.name}: mempool_free() of NULL", self)
        if len(self.elements) < self.min_nr:
            self.elements.append(element)
            self._given_back += 1
            self.sched.wake_up(self._wait)
        else:
            self._free(element)

    def resize(self, new_min_nr: int, gfp: gfp_t) -> int:
        """Let the pool keep more elements, or fewer; 0 or -ENOMEM (``mempool_resize()``).

        A larger pool takes what the plain allocator gives it now; frees fill the rest.
        """
        if new_min_nr <= 0:
            raise KernelBug(f"mempool {self.name}: BUG_ON(new_min_nr <= 0): {new_min_nr}", self)
        if new_min_nr <= self.min_nr:
            while new_min_nr < len(self.elements):
                self._free(self.elements.pop())
            self.min_nr = new_min_nr
            return 0
        self.min_nr = new_min_nr
        while len(self.elements) < self.min_nr:
            element = self._alloc(gfp)
            if element is None:
                break
            if len(self.elements) >= self.min_nr:  # somebody freed to the pool, or made it smaller, meanwhile
                self._free(element)
                break
            self.elements.append(element)
        return 0

    def destroy(self) -> None:
        """Free the pool's elements; all of them must have come back (``mempool_destroy()``)."""
        if len(self.elements) != self.min_nr:
            raise KernelBug(f"mempool {self.name}: destroyed while {self.min_nr - len(self.elements)} elements are out", self)
        while self.elements:
            self._free(self.elements.pop())

    def check(self) -> None:
        """Assert the pool's invariants."""
        if len(self.elements) > self.min_nr:
            raise KernelBug(f"mempool {self.name}: {len(self.elements)} elements, and {self.min_nr} are its limit", self)
        if any(element in self.elements[:place] for place, element in enumerate(self.elements)):
            raise KernelBug(f"mempool {self.name}: an element was freed twice", self)

    def _nap(self) -> None:
        """Sleep until the next element comes back, whoever gets it, but no longer than 5 s (``io_schedule_timeout(5*HZ)``)."""
        if self.elements:
            return
        seen = self._given_back
        self.sleeps += 1
        self.page_alloc.vmstat.mempool_sleeps += 1
        self.sched.wait_event_timeout(self._wait, lambda: self._given_back != seen, NAP, ("mempool", self))

    def __repr__(self) -> str:
        """Show what an oops would print."""
        return f"<Mempool {self.name} {len(self.elements)} of {self.min_nr}>"


def mempool_create(
    kernel: Kernel,
    name: str,
    min_nr: int,
    alloc: Callable[[gfp_t], T | None],
    free: Callable[[T], None],
    page_alloc: PageAllocator,
) -> Mempool[T] | None:
    """Make a pool of whatever ``alloc`` gives."""
    pool = Mempool(kernel, name, min_nr, alloc, free, page_alloc, fill=False)
    return None if pool.fill() else pool


def mempool_create_slab_pool(kernel: Kernel, min_nr: int, slub: Slub, cache: KmemCache) -> Mempool[int] | None:
    """Make a pool of objects of a slab cache."""

    def alloc(gfp: gfp_t) -> int | None:
        return slub.kmem_cache_alloc(cache, gfp)

    def free(address: int) -> None:
        slub.kmem_cache_free(cache, address)

    return mempool_create(kernel, cache.name, min_nr, alloc, free, slub.page_alloc)


def mempool_create_kmalloc_pool(kernel: Kernel, name: str, min_nr: int, slub: Slub, size: int) -> Mempool[int] | None:
    """Make a pool of kmallocs of one size."""

    def alloc(gfp: gfp_t) -> int | None:
        return slub.kmalloc(size, gfp)

    return mempool_create(kernel, name, min_nr, alloc, slub.kfree, slub.page_alloc)


def mempool_create_kzalloc_pool(kernel: Kernel, name: str, min_nr: int, slub: Slub, size: int) -> Mempool[int] | None:
    """Make a pool of kzallocs of one size."""

    def alloc(gfp: gfp_t) -> int | None:
        return slub.kzalloc(size, gfp)

    return mempool_create(kernel, name, min_nr, alloc, slub.kfree, slub.page_alloc)


def mempool_create_page_pool(kernel: Kernel, name: str, min_nr: int, page_alloc: PageAllocator, order: int) -> Mempool[Page] | None:
    """Make a pool of blocks of 2**order pages."""

    def alloc(gfp: gfp_t) -> Page | None:
        return page_alloc.alloc_pages(gfp, order)

    def free(page: Page) -> None:
        page_alloc.free_pages(page, order)

    return mempool_create(kernel, name, min_nr, alloc, free, page_alloc)


def _explain_wait(pool: Mempool[Any]) -> tuple[str, tuple[str, object]]:
    """Say why somebody sleeps in alloc()."""
    return f"mempool {pool.name}: all {pool.min_nr} elements are out", ("memory", pool.page_alloc)
