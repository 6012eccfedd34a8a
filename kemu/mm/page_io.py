"""Swap pages on their way out and in (2.6.23 mm/page_io.c, with patch 25's proxies).

Interface
    * :class:`PageIo` is ``swap_aops``, the methods of the swapper's address space: ``swap_writepage(page, wbc)``,
      ``swap_readpage(file, page)``, ``swap_sync_page(page)``, ``swap_set_page_dirty(page)``.

Rules of this file
    * An area on a block device gets a bio; this file sets PG_writeback, unlocks, and ends the I/O.
    * An area with SWP_FILE gets its file system's ->writepage or ->readpage: that one sets PG_writeback, unlocks, and ends the I/O.
      Only a return of 0 counts as a page swapped.
    * A write error on a block device dirties the page again, and so keeps it. What a file system's error does is its own affair.
"""

from __future__ import annotations

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.core import Kernel
from kemu.kernel.errno import ENOMEM
from kemu.kernel.history import PAGE_IN, PAGE_OUT
from kemu.mm.address_space import AddressSpace, File, WritebackControl
from kemu.mm.backing_dev import READ, WRITE
from kemu.mm.filemap import Filemap
from kemu.mm.gfp import GFP_KERNEL, GFP_NOIO, gfp_t
from kemu.mm.page import Page, PG_error, PG_locked, PG_reclaim, PG_uptodate
from kemu.mm.swap_info import SWP_FILE, EndIo, SwapAreas, SwapInfo
from kemu.mm.swap_state import SwapState
from kemu.mm.swapops import SWP_OFFSET_MASK


