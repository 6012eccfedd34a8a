"""The invariants of a cache: its lists, its CPUs' slabs, and every slab.

Interface: :func:`check_cache`; :func:`objects_in_use`, :func:`free_objects`.

Rules of this file
    * Nothing is changed here. Bytes of objects are checked by slub_debug.py.
"""

from __future__ import annotations

from kemu.errors import KernelBug
from kemu.mm.page import Page, PG_slab
from kemu.mm.slub_cache import KmemCache, KmemCacheCpu, PG_frozen


def free_objects(cache: KmemCache, page: Page) -> list[int]:
    """Return the free objects of a slab: those on its own list and those that a CPU took."""
    free = list(page.word_d or ())
    for c in cache.cpu_slab:
        if c.page is page:
            free += c.freelist
    return free


def objects_in_use(cache: KmemCache) -> int:
    """Count the objects that users hold."""
    return sum(cache.objects - len(free_objects(cache, page)) for page in cache.slabs.values())


def check_cache(cache: KmemCache) -> None:
    """Assert the invariants of a cache and all its slabs."""
    cpu_pages: dict[int, KmemCacheCpu] = {}
    for cpu, c in enumerate(cache.cpu_slab):
        _check_cpu_slab(cache, cpu, c)
        if c.page is not None:
            if c.page.pfn in cpu_pages:
                raise KernelBug(f"slub {cache.name}: two CPUs hold the slab {c.page.pfn:#x}", c.page)
            cpu_pages[c.page.pfn] = c
    for pfn, page in cache.slabs.items():
        _check_slab(cache, page, cpu_pages.get(pfn))
    listed = [(nid, pfn) for nid, partial in enumerate(cache.partials) for pfn in partial]
    stray = [pfn for pfn in (*(pfn for _, pfn in listed), *cpu_pages) if pfn not in cache.slabs]
    if stray:
        raise KernelBug(f"slub {cache.name}: pages {stray} are listed, but are no slabs of it", cache)
    for nid, pfn in listed:
        if cache.slabs[pfn].zone.node != nid:
            raise KernelBug(f"slub {cache.name}: slab {pfn:#x} is on the list of node {nid}", cache.slabs[pfn])


def _check_cpu_slab(cache: KmemCache, cpu: int, c: KmemCacheCpu) -> None:
    """Assert what holds for the slab of one CPU."""
    if c.page is None and c.freelist:
        raise KernelBug(f"slub {cache.name}: CPU {cpu} has free objects without a slab", c)
    if c.fast_pfn < 0 and c.freelist:
        raise KernelBug(f"slub {cache.name}: CPU {cpu} hands objects out singly, but has a freelist", c)
    if c.fast_pfn >= 0 and (c.page is None or c.page.pfn != c.fast_pfn):
        raise KernelBug(f"slub {cache.name}: CPU {cpu} would take frees of a slab that it does not hold", c)
    if c.fast_pfn >= 0 and c.page is not None and c.node != c.page.zone.node:
        raise KernelBug(f"slub {cache.name}: CPU {cpu} takes its slab for one of node {c.node}", c)


def _check_slab(cache: KmemCache, page: Page, c: KmemCacheCpu | None) -> None:
    """Assert what holds for one slab page; ``c`` is the CPU that holds it."""
    where = f"slub {cache.name}: slab {page.pfn:#x}"
    if page.private is not cache or not page.flags & PG_slab:
        raise KernelBug(f"{where} is not marked as a slab of the cache", page)
    free = free_objects(cache, page)
    if len(frozenset(free)) != len(free):
        twice = next(address for place, address in enumerate(free) if address in free[:place])
        raise KernelBug(f"{where}: object {twice:#x} was freed twice", page)
    base, end = page.address, page.address + cache.objects * cache.size
    for address in free:
        if not base <= address < end or (address - base) % cache.size:
            raise KernelBug(f"{where}: {address:#x} is on its freelist, but is no object of it", page)
    if page.mapcount + len(page.word_d or ()) != cache.objects:
        raise KernelBug(f"{where}: inuse {page.mapcount} and {len(page.word_d or ())} free of {cache.objects}", page)
    if bool(page.flags & PG_frozen) != (c is not None):
        raise KernelBug(f"{where}: frozen flag and cpu slabs disagree", page)
    listed = page.pfn in cache.partials[page.zone.node]
    if c is not None and listed:
        raise KernelBug(f"{where} is a cpu slab and on the partial list", page)
    if c is None and listed != bool(page.word_d):
        raise KernelBug(f"{where}: {len(page.word_d or ())} free objects, on the partial list: {listed}", page)
