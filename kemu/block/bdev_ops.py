"""A block device's own address space: its pages by bios of one page (2.6.23 fs/block_dev.c, fs/buffer.c).

Interface: :class:`BdevOps`, the ``a_ops`` of a disk's inode. swapon reads an area's header through it.

Rules of this file
    * A page is a block: buffer heads are left out.
    * Bios are asked for with GFP_NOIO, as submit_bh() does: they never fail, they wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.block.bio import SECTOR_SHIFT, Bio, BioEndIo, Bios
from kemu.kernel.errno import EIO
from kemu.mm.address_space import AddressSpace, File, WritebackControl
from kemu.mm.backing_dev import READ, WRITE
from kemu.mm.gfp import GFP_NOIO, PAGE_SHIFT
from kemu.mm.page import Page, PG_error, PG_uptodate

if TYPE_CHECKING:
    from kemu.mm.filemap import Filemap


class BdevOps:
    """``def_blk_aops``."""

    swapfile = None  # a block device is one extent, nobody asks

    def __init__(self, bios: Bios, filemap: Filemap) -> None:
        self.bios = bios
        self.filemap = filemap

    def readpage(self, file: File | None, page: Page) -> int:
        """Read a page of the device (blkdev_readpage())."""
        self._submit(READ, page, self._end_read)
        return 0

    def writepage(self, page: Page, wbc: WritebackControl) -> int:
        """Write a page of the device (blkdev_writepage())."""
        self.filemap.set_page_writeback(page)
        self.filemap.unlock_page(page)
        self._submit(WRITE, page, self._end_write)
        return 0

    def _submit(self, rw: int, page: Page, end_io: BioEndIo) -> None:
        """Send one page by a bio of its own (submit_bh())."""
        bio = self.bios.bio_alloc(GFP_NOIO, 1)
        assert bio is not None  # GFP_NOIO has __GFP_WAIT
        bio.bi_bdev = page.mapping.host.i_bdev
        bio.bi_sector = page.word_d << (PAGE_SHIFT - SECTOR_SHIFT)
        bio.add_page(page)
        bio.bi_end_io = end_io
        self.bios.submit_bio(rw, bio)

    def _end_read(self, bio: Bio, error: int) -> None:
        page = bio.bi_io_vec[0][0]
        page.flags |= PG_error if error else PG_uptodate
        self.filemap.unlock_page(page)
        self.bios.bio_put(bio)

    def _end_write(self, bio: Bio, error: int) -> None:
        page = bio.bi_io_vec[0][0]
        if error:
            page.flags |= PG_error
            page.mapping.set_error(-EIO)
        self.filemap.end_page_writeback(page)
        self.bios.bio_put(bio)

    def sync_page(self, page: Page) -> None:
        """Start what waits for company: somebody waits for this page (block_sync_page())."""
        if page.mapping is not None:
            page.mapping.host.i_bdev.unplug()

    def set_page_dirty(self, page: Page) -> bool:
        """Mark a page of the device as changed."""
        return self.filemap.set_page_dirty_nobuffers(page)

    def bmap(self, mapping: AddressSpace, block: int) -> int:
        """Return the block itself."""
        return block