class PageIo:
    """``swap_aops``: a swap cache page finds its area and goes to its device or file.

    :param areas: knows the area of a page.
    :param swap_state: gets its methods here.
    """

    swapfile = None  # nobody swaps to the swapper's own address space

    def __init__(self, kernel: Kernel, areas: SwapAreas, filemap: Filemap, swap_state: SwapState) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.patched = kernel.patched
        self.areas = areas
        self.filemap = filemap
        self.swap_state = swap_state
        self.vmstat = filemap.vmstat
        self._history = kernel.history
        swap_state.swapper_space.a_ops = self
        swap_state.swap_readpage = self.swap_readpage

    # -- swap_aops -------------------------------------------------------------------------------------------------------------

    def swap_writepage(self, page: Page, wbc: WritebackControl) -> int:
        """Write a locked swap cache page to its slot; one that only the cache still wants gives up its slot instead."""
        if self.swap_state.remove_exclusive_swap_page(page):
            self.filemap.unlock_page(page)
            return 0
        sis = self.areas.page_swap_info(page)
        if self.patched.swap_file_aops and sis.flags & SWP_FILE:  # [p25]
            entry = page.private
            error = self._file_of(sis).a_ops.writepage(page, wbc)
            if not error:
                self._count(PAGE_OUT, entry)
            return error
        return self._write_to_device(page, sis)

    def swap_readpage(self, file: File | None, page: Page) -> int:
        """Fill a locked swap cache page from its slot; it is unlocked when its contents are there."""
        if not page.flags & PG_locked:
            raise KernelBug("swap_readpage() of a page that is not locked", state=page)
        page.flags &= ~PG_uptodate
        sis = self.areas.page_swap_info(page)
        if self.patched.swap_file_aops and sis.flags & SWP_FILE:  # [p25]
            entry = page.private
            error = self._file_of(sis).a_ops.readpage(sis.swap_file, page)
            if not error:
                self._count(PAGE_IN, entry)
            return error
        return self._read_from_device(page, sis)

    def swap_sync_page(self, page: Page) -> None:
        """Hurry, somebody waits for the page: patch 25 tells the swap file's file system, the base its block device."""
        if self.patched.swap_file_aops:  # [p25]
            sis = self.areas.page_swap_info(page)
            if sis.flags & SWP_FILE:
                self._file_of(sis).a_ops.sync_page(page)

    def swap_set_page_dirty(self, page: Page) -> bool:
        """Dirty a swap cache page: patch 25 asks the swap file's file system, which may keep more than the bit."""
        if self.patched.swap_file_aops:  # [p25]
            sis = self.areas.page_swap_info(page)
            if sis.flags & SWP_FILE:
                return bool(self._file_of(sis).a_ops.set_page_dirty(page))
        return self.filemap.set_page_dirty_nobuffers(page)

    writepage = swap_writepage
    readpage = swap_readpage
    sync_page = swap_sync_page
    set_page_dirty = swap_set_page_dirty

    def bmap(self, mapping: AddressSpace, block: int) -> int:
        """Swap entries have no block numbers of their own."""
        return 0

    def _file_of(self, sis: SwapInfo) -> AddressSpace:
        if sis.swap_file is None:
            raise KernelBug("swap I/O to an area whose file is closed", state=sis)
        return sis.swap_file.f_mapping

    def _count(self, kind: int, entry: int) -> None:
        """Count a page swapped (PSWPOUT, PSWPIN), for the counters and the history."""
        if kind == PAGE_OUT:
            self.vmstat.pswpout += 1
        else:
            self.vmstat.pswpin += 1
        self._history.add(kind, self.sched.now, self.kernel.index, entry)

    # -- block devices ---------------------------------------------------------------------------------------------------------

    def _write_to_device(self, page: Page, sis: SwapInfo) -> int:
        """Write by a bio; without memory for one the page stays dirty (swap_writepage(), the base's half)."""
        self.sched.spend(costs.PAGEOUT)
        self.filemap.set_page_writeback(page)
        if not self._submit(WRITE, page, sis, self._end_swap_bio_write, GFP_NOIO):
            self.filemap.set_page_dirty(page)
            page.flags &= ~PG_reclaim
            self.filemap.end_page_writeback(page)
            self.filemap.unlock_page(page)
            return -ENOMEM
        self._count(PAGE_OUT, page.private)
        self.filemap.unlock_page(page)
        return 0

    def _read_from_device(self, page: Page, sis: SwapInfo) -> int:
        """Read by a bio (swap_readpage(), the base's half)."""
        entry = page.private
        if not self._submit(READ, page, sis, self._end_swap_bio_read, GFP_KERNEL):
            self.filemap.unlock_page(page)
            return -ENOMEM
        self._count(PAGE_IN, entry)
        return 0

    def _submit(self, rw: int, page: Page, sis: SwapInfo, end_io: EndIo, gfp: gfp_t) -> bool:
        """Hand a page to the area's device (get_swap_bio(), submit_bio())."""
        if sis.bdev is None:
            raise KernelBug(
                "unable to handle kernel NULL pointer dereference: bio->bi_bdev of a swap area without a device", state=sis
            )
        return sis.bdev.submit_page(rw, page, sis.map_swap_page(page.private & SWP_OFFSET_MASK), end_io, gfp)

    def _end_swap_bio_write(self, page: Page, error: int) -> None:
        """End a write; one that failed leaves the page dirty, so that reclaim does not free the only copy."""
        if error:
            page.flags |= PG_error
            self.filemap.set_page_dirty(page)
            page.flags &= ~PG_reclaim
            self.kernel.printk(f"Write-error on swap-device (slot {page.private & SWP_OFFSET_MASK})", level="alert")
        self.filemap.end_page_writeback(page)

    def _end_swap_bio_read(self, page: Page, error: int) -> None:
        """End a read; a page that could not be read stays not uptodate, and who faulted gets SIGBUS."""
        if error:
            page.flags = page.flags & ~PG_uptodate | PG_error
            self.kernel.printk(f"Read-error on swap-device (slot {page.private & SWP_OFFSET_MASK})", level="alert")
        else:
            page.flags |= PG_uptodate
        self.filemap.unlock_page(page)
