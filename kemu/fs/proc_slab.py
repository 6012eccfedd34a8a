"""/proc/slabinfo and /sys/kernel/slab/<cache>/ (2.6.24 mm/slub.c: s_show(), slab_attrs).

Interface: :func:`slabinfo`; :class:`SlabFiles`, the files of all caches.

Rules of this file
    * 2.6.23 has no /proc/slabinfo with SLUB; 2.6.24 has, version 2.1, and that is shown. Objects of slabs that are not partial
      count as in use, also those that a CPU has at hand; tunables do not exist.
    * The folder was /sys/slab in 2.6.23 and is /sys/kernel/slab later.
    * ``min_partial`` became a file in 2.6.30; ``cpu_partial`` in 3.2, so it is there only where the machine's geometry knows such a
      number.
    * On a machine with several nodes a count is followed by those of the nodes that have some, `` N0=3 N1=1``.
    * A slab that a CPU may only hand out singly (of the reserve, or with debugging) belongs to no node in the CPU's eyes: it counts
      as full and not as cpu slab, as in the kernel.
    * ``shrink`` and ``validate`` take a 1. The name of a merged cache is a folder too, where the kernel has a link.
    * Left out: switching debug flags, ``alloc_calls`` and ``free_calls``, ``ctor``, the unique names (``:0000192``) of the folders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kemu.kernel.errno import EINVAL
from kemu.mm.slub_cache import KmemCache
from kemu.mm.slub_geometry import (
    SLAB_CACHE_DMA,
    SLAB_DEBUG_FREE,
    SLAB_DESTROY_BY_RCU,
    SLAB_HWCACHE_ALIGN,
    SLAB_POISON,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
)

if TYPE_CHECKING:
    from kemu.mm.slub import Slub

_HEADER: Final = (
    "slabinfo - version: 2.1\n"
    "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>"
    " : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
)

_FLAGS: Final = {
    "sanity_checks": SLAB_DEBUG_FREE,
    "trace": SLAB_TRACE,
    "hwcache_align": SLAB_HWCACHE_ALIGN,
    "reclaim_account": SLAB_RECLAIM_ACCOUNT,
    "destroy_by_rcu": SLAB_DESTROY_BY_RCU,
    "red_zone": SLAB_RED_ZONE,
    "poison": SLAB_POISON,
    "store_user": SLAB_STORE_USER,
    "cache_dma": SLAB_CACHE_DMA,
}


def caches(slub: Slub) -> list[KmemCache]:
    """Give all caches, the newest first, as list_add() puts them."""
    return list(reversed(slub.caches.values()))


def slabinfo(slub: Slub) -> str:
    """Give the text of /proc/slabinfo."""
    lines = [_HEADER]
    for cache in caches(slub):
        slabs = len(cache.slabs)
        partial = [page for pages in cache.partials for page in pages.values()]
        in_use = sum(page.mapcount for page in partial) + (slabs - len(partial)) * cache.objects
        lines.append(
            f"{cache.name:<17} {in_use:6} {slabs * cache.objects:6} {cache.size:6} {cache.objects:4} {1 << cache.order:4}"
            f" : tunables {0:4} {0:4} {0:4} : slabdata {slabs:6} {slabs:6} {0:6}\n"
        )
    return "".join(lines)


class SlabFiles:
    """The files below /sys/kernel/slab."""

    def __init__(self, slub: Slub) -> None:
        self.slub = slub
        self._attributes: dict[str, Callable[[KmemCache], str]] = {
            "slab_size": lambda cache: f"{cache.size}\n",
            "object_size": lambda cache: f"{cache.objsize}\n",
            "objs_per_slab": lambda cache: f"{cache.objects}\n",
            "order": lambda cache: f"{cache.order}\n",
            "min_partial": lambda cache: f"{cache.min_partial}\n",
            "objects": lambda cache: self._count(cache, objects=True),
            "slabs": self._count,
            "partial": lambda cache: self._count(cache, cpu=False, full=False),
            "cpu_slabs": lambda cache: self._count(cache, partial=False, full=False),
            "aliases": lambda cache: f"{cache.refcount - 1}\n",
            "align": lambda cache: f"{slub.geometry.alignment(cache.flags, cache.align, cache.objsize)}\n",
            "shrink": lambda _cache: "",
            "validate": lambda _cache: "",
        }
        if slub.geometry.cpu_partial(slub.geometry.word, 0) is not None:
            self._attributes["cpu_partial"] = lambda cache: f"{slub.geometry.cpu_partial(cache.size, cache.flags)}\n"
        if slub.geometry.cpu_partial(1, 0) is not None:
            self._attributes["cpu_partial"] = lambda cache: f"{slub.geometry.cpu_partial(cache.size, cache.flags)}\n"
        for name, flag in _FLAGS.items():
            self._attributes[name] = lambda cache, flag=flag: f"{int(cache.flags & flag != 0)}\n"  # type: ignore[misc]  # bound here

    def names(self) -> list[str]:
        """Give ``cache/attribute`` of every file."""
        return [f"{cache}/{attribute}" for cache in (*self.slub.caches, *self.slub.aliases) for attribute in self._attributes]

    def find(self, path: str) -> tuple[Callable[[], str], Callable[[str | bytes], int] | None, int] | None:
        """Give how to read and write ``cache/attribute``, and its mode; None if there is no such file."""
        name, _, attribute = path.rpartition("/")
        cache, show = self.slub.caches.get(name) or self.slub.aliases.get(name), self._attributes.get(attribute)
        if cache is None or show is None:
            return None
        act = {"shrink": self.slub.kmem_cache_shrink, "validate": self._validate}.get(attribute)
        if act is None:
            return (lambda: show(cache)), None, 0o444
        return (lambda: show(cache)), (lambda text: act(cache) if text[:1] in ("1", b"1") else -EINVAL), 0o644

    def _validate(self, cache: KmemCache) -> int:
        """Look at every object of the slabs that SLUB can find (validate_slab_cache()): full ones only where users are stored.

        What is wrong is reported, and raised, as when an object is freed.
        """
        for cpu in range(len(cache.cpu_slab)):
            self.slub.flush_cpu_slab(cache, cpu)
        partial = {page.pfn: page for pages in cache.partials for page in pages.values()}
        pages = cache.slabs if cache.flags & SLAB_STORE_USER else partial
        for page in list(pages.values()):
            self.slub.debug.validate_slab(cache, page)
        return 0

    def _count(self, cache: KmemCache, *, cpu: bool = True, partial: bool = True, full: bool = True, objects: bool = False) -> str:
        """Count slabs, or objects in use, of the kinds wanted, in all and per node (slab_objects())."""
        nnodes = len(cache.partials)
        nodes, held = [0] * nnodes, [0] * nnodes
        for c in cache.cpu_slab:
            if c.page is not None and c.node >= 0:
                held[c.node] += 1
                if cpu:
                    nodes[c.node] += c.page.mapcount if objects else 1
        slabs = [0] * nnodes
        for page in cache.slabs.values():
            slabs[page.zone.node] += 1
        for node, pages in enumerate(cache.partials):
            if partial:
                nodes[node] += sum(page.mapcount for page in pages.values()) if objects else len(pages)
            if full:
                nodes[node] += (slabs[node] - held[node] - len(pages)) * (cache.objects if objects else 1)
        text = str(sum(nodes))
        if nnodes > 1:
            text += "".join(f" N{node}={count}" for node, count in enumerate(nodes) if count)
        return text + "\n"
