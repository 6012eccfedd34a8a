"""Swap pages on their way out and in (2.6.23 mm/page_io.c, with patch 25's proxies).

Interface
    * :class:`PageIo` is ``swap_aops``, the methods of the swapper's address space: ``swap_writepage(page, wbc)``,
      ``swap_readpage(file, page)``, ``swap_sync_page(page)``, ``swap_set_page_dirty(page)``.

Rules of this file
    * An area on a block device gets a bio of one page, which may have to be waited for; this file sets PG_writeback, unlocks, and
      ends the I/O. Bios for writes are asked for with GFP_NOIO, bios for reads with GFP_KERNEL: who reads is no reclaimer.
    * The block path finds an entry's area itself, as the base did. Only what patch 25 adds asks page_swap_info(), patch 24's.
    * An area with SWP_FILE gets its file system's ->writepage or ->readpage: that one sets PG_writeback, unlocks, and ends the I/O.
      Only a return of 0 counts as a page swapped. A machine booted with ``swap_ops="swapout"`` calls ->swapout and ->swapin in
      their place, which are told the swap file: what the review asked for, and v15 had.
    * A write error on a block device dirties the page again, and so keeps it. What a file system's error does is its own affair.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.core import Kernel
from kemu.kernel.errno import ENOMEM
from kemu.kernel.history import PAGE_IN, PAGE_OUT
from kemu.mm.address_space import WB_SYNC_ALL, AddressSpace, File, SwapOperations, WritebackControl
from kemu.mm.backing_dev import BIO_RW_SYNC, READ, WRITE
from kemu.mm.filemap import Filemap
from kemu.mm.gfp import GFP_KERNEL, GFP_NOIO, PAGE_SHIFT, gfp_t
from kemu.mm.page import Page, PG_error, PG_locked, PG_reclaim, PG_swapcache, PG_uptodate
from kemu.mm.swap_info import SWP_FILE, SwapAreas, SwapInfo
from kemu.mm.swap_state import SwapState
from kemu.mm.swapops import SWP_OFFSET_MASK

SWAP_OPS: Final = ("writepage", "swapout")
SECTORS_PER_PAGE_SHIFT: Final = PAGE_SHIFT - 9


class SwapBio(Protocol):
    """What this file sees of a bio (kemu/block/bio.py stands above the memory manager)."""

    bi_bdev: Any
    bi_sector: int
    bi_end_io: Any

    @property
    def bi_io_vec(self) -> list[tuple[Page, int, int]]:
        """The pages: (page, offset, length)."""

    def add_page(self, page: Page) -> int:
        """Append a whole page."""


class BlockLayer(Protocol):
    """Who has bios."""

    def bio_alloc(self, gfp: gfp_t, nr_vecs: int) -> Any:
        """Return a bio, or None."""

    def bio_put(self, bio: Any) -> None:
        """Free it."""

    def submit_bio(self, rw: int, bio: Any) -> None:
        """Send it to its device."""


class PageIo:
    """``swap_aops``: a swap cache page finds its area and goes to its device or file.

    :param areas: knows the area of a page.
    :param swap_state: gets its methods here.
    :param swap_ops: "writepage" (v14) or "swapout" (v15): what carries pages to a swap file that is no block device.
    :ivar bios: handed over by the machine; None where there is no block layer.
    """

    swapfile = None  # nobody swaps to the swapper's own address space

    def __init__(
        self, kernel: Kernel, areas: SwapAreas, filemap: Filemap, swap_state: SwapState, swap_ops: str = "writepage"
    ) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.patched = kernel.patched
        self.areas = areas
        self.filemap = filemap
        self.swap_state = swap_state
        self.vmstat = filemap.vmstat
        self.bios: BlockLayer | None = None
        self._history = kernel.history
        self._file_out, self._file_in = {
            "writepage": (self._by_writepage, self._by_readpage),
            "swapout": (self._by_swapout, self._by_swapin),
        }[swap_ops]
        swap_state.swapper_space.a_ops = self
        swap_state.swap_readpage = self.swap_readpage

    # -- swap_aops -------------------------------------------------------------------------------------------------------------

    def swap_writepage(self, page: Page, wbc: WritebackControl) -> int:
        """Write a locked swap cache page to its slot; one that only the cache still wants gives up its slot instead."""
        if self.swap_state.remove_exclusive_swap_page(page):
            self.filemap.unlock_page(page)
            return 0
        if self.patched.swap_file_aops:  # [p25]
            sis = self.areas.page_swap_info(page)
            if sis.flags & SWP_FILE:
                entry = page.private
                error = self._file_out(sis, page, wbc)
                if not error:
                    self._count(PAGE_OUT, entry)
                return error
        return self._write_to_device(page, wbc)

    def swap_readpage(self, file: File | None, page: Page) -> int:
        """Fill a locked swap cache page from its slot; it is unlocked when its contents are there."""
        if not page.flags & PG_locked:
            raise KernelBug("swap_readpage() of a page that is not locked", state=page)
        page.flags &= ~PG_uptodate
        if self.patched.swap_file_aops:  # [p25]
            sis = self.areas.page_swap_info(page)
            if sis.flags & SWP_FILE:
                entry = page.private
                error = self._file_in(sis, page)
                if not error:
                    self._count(PAGE_IN, entry)
                return error
        return self._read_from_device(page)

    def swap_sync_page(self, page: Page) -> None:
        """Hurry, somebody waits for the page: patch 25 tells the swap file's file system, the base its block device."""
        if self.patched.swap_file_aops:  # [p25]
            sis = self.areas.page_swap_info(page)
            if sis.flags & SWP_FILE:
                self._file_of(sis).a_ops.sync_page(page)
                return
        if page.flags & PG_swapcache:
            bdev = self.areas.get_swap_info_struct(page.private).bdev
            if bdev is not None:
                bdev.unplug()

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

    # -- swap files, the two interfaces ----------------------------------------------------------------------------------------

    def _by_writepage(self, sis: SwapInfo, page: Page, wbc: WritebackControl) -> int:
        """Write as v14 does."""
        return self._file_of(sis).a_ops.writepage(page, wbc)

    def _by_readpage(self, sis: SwapInfo, page: Page) -> int:
        """Read as v14 does."""
        return self._file_of(sis).a_ops.readpage(sis.swap_file, page)

    def _by_swapout(self, sis: SwapInfo, page: Page, wbc: WritebackControl) -> int:
        """Write as v15 does."""
        a_ops = cast(SwapOperations, self._file_of(sis).a_ops)
        assert sis.swap_file is not None
        return a_ops.swapout(sis.swap_file, page, wbc)

    def _by_swapin(self, sis: SwapInfo, page: Page) -> int:
        """Read as v15 does."""
        a_ops = cast(SwapOperations, self._file_of(sis).a_ops)
        assert sis.swap_file is not None
        return a_ops.swapin(sis.swap_file, page)

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

    def _write_to_device(self, page: Page, wbc: WritebackControl) -> int:
        """Write by a bio; without memory for one the page stays dirty (swap_writepage(), the base's half)."""
        self.sched.spend(costs.PAGEOUT)
        bio = self._get_swap_bio(GFP_NOIO, page)
        if bio is None:
            self.filemap.set_page_dirty(page)
            self.filemap.unlock_page(page)
            return -ENOMEM
        bio.bi_end_io = self._end_swap_bio_write
        self._count(PAGE_OUT, page.private)
        self.filemap.set_page_writeback(page)
        self.filemap.unlock_page(page)
        self._submit(WRITE | BIO_RW_SYNC if wbc.sync_mode == WB_SYNC_ALL else WRITE, bio)
        return 0

    def _read_from_device(self, page: Page) -> int:
        """Read by a bio (swap_readpage(), the base's half)."""
        bio = self._get_swap_bio(GFP_KERNEL, page)
        if bio is None:
            self.filemap.unlock_page(page)
            return -ENOMEM
        bio.bi_end_io = self._end_swap_bio_read
        self._count(PAGE_IN, page.private)
        self._submit(READ, bio)
        return 0

    def _get_swap_bio(self, gfp: gfp_t, page: Page) -> SwapBio | None:
        """Return a bio that carries a page to or from its slot (get_swap_bio())."""
        sis = self.areas.get_swap_info_struct(page.private)
        if sis.bdev is None or self.bios is None:
            raise KernelBug(
                "unable to handle kernel NULL pointer dereference: bio->bi_bdev of a swap area without a device", state=sis
            )
        bio: SwapBio | None = self.bios.bio_alloc(gfp, 1)
        if bio is not None:
            bio.bi_bdev = sis.bdev
            bio.bi_sector = sis.map_swap_page(page.private & SWP_OFFSET_MASK) << SECTORS_PER_PAGE_SHIFT
            bio.add_page(page)
        return bio

    def _submit(self, rw: int, bio: SwapBio) -> None:
        assert self.bios is not None
        self.bios.submit_bio(rw, bio)

    def _end_swap_bio_write(self, bio: SwapBio, error: int) -> None:
        """End a write; one that failed leaves the page dirty, so that reclaim does not free the only copy."""
        page = bio.bi_io_vec[0][0]
        if error:
            page.flags |= PG_error
            self.filemap.set_page_dirty(page)
            self.kernel.printk(f"Write-error on swap-device ({bio.bi_bdev.dev}:{bio.bi_sector})", level="alert")
            page.flags &= ~PG_reclaim
        self.filemap.end_page_writeback(page)
        self._put(bio)

    def _end_swap_bio_read(self, bio: SwapBio, error: int) -> None:
        """End a read; a page that could not be read stays not uptodate, and who faulted gets SIGBUS."""
        page = bio.bi_io_vec[0][0]
        if error:
            page.flags = page.flags & ~PG_uptodate | PG_error
            self.kernel.printk(f"Read-error on swap-device ({bio.bi_bdev.dev}:{bio.bi_sector})", level="alert")
        else:
            page.flags |= PG_uptodate
        self.filemap.unlock_page(page)
        self._put(bio)

    def _put(self, bio: SwapBio) -> None:
        assert self.bios is not None
        self.bios.bio_put(bio)
