"""Writing the dirty pages of one file (2.6.23 mm/page-writeback.c: do_writepages(), write_cache_pages(); mm/filemap.c: fdatawait).

Interface
    * :class:`WritePages`: ``do_writepages(mapping, wbc)``, ``generic_writepages``, ``write_cache_pages(mapping, wbc, writepage)``;
      ``filemap_fdatawrite(mapping)`` starts all writes, ``filemap_fdatawait(mapping)`` waits for them and tells what failed.

Rules of this file
    * Pages are found by their dirty tag, in order. A cyclic writer goes on where the last one stopped, and wraps around once.
    * Who must not wait passes over a page under writeback; who syncs waits for it, and writes it if it is dirty again.
    * A full queue stops a writer that is ``nonblocking``.
    * An error of an earlier write is told once, to the first who waits (AS_EIO, AS_ENOSPC).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kemu.kernel.errno import EIO, ENOSPC
from kemu.lib.radix_tree import TAG_DIRTY, TAG_WRITEBACK
from kemu.mm.address_space import (
    AOP_WRITEPAGE_ACTIVATE,
    AS_EIO,
    AS_ENOSPC,
    LLONG_MAX,
    WB_SYNC_ALL,
    WB_SYNC_NONE,
    AddressSpace,
    WritebackControl,
)
from kemu.mm.backing_dev import BDI_CAP_NO_WRITEBACK, WRITE
from kemu.mm.gfp import PAGE_SHIFT
from kemu.mm.page import Page, PG_error, PG_writeback

if TYPE_CHECKING:
    from kemu.mm.filemap import Filemap

PAGEVEC_SIZE: Final = 14

WritePage = Callable[[Page, WritebackControl], int]


class WritePages:
    """Writers of dirty pages."""

    def __init__(self, filemap: Filemap) -> None:
        self.filemap = filemap
        self.sched = filemap.sched
        self.put_page = filemap.page_alloc.put_page

    def do_writepages(self, mapping: AddressSpace, wbc: WritebackControl) -> int:
        """Write some dirty pages of a file, by its own method if it has one (do_writepages())."""
        if wbc.nr_to_write <= 0:
            return 0
        writepages = getattr(mapping.a_ops, "writepages", None)  # NULL in C where the file system has none
        if writepages is not None:
            return int(writepages(mapping, wbc))
        return self.generic_writepages(mapping, wbc)

    def generic_writepages(self, mapping: AddressSpace, wbc: WritebackControl) -> int:
        """Write dirty pages by ->writepage (generic_writepages())."""
        return self.write_cache_pages(mapping, wbc, mapping.a_ops.writepage)

    def write_cache_pages(self, mapping: AddressSpace, wbc: WritebackControl, writepage: WritePage) -> int:
        """Walk over the dirty pages of a file and write them; ``wbc.nr_to_write`` counts down (write_cache_pages())."""
        bdi = mapping.backing_dev_info
        if wbc.nonblocking and bdi is not None and bdi.congested(WRITE):
            wbc.encountered_congestion = True
            return 0
        if wbc.range_cyclic:
            index, end = mapping.writeback_index, LLONG_MAX
        else:
            index, end = wbc.range_start >> PAGE_SHIFT, wbc.range_end >> PAGE_SHIFT
        whole = wbc.range_start == 0 and wbc.range_end == LLONG_MAX
        scanned = not wbc.range_cyclic
        done = False
        result = 0
        while not done:
            pages = self._dirty_pages(mapping, index, end)
            if not pages:
                if scanned:
                    break
                scanned = True  # nothing from here to the end: begin again at the start of the file
                index = 0
                continue
            scanned = True
            for page in pages:  # all of the batch, also after the last that was asked for
                index = page.word_d + 1
                result, stop = self._write_one(mapping, page, wbc, writepage)
                done = done or stop
                if wbc.nonblocking and bdi is not None and bdi.congested(WRITE):
                    wbc.encountered_congestion = True
                    done = True
                self.put_page(page)
            self.sched.cond_resched()
        if wbc.range_cyclic or (whole and wbc.nr_to_write > 0):
            mapping.writeback_index = index
        return result

    def _dirty_pages(self, mapping: AddressSpace, index: int, end: int) -> list[Page]:
        """Take references of the next dirty pages (pagevec_lookup_tag())."""
        if mapping.page_tree is None or index > end:
            return []
        pages: list[Page] = [p for p in mapping.page_tree.gang_lookup_tag(index, PAGEVEC_SIZE, TAG_DIRTY) if p.word_d <= end]
        for page in pages:
            page.count += 1
        return pages

    def _write_one(self, mapping: AddressSpace, page: Page, wbc: WritebackControl, writepage: WritePage) -> tuple[int, bool]:
        """Write a page if it is still there and dirty; return ->writepage's error, and whether the walk should end."""
        filemap = self.filemap
        filemap.lock_page(page)
        if page.mapping is not mapping:
            filemap.unlock_page(page)
            return 0, False
        if wbc.sync_mode != WB_SYNC_NONE:
            filemap.wait_on_page_writeback(page)
        if page.flags & PG_writeback or not filemap.clear_page_dirty_for_io(page):
            filemap.unlock_page(page)
            return 0, False
        error = writepage(page, wbc)
        if error == AOP_WRITEPAGE_ACTIVATE:
            filemap.unlock_page(page)
            error = 0
        if error:
            return error, True
        wbc.nr_to_write -= 1
        return 0, wbc.nr_to_write <= 0

    # -- all of a file -----------------------------------------------------------------------------------------------------------

    def filemap_fdatawrite(self, mapping: AddressSpace) -> int:
        """Start writing every dirty page of a file (filemap_fdatawrite())."""
        bdi = mapping.backing_dev_info
        if bdi is not None and bdi.capabilities & BDI_CAP_NO_WRITEBACK:
            return 0
        wbc = WritebackControl(mapping.nrpages * 2, sync_mode=WB_SYNC_ALL)
        return self.do_writepages(mapping, wbc)

    def filemap_fdatawait(self, mapping: AddressSpace) -> int:
        """Wait for the writes under way; return -EIO or -ENOSPC if one has failed since somebody asked (filemap_fdatawait())."""
        result = 0
        index = 0
        while mapping.page_tree is not None:
            pages: list[Page] = mapping.page_tree.gang_lookup_tag(index, PAGEVEC_SIZE, TAG_WRITEBACK)
            if not pages:
                break
            for page in pages:
                page.count += 1
            for page in pages:
                index = page.word_d + 1
                self.filemap.wait_on_page_writeback(page)
                if page.flags & PG_error:
                    result = -EIO
                self.put_page(page)
        if mapping.flags & AS_ENOSPC:
            mapping.flags &= ~AS_ENOSPC
            result = -ENOSPC
        if mapping.flags & AS_EIO:
            mapping.flags &= ~AS_EIO
            result = -EIO
        return result
