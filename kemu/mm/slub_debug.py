"""What SLUB says when an object is freed wrongly, and the invariants of a cache (2.6.23 mm/slub.c: the debugging half).

Interface
    * :func:`alloc_debug_processing`, :func:`free_debug_processing`: for caches that were created with a debug flag.
    * :func:`bad_free`: the oops of an address that is no object of the cache.
    * :func:`check_cache`: all invariants of one cache; :func:`objects_in_use`.

Rules
    * Nothing here runs on the fast path of a cache without debugging; a double free there is found by check_cache().
    * Where the kernel prints and goes on, kemu stops: :exc:`KernelBug` names object, cache and page.
    * Left out: red zones, poison, tracks of where an object was freed.
"""

from __future__ import annotations

from typing import NoReturn

from kemu.errors import KernelBug
from kemu.mm.page import Page, PG_slab
from kemu.mm.slub_cache import KmemCache, KmemCacheCpu, PG_frozen


def alloc_debug_processing(cache: KmemCache, page: Page, address: int, owner: str) -> None:
    """Note who takes an object; it must not be in use already."""
    _check_valid_pointer(cache, page, address)
    if address in cache.owners:
        raise KernelBug(f"slub {cache.name}: object {address:#x} is free on its slab, but in use by {cache.owners[address]}", page)
    cache.owners[address] = owner


def free_debug_processing(cache: KmemCache, page: Page, address: int) -> None:
    """Forget who took an object; it must be in use."""
    _check_valid_pointer(cache, page, address)
    if cache.owners.pop(address, None) is None:
        raise KernelBug(f"slub {cache.name}: object {address:#x} is already free", page)


def bad_free(cache: KmemCache, page: Page | None, address: int | None) -> NoReturn:
    """Stop at an address that ``cache`` never handed out (``pr_err("... not allocated with slab")``)."""
    shown = "None" if address is None else f"{address:#x}"
    if page is None:
        raise KernelBug(f"slub {cache.name}: {shown} is no address of memory")
    if not page.flags & PG_slab:
        raise KernelBug(f"slub {cache.name}: {shown} lies in a page that is no slab", page)
    raise KernelBug(f"slub {cache.name}: {shown} belongs to cache {page.mapping.name}", page)


def _check_valid_pointer(cache: KmemCache, page: Page, address: int) -> None:
    offset = address - page.address
    if not 0 <= offset < cache.objects * cache.size or offset % cache.size:
        raise KernelBug(f"slub {cache.name}: {address:#x} is not the begin of an object", page)


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
    stray = [pfn for pfn in (*cache.partial, *cpu_pages) if pfn not in cache.slabs]
    if stray:
        raise KernelBug(f"slub {cache.name}: pages {stray} are listed, but are no slabs of it", cache)


def _check_cpu_slab(cache: KmemCache, cpu: int, c: KmemCacheCpu) -> None:
    """Assert what holds for the slab of one CPU."""
    if c.page is None and c.freelist:
        raise KernelBug(f"slub {cache.name}: CPU {cpu} has free objects without a slab", c)
    if c.fast_pfn < 0 and c.freelist:
        raise KernelBug(f"slub {cache.name}: CPU {cpu} hands objects out singly, but has a freelist", c)
    if c.fast_pfn >= 0 and (c.page is None or c.page.pfn != c.fast_pfn):
        raise KernelBug(f"slub {cache.name}: CPU {cpu} would take frees of a slab that it does not hold", c)


def _check_slab(cache: KmemCache, page: Page, c: KmemCacheCpu | None) -> None:
    """Assert what holds for one slab page; ``c`` is the CPU that holds it."""
    where = f"slub {cache.name}: slab {page.pfn:#x}"
    if page.mapping is not cache or not page.flags & PG_slab:
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
    listed = page.pfn in cache.partial
    if c is not None and listed:
        raise KernelBug(f"{where} is a cpu slab and on the partial list", page)
    if c is None and listed != bool(page.word_d):
        raise KernelBug(f"{where}: {len(page.word_d or ())} free objects, on the partial list: {listed}", page)
