"""A slab cache and what each CPU keeps of it (2.6.23-mm1 include/linux/slub_def.h).

Interface
    * :class:`KmemCache`, made by ``Slub.kmem_cache_create()``; :class:`KmemCacheCpu`, one per CPU and cache.

Rules
    * A slab page says what it is in its own fields: ``mapping`` is the cache, ``word_d`` the free objects (a list whose last item
      is handed out next, None if there are none), ``mapcount`` the objects in use, PG_active that a CPU holds it ("frozen"),
      PG_error that its objects are checked.
    * ``cache.slabs`` is kemu's own: SLUB does not know its full slabs. check() and reports need it.
    * Left out: partial lists per CPU (3.1 and later; a later geometry's ``cpu_partial`` is a number only), sysfs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kemu.mm.gfp import PAGE_SIZE
from kemu.mm.page import Page, PG_active, PG_error
from kemu.mm.slub_geometry import SLAB_HWCACHE_ALIGN, SLAB_PANIC, SLAB_RECLAIM_ACCOUNT
from kemu.mm.slub_poison import make_layout

if TYPE_CHECKING:
    from kemu.mm.slub_report import Track

__all__ = [
    "MIN_PARTIAL",
    "NO_PFN",
    "SLAB_HWCACHE_ALIGN",
    "SLAB_PANIC",
    "SLAB_RECLAIM_ACCOUNT",
    "KmemCache",
    "KmemCacheCpu",
    "PG_frozen",
    "PG_slab_debug",
    "PG_slab_reserve",
]

PG_frozen = PG_active  # SLUB's second meaning of the bit
PG_slab_debug = PG_error
PG_slab_reserve = 1 << 8  # PG_owner_priv_1; written only where b03a is mended, as 3.6 tags its slab pages

NO_PFN: Final = -(1 << 60)  # the frame of no address; -1 would be that of the bytes just below PAGE_OFFSET
MIN_PARTIAL: Final = 2  # 2.6.23 and its -mm1; 2.6.24 keeps 5
DEFRAG_RATIO: Final = 100  # of 1024: how often slabs of other nodes are filled up before a new one is made


class KmemCacheCpu:
    """``struct kmem_cache_cpu``.

    :ivar freelist: free objects of ``page`` that this CPU took for itself; the last one goes first.
    :ivar page: the cpu slab.
    :ivar fast_pfn: the frame of ``page`` while freed objects of it may go to ``freelist``; NO_PFN after one was handed out
        singly.
    :ivar node: the node of ``page``, -1 after an object was handed out singly; it stays when the slab goes.
    :ivar reserve: the newest page that was asked for came from below the watermarks (patch 03).
    """

    __slots__ = ("fast_pfn", "freelist", "node", "page", "reserve")

    def __init__(self) -> None:
        self.freelist: list[int] = []
        self.page: Page | None = None
        self.fast_pfn = NO_PFN
        self.node = 0
        self.reserve = 0  # [p03] added

    def __repr__(self) -> str:
        """Show what an oops would print."""
        return f"<KmemCacheCpu free={len(self.freelist)} fast_pfn={self.fast_pfn} reserve={self.reserve} page={self.page!r}>"


class KmemCache:
    """``struct kmem_cache``: objects of one size.

    :ivar objsize: what the user asked for.
    :ivar size: the distance of two objects.
    :ivar objects: objects per slab.
    :ivar allocflags: gfp bits that every page request of the cache carries.
    :ivar min_partial: slabs on a node's list below which an empty slab is kept.
    :ivar refcount: how many users share the cache; more than one only where caches are merged.
    :ivar partials: ``kmem_cache_node.partial`` of every node: slabs with a free object that no CPU holds, by pfn; the first goes
        first.
    :ivar slabs: every slab of the cache, by pfn.
    :ivar layout: where in an object red zone, free pointer and padding are.
    :ivar images: the bytes of each slab of a cache with debugging, by pfn.
    :ivar tracks: who took and who freed an object, by address; with SLAB_STORE_USER.
    """

    __slots__ = (
        "align",
        "allocflags",
        "cpu_slab",
        "ctor",
        "defrag_ratio",
        "flags",
        "images",
        "layout",
        "min_partial",
        "name",
        "objects",
        "objsize",
        "order",
        "partials",
        "refcount",
        "size",
        "slabs",
        "tracks",
    )

    def __init__(
        self,
        name: str,
        objsize: int,
        flags: int,
        geometry: tuple[int, int, int],
        ncpus: int,
        allocflags: int = 0,
        align: int = 0,
        ctor: Callable[[int], None] | None = None,
        *,
        nnodes: int = 1,
        min_partial: int = MIN_PARTIAL,
        word: int = 8,
    ) -> None:
        self.name = name
        self.objsize = objsize
        self.size, self.order, self.objects = geometry
        self.flags = flags
        self.align = align
        self.allocflags = allocflags
        self.ctor = ctor
        self.min_partial = min_partial
        self.defrag_ratio = DEFRAG_RATIO
        self.refcount = 1
        self.cpu_slab = [KmemCacheCpu() for _ in range(ncpus)]
        self.partials: list[OrderedDict[int, Page]] = [OrderedDict() for _ in range(nnodes)]
        self.slabs: dict[int, Page] = {}
        self.layout = make_layout(objsize, self.size, flags, word, has_ctor=ctor is not None)
        self.images: dict[int, bytearray] = {}
        self.tracks: dict[int, tuple[Track | None, Track | None]] = {}

    @property
    def partial(self) -> OrderedDict[int, Page]:
        """The partial slabs of the first node: of the machine, where there is only one."""
        return self.partials[0]

    @property
    def nr_partial(self) -> int:
        """Partial slabs of all nodes."""
        return sum(map(len, self.partials))

    @property
    def bytes_per_slab(self) -> int:
        """Bytes of one slab."""
        return PAGE_SIZE << self.order

    def __repr__(self) -> str:
        """Show what an oops would print."""
        return (
            f"<KmemCache {self.name} objsize={self.objsize} size={self.size} order={self.order} objects={self.objects} "
            f"slabs={len(self.slabs)} partial={self.nr_partial}>"
        )
