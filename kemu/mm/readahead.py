"""Reading pages of files before somebody asks (2.6.23 mm/readahead.c, simplified).

Interface
    * :class:`Readahead`: ``ondemand(mapping, file, index)`` for read(2), ``around(mapping, file, index)`` for a fault, both where
      the page is not cached; ``do_page_cache_readahead(mapping, file, first, nr)``.

Rules of this file
    * The device says how far (``ra_pages``; 32 for a disk: 128 KiB, 15 READs for NFS), but no further than half of what is free
      or inactive. A congested device is left alone.
    * A reader in sequence gets a window that doubles at each miss, from 4 pages on. Anyone else gets his page only.
    * A fault reads a window around its page. A file whose faults have missed the cache a hundred times more often than met it is
      used here and there: reading around would only push other pages out.
    * A page that cannot be had is no error: who wants it reads it himself. New pages are asked for cold: the
      device writes them, not the processor.
    * Left out: PG_readahead, which starts the next window before the last one is used up; so each window is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.mm.backing_dev import READ
from kemu.mm.gfp import _GFP_COLD, GFP_HIGHUSER, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.address_space import AddressSpace, File
    from kemu.mm.filemap import Filemap
    from kemu.mm.page import Page

MIN_WINDOW: Final = 4
MMAP_LOTSAMISS: Final = 100


class Readahead:
    """``struct file_ra_state`` at work."""

    def __init__(self, kernel: Kernel, filemap: Filemap) -> None:
        self.sched = kernel.sched
        self.filemap = filemap
        self.page_alloc = filemap.page_alloc
        self.lru = filemap.lru

    def ondemand(self, mapping: AddressSpace, file: File, index: int) -> None:
        """Read what a sequential reader wants next, from a page that is not cached on (page_cache_readahead_ondemand())."""
        limit = self._limit(mapping)
        if index in (0, file.ra_prev + 1):
            file.ra_size = min(max(2 * file.ra_size, MIN_WINDOW), limit)
        else:
            file.ra_size = 0
        if file.ra_size:
            self.do_page_cache_readahead(mapping, file, index, file.ra_size)

    def around(self, mapping: AddressSpace, file: File, index: int) -> None:
        """Read around a page that a fault wants (the read-around of filemap_fault()), unless faults mostly find nothing."""
        file.mmap_miss += 1
        if file.mmap_miss > file.mmap_hit + MMAP_LOTSAMISS:
            return
        limit = self._limit(mapping)
        if limit:
            self.do_page_cache_readahead(mapping, file, max(0, index - limit // 2), limit)

    def _limit(self, mapping: AddressSpace) -> int:
        """Return how many pages may be read ahead now."""
        bdi = mapping.backing_dev_info
        return 0 if bdi is None or bdi.congested(READ) else self._max_sane_readahead(bdi.ra_pages)

    def _max_sane_readahead(self, nr: int) -> int:
        """Fit a window to the memory that there is (max_sane_readahead())."""
        return min(nr, (self.page_alloc.vmstat.nr_inactive + self.page_alloc.nr_free_pages()) // 2)

    def do_page_cache_readahead(self, mapping: AddressSpace, file: File, first: int, nr: int) -> int:
        """Start reading the pages of a range that are not cached; return how many (__do_page_cache_readahead())."""
        assert mapping.host is not None
        end = min(first + nr, (mapping.host.size + PAGE_SIZE - 1) >> PAGE_SHIFT)
        pages: list[tuple[int, Page]] = []
        for index in range(first, end):
            if mapping.page_tree is not None and mapping.page_tree.lookup(index) is not None:
                continue
            page = self.page_alloc.alloc_page(GFP_HIGHUSER | _GFP_COLD)
            if page is None:
                break
            pages.append((index, page))
        return self._read_pages(mapping, file, pages)

    def _read_pages(self, mapping: AddressSpace, file: File, pages: list[tuple[int, Page]]) -> int:
        """Put fresh pages into the cache and hand them to the file system (read_pages())."""
        wanted: list[Page] = []
        for index, page in pages:
            if self.filemap.add_to_page_cache(page, mapping, index, GFP_HIGHUSER):
                self.lru.put_page(page)
            else:
                self.lru.lru_cache_add(page)
                wanted.append(page)
        readpages = getattr(mapping.a_ops, "readpages", None)  # NULL in C where the file system has none
        if readpages is not None:
            readpages(file, mapping, wanted)
        else:
            for page in wanted:
                mapping.a_ops.readpage(file, page)
        for page in wanted:
            self.lru.put_page(page)
        return len(wanted)
