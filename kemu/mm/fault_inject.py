"""Allocations that fail because a test says so (2.6.23 lib/fault-inject.c, mm/page_alloc.c: fail_page_alloc, mm/slab.c: failslab).

Interface
    * ``page_alloc.fail_page_alloc = FailPageAlloc(kernel, probability=10, times=3)``; ``slub.failslab = FailSlab(kernel, ...)``;
      None switches it off again.
    * :class:`FaultAttr`: what both share. :func:`setup_fault_attr` reads a boot word (``failslab=<interval>,<probability>,<space>,
      <times>``): ``FailSlab(kernel, **setup_fault_attr("1,10,0,-1"))``.

Rules of this file
    * Dice come from the machine's own seed: the same run fails at the same places.
    * As in the kernel, by default only requests that cannot wait, have no highmem and are of order 1 and more fail, and only
      objects for those that cannot wait; the scenario of patch 17 wants ``ignore_gfp_wait=False, min_order=0``.
    * __GFP_NOFAIL never fails. Neither does a boot: make the attribute when the machine runs.
    * A failed request returns NULL at once: no reclaim, no warning but the attribute's own.
    * Off, it costs nothing: an attribute that is set replaces the allocator's entry points by others that ask first
      (:class:`FailPoint`). So set it before a method is stored elsewhere.
    * failslab of 2.6.23 is SLAB's; SLUB got it in 2.6.30, with the cache filter, and here it is that.
    * Left out: debugfs (attributes are attributes), the stack trace filter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from kemu.errors import ConfigError
from kemu.mm.gfp import _GFP_HIGHMEM, _GFP_NOFAIL, _GFP_WAIT, GFP_ZONEMASK, MAX_ORDER, gfp_t

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.kernel.task import Task
    from kemu.mm.mmzone import Zone
    from kemu.mm.page import Page
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.slub import Slub
    from kemu.mm.slub_cache import KmemCache

SLAB_FAILSLAB: Final = 0x02000000  # of a cache: failslab's cache filter lets it fail


class FaultAttr:
    """``struct fault_attr``: what decides whether a call that may fail does.

    :param probability: in percent.
    :param interval: of the calls that pass the filters, only every n-th may fail.
    :param times: how often at most; -1 for no limit.
    :param space: pages, or bytes of objects, that are allocated before the first failure.
    :param verbose: 0 silent, 1 a line in the log for each failure.
    :param task_filter: only these tasks fail, and nobody in an interrupt (/proc/<pid>/make-it-fail); None for all.
    :ivar failed: how often it did; kemu's own.
    """

    name: ClassVar[str] = "fault"

    def __init__(
        self,
        kernel: Kernel,
        *,
        probability: int = 100,
        interval: int = 1,
        times: int = -1,
        space: int = 0,
        verbose: int = 0,
        task_filter: tuple[Task, ...] | None = None,
    ) -> None:
        if not 0 <= probability <= 100:
            raise ConfigError(f"{self.name}: probability {probability} cannot be used; it goes from 0 to 100 percent")
        if interval < 1 or times < -1 or space < 0:
            raise ConfigError(f"{self.name}: interval is at least 1, times at least -1, space at least 0")
        self._rng = kernel.rng
        self._sched = kernel.sched
        self._printk = kernel.printk
        self.probability = probability
        self.interval = interval
        self.times = times
        self.space = space
        self.verbose = verbose
        self.task_filter = task_filter
        self.failed = 0
        self._count = 0

    def should_fail(self, size: int) -> bool:
        """Tell whether a call for ``size`` of what is counted fails (lib/fault-inject.c: should_fail)."""
        if self.task_filter is not None and (self._sched.in_interrupt() or self._sched.current not in self.task_filter):
            return False
        if self.times == 0:
            return False
        if self.space > size:
            self.space -= size
            return False
        if self.interval > 1:
            self._count += 1
            if self._count % self.interval:
                return False
        if self.probability <= self._rng.randrange(100):
            return False
        if self.verbose:
            self._printk("FAULT_INJECTION: forcing a failure", "notice")
        self.failed += 1
        if self.times > 0:
            self.times -= 1
        return True


def setup_fault_attr(word: str) -> dict[str, int]:
    """Read "<interval>,<probability>,<space>,<times>"; return what a :class:`FaultAttr` takes.

    >>> setup_fault_attr("2,50,0,-1")
    {'interval': 2, 'probability': 50, 'space': 0, 'times': -1}
    """
    names = ("interval", "probability", "space", "times")
    try:
        return dict(zip(names, map(int, word.split(",")), strict=True))
    except ValueError:
        raise ConfigError(
            f"fault injection {word!r} cannot be read; it is interval,probability,space,times: four integers"
        ) from None


class FailPageAlloc(FaultAttr):
    """fail_page_alloc: requests for pages.

    :param ignore_gfp_highmem: requests that may be served from highmem do not fail.
    :param ignore_gfp_wait: requests that can wait do not fail.
    :param min_order: smaller requests do not fail.
    """

    name = "fail_page_alloc"

    def __init__(
        self,
        kernel: Kernel,
        *,
        ignore_gfp_highmem: bool = True,
        ignore_gfp_wait: bool = True,
        min_order: int = 1,
        **attr: Any,
    ) -> None:
        super().__init__(kernel, **attr)
        self.ignore_gfp_highmem = ignore_gfp_highmem
        self.ignore_gfp_wait = ignore_gfp_wait
        self.min_order = min_order

    def should_fail_alloc_page(self, gfp: gfp_t, order: int) -> bool:
        """Tell whether this request fails."""
        if order < self.min_order or gfp & _GFP_NOFAIL:
            return False
        if self.ignore_gfp_highmem and gfp & _GFP_HIGHMEM:
            return False
        if self.ignore_gfp_wait and gfp & _GFP_WAIT:
            return False
        return self.should_fail(1 << order)


class FailSlab(FaultAttr):
    """failslab: requests for objects.

    :param ignore_gfp_wait: requests that can wait do not fail.
    :param cache_filter: only caches with SLAB_FAILSLAB fail.
    """

    name = "failslab"

    def __init__(self, kernel: Kernel, *, ignore_gfp_wait: bool = True, cache_filter: bool = False, **attr: Any) -> None:
        super().__init__(kernel, **attr)
        self.ignore_gfp_wait = ignore_gfp_wait
        self.cache_filter = cache_filter

    def should_failslab(self, cache: KmemCache, gfp: gfp_t) -> bool:
        """Tell whether this request fails."""
        if gfp & _GFP_NOFAIL:
            return False
        if self.ignore_gfp_wait and gfp & _GFP_WAIT:
            return False
        if self.cache_filter and not cache.flags & SLAB_FAILSLAB:
            return False
        return self.should_fail(cache.objsize)


A = TypeVar("A", bound=FaultAttr)
StandIn = Callable[[Any, Any, Callable[..., Any]], Callable[..., Any]]


class FailPoint(Generic[A]):
    """An attribute of an allocator that holds a :class:`FaultAttr` or None, and swaps entry points when it is written.

    :param stand_ins: name of an entry point -> function of (allocator, attribute, the entry point as it was) to its stand-in.
    """

    def __init__(self, **stand_ins: StandIn) -> None:
        self._stand_ins = stand_ins
        self._slot = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Remember where the attribute is kept."""
        self._slot = f"_{name}"

    def __get__(self, allocator: object, owner: type | None = None) -> A | None:
        """Give the attribute, None while nothing fails."""
        value: A | None = vars(allocator).get(self._slot)
        return value

    def __set__(self, allocator: object, attr: A | None) -> None:
        """Put the stand-ins in, or take them out."""
        own = vars(allocator)
        own[self._slot] = attr
        for name in self._stand_ins:
            own.pop(name, None)
        if attr is not None:
            own.update({name: make(allocator, attr, getattr(allocator, name)) for name, make in self._stand_ins.items()})


