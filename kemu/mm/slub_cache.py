"""A slab cache and what each CPU keeps of it (2.6.23-mm1 include/linux/slub_def.h).

Interface
    * :class:`KmemCache`, made by ``Slub.kmem_cache_create()``; :class:`KmemCacheCpu`, one per CPU and cache.

Rules
    * A slab page says what it is in its own fields: ``mapping`` is the cache, ``word_d`` the free objects (a list whose last item
      is handed out next, None if there are none), ``mapcount`` the objects in use, PG_active that a CPU holds it ("frozen"),
      PG_error that its objects are checked.
    * ``cache.slabs`` is kemu's own: SLUB does not know its full slabs. check() and reports need it.
    * Left out: more than one node, merging of caches of like size, sysfs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from kemu.mm.page import Page, PG_active, PG_error
from kemu.mm.slub_geometry import SLAB_HWCACHE_ALIGN, SLAB_PANIC, SLAB_RECLAIM_ACCOUNT

__all__ = [
    "MIN_PARTIAL",
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

MIN_PARTIAL = 2  # 2.6.23; 2.6.24 keeps 5


class KmemCacheCpu:
    """``struct kmem_cache_cpu``.

    :ivar freelist: free objects of ``page`` that this CPU took for itself; the last one goes first.
    :ivar page: the cpu slab.
    :ivar fast_pfn: the frame of ``page`` while freed objects of it may go to ``freelist``; -1 after an object was handed out singly
        (the kernel's ``node``, which is -1 then).
    :ivar reserve: the newest page that was asked for came from below the watermarks (patch 03).
    """

    __slots__ = ("fast_pfn", "freelist", "page", "reserve")

    def __init__(self) -> None:
        self.freelist: list[int] = []
        self.page: Page | None = None
        self.fast_pfn = -1
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
    :ivar partial: ``kmem_cache_node.partial``: slabs with a free object that no CPU holds, by pfn; the first is taken first.
    :ivar slabs: every slab of the cache, by pfn.
    """

    __slots__ = (
        "align",
        "allocflags",
        "cpu_slab",
        "ctor",
        "flags",
        "name",
        "objects",
        "objsize",
        "order",
        "owners",
        "partial",
        "size",
        "slabs",
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
    ) -> None:
        self.name = name
        self.objsize = objsize
        self.size, self.order, self.objects = geometry
        self.flags = flags
        self.align = align
        self.allocflags = allocflags
        self.ctor = ctor
        self.cpu_slab = [KmemCacheCpu() for _ in range(ncpus)]
        self.partial: OrderedDict[int, Page] = OrderedDict()
        self.slabs: dict[int, Page] = {}
        self.owners: dict[int, str] = {}  # objects in use of a cache with debugging: who took them

    def __repr__(self) -> str:
        """Show what an oops would print."""
        return (
            f"<KmemCache {self.name} objsize={self.objsize} size={self.size} order={self.order} objects={self.objects} "
            f"slabs={len(self.slabs)} partial={len(self.partial)}>"
        )