def _alloc_pages(page_alloc: PageAllocator, _attr: FailPageAlloc, original: Callable[..., Any]) -> Callable[..., Any]:
    """Lead the fast path's requests to where all others go."""
    if page_alloc.numa:
        return original

    def alloc_pages(gfp: gfp_t, order: int = 0) -> Page | None:
        return page_alloc._alloc_from(gfp, order, page_alloc.zonelists[gfp & GFP_ZONEMASK]) if 0 <= order < MAX_ORDER else None

    return alloc_pages


def _alloc_from(page_alloc: PageAllocator, attr: FailPageAlloc, original: Callable[..., Any]) -> Callable[..., Any]:
    """Ask before __alloc_pages begins (should_fail_alloc_page)."""

    def alloc_from(gfp: gfp_t, order: int, zonelist: list[Zone]) -> Page | None:
        if gfp & _GFP_WAIT:
            page_alloc.sched.might_sleep()
        page: Page | None = None if attr.should_fail_alloc_page(gfp, order) else original(gfp, order, zonelist)
        return page

    return alloc_from


def _kmem_cache_alloc(_slub: Slub, attr: FailSlab, original: Callable[..., Any]) -> Callable[..., Any]:
    """Ask before an object of a cache is taken (should_failslab, at the top of slab_alloc)."""

    def kmem_cache_alloc(cache: KmemCache, gfp: gfp_t, *node: int) -> int | None:
        address: int | None = None if attr.should_failslab(cache, gfp) else original(cache, gfp, *node)
        return address

    return kmem_cache_alloc


def _kmalloc(slub: Slub, attr: FailSlab, original: Callable[..., Any]) -> Callable[..., Any]:
    """Ask before an object is taken by size; what is no object is fail_page_alloc's matter."""

    def kmalloc(size: int, gfp: gfp_t) -> int | None:
        cache = slub.kmalloc_slab(size, gfp)
        address: int | None = None if cache is not None and attr.should_failslab(cache, gfp) else original(size, gfp)
        return address

    return kmalloc


def fail_page_alloc_point() -> FailPoint[FailPageAlloc]:
    """Make the attribute of the page allocator."""
    return FailPoint(alloc_pages=_alloc_pages, _alloc_from=_alloc_from)


def failslab_point() -> FailPoint[FailSlab]:
    """Make the attribute of SLUB."""
    return FailPoint(kmem_cache_alloc=_kmem_cache_alloc, kmalloc=_kmalloc, kmem_cache_alloc_node=_kmem_cache_alloc)
