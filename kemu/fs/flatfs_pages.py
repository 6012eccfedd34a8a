"""Pages of flatfs files on their way from and to the disk (2.6.23 fs/mpage.c, fs/buffer.c without buffers).

Interface: :class:`FlatFsPages`, the lower half of FlatFs: ``readpage``, ``readpages``, ``writepage``, ``writepages``,
``prepare_write``, ``commit_write``, ``sync_page``, ``set_page_dirty``.

Rules of this file
    * Neighbouring pages whose blocks are neighbours go in one bio, from readahead and from ->writepages.
    * Bytes of the last page beyond the end of the file are zeroed at each write, for they may be mapped.
    * A page that could not be written is clean, and what it held is lost; the address space remembers the error for fsync().
    * Bios are asked for with __GFP_WAIT: one comes in the end, from the mempool if need be.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from kemu.block.bio import SECTOR_SHIFT, Bio, Bios
from kemu.kernel.errno import EIO
from kemu.kernel.wait import WaitQueue
from kemu.mm.address_space import I_DIRTY_DATASYNC, I_DIRTY_SYNC, AddressSpace, File, Inode, WritebackControl
from kemu.mm.backing_dev import READ, WRITE
from kemu.mm.gfp import GFP_KERNEL, GFP_NOFS, PAGE_SHIFT, PAGE_SIZE, gfp_t
from kemu.mm.page import ZERO_PAGE, Page, PG_error, PG_uptodate

if TYPE_CHECKING:
    from kemu.block.disk import Disk
    from kemu.kernel.sched import Sched
    from kemu.mm.file_io import FileIo
    from kemu.mm.filemap import Filemap

BIO_PAGES: Final = 64  # pages of one bio


class _Gathered:
    """Pages that go in one bio (``struct mpage_data``): the bio that is being filled, and the block that would be next."""

    __slots__ = ("bio", "next_block")

    def __init__(self) -> None:
        self.bio: Bio | None = None
        self.next_block = 0


class FlatFsPages(ABC):
    """The pages of a file system on one disk."""

    def __init__(self, sched: Sched, filemap: Filemap, file_io: FileIo, bios: Bios, disk: Disk) -> None:
        self.sched = sched
        self.filemap = filemap
        self.file_io = file_io
        self.bios = bios
        self.disk = disk

    @abstractmethod
    def get_block(self, inode: Inode, index: int, *, create: bool) -> int:
        """Return the block of a page of a file; 0 for a hole, or, where one must be found, -ENOSPC."""

    # -- reading pages -------------------------------------------------------------------------------------------------------------

    def readpage(self, file: File | None, page: Page) -> int:
        """Read a locked page (mpage_readpage())."""
        gathered = _Gathered()
        self._read_one(gathered, page)
        self._send(READ, gathered)
        return 0

    def readpages(self, file: File, mapping: AddressSpace, pages: list[Page]) -> int:
        """Read locked pages in ascending order, neighbours together (mpage_readpages())."""
        gathered = _Gathered()
        for page in pages:
            self._read_one(gathered, page)
        self._send(READ, gathered)
        return 0

    def _read_one(self, gathered: _Gathered, page: Page) -> None:
        """Read a page, or find that it is a hole (do_mpage_readpage())."""
        block = self.get_block(page.mapping.host, page.word_d, create=False)
        if not block:
            page.contents = ZERO_PAGE
            page.flags |= PG_uptodate
            self.filemap.unlock_page(page)
            return
        self._add(READ, gathered, page, block, GFP_KERNEL)

    # -- writing pages -------------------------------------------------------------------------------------------------------------

    def writepage(self, page: Page, wbc: WritebackControl) -> int:
        """Write a locked page (mpage_writepage())."""
        gathered = _Gathered()
        error = self._write_one(gathered, page)
        self._send(WRITE, gathered)
        return error

    def writepages(self, mapping: AddressSpace, wbc: WritebackControl) -> int:
        """Write dirty pages of a file, neighbours together (mpage_writepages())."""
        gathered = _Gathered()
        error = self.file_io.write_pages.write_cache_pages(mapping, wbc, lambda page, _: self._write_one(gathered, page))
        self._send(WRITE, gathered)
        return error

    def _write_one(self, gathered: _Gathered, page: Page) -> int:
        """Send a locked page on its way and unlock it (__mpage_writepage()): 0, or -ENOSPC, and what it held is lost."""
        inode: Inode = page.mapping.host
        index = page.word_d
        size = inode.size - (index << PAGE_SHIFT)
        if size <= 0:
            self.filemap.unlock_page(page)  # beyond the end of the file by now: don't care
            return 0
        if size < PAGE_SIZE:
            page.contents = (page.contents or ZERO_PAGE)[:size].ljust(PAGE_SIZE, b"\0")
        block = self.get_block(inode, index, create=True)
        if block < 0:
            page.flags |= PG_error
            page.mapping.set_error(block)
            self.filemap.set_page_writeback(page)
            self.filemap.unlock_page(page)
            self.filemap.end_page_writeback(page)
            return block
        self.filemap.set_page_writeback(page)
        self.filemap.unlock_page(page)
        self._add(WRITE, gathered, page, block, GFP_NOFS)
        return 0

    # -- bios ----------------------------------------------------------------------------------------------------------------------

    def _add(self, rw: int, gathered: _Gathered, page: Page, block: int, gfp: gfp_t) -> None:
        """Add a page to the bio that is being filled, or send that and begin another."""
        bio = gathered.bio
        if bio is not None and (block != gathered.next_block or len(bio.bi_io_vec) == bio.bi_max_vecs):
            self._send(rw, gathered)
            bio = None
        if bio is None:
            bio = self.bios.bio_alloc(gfp, BIO_PAGES)
            assert bio is not None  # gfp has __GFP_WAIT
            bio.bi_bdev = self.disk
            bio.bi_sector = block << (PAGE_SHIFT - SECTOR_SHIFT)
            bio.bi_end_io = self._end_write if rw == WRITE else self._end_read
            gathered.bio = bio
        bio.add_page(page)
        gathered.next_block = block + 1

    def _send(self, rw: int, gathered: _Gathered) -> None:
        bio, gathered.bio = gathered.bio, None
        if bio is not None:
            self.bios.submit_bio(rw, bio)

    def _end_read(self, bio: Bio, error: int) -> None:
        """End a read (mpage_end_io_read())."""
        for page, _, _ in bio.bi_io_vec:
            page.flags |= PG_error if error else PG_uptodate
            self.filemap.unlock_page(page)
        self.bios.bio_put(bio)

    def _end_write(self, bio: Bio, error: int) -> None:
        """End a write (mpage_end_io_write()); what could not be written is lost, and fsync() tells."""
        for page, _, _ in bio.bi_io_vec:
            if error:
                page.flags |= PG_error
                if page.mapping is not None:
                    page.mapping.set_error(-EIO)
            self.filemap.end_page_writeback(page)
        self.bios.bio_put(bio)

    # -- write(2) ------------------------------------------------------------------------------------------------------------------

    def prepare_write(self, file: File, page: Page, start: int, end: int) -> int:
        """Find a block, and read it if the write leaves a part of it as it is (block_prepare_write())."""
        inode = file.inode
        new = not self.get_block(inode, page.word_d, create=False)
        block = self.get_block(inode, page.word_d, create=True)
        if block < 0:
            return block
        if page.flags & PG_uptodate or end - start == PAGE_SIZE:
            return 0
        if new or page.word_d << PAGE_SHIFT >= inode.size:
            page.contents = ZERO_PAGE
            return 0
        return self._read_and_wait(page, block)

    def _read_and_wait(self, page: Page, block: int) -> int:
        """Read a page that stays locked: 0 or -EIO."""
        answer: list[int] = []
        queue = WaitQueue("block_prepare_write")
        gathered = _Gathered()
        self._add(READ, gathered, page, block, GFP_NOFS)
        assert gathered.bio is not None

        def end_io(bio: Bio, error: int) -> None:
            answer.append(error)
            self.bios.bio_put(bio)
            self.sched.wake_up_all(queue)

        gathered.bio.bi_end_io = end_io
        self._send(READ, gathered)
        self.disk.unplug()
        self.sched.wait_event(queue, lambda: bool(answer), ("page lock", page))
        return -EIO if answer[0] else 0

    def commit_write(self, file: File, page: Page, start: int, end: int) -> int:
        """Take note that a page was changed (generic_commit_write())."""
        page.flags |= PG_uptodate
        self.filemap.set_page_dirty(page)
        size = (page.word_d << PAGE_SHIFT) + end
        if size > file.inode.size:
            file.inode.size = size
            if self.filemap.mark_inode_dirty is not None:
                self.filemap.mark_inode_dirty(file.inode, I_DIRTY_SYNC | I_DIRTY_DATASYNC)
        return 0

    # -- the rest of the address space's methods -----------------------------------------------------------------------------------

    def sync_page(self, page: Page) -> None:
        """Start what waits for company: somebody waits for this page (block_sync_page())."""
        self.disk.unplug()

    def set_page_dirty(self, page: Page) -> bool:
        """Set the bit (__set_page_dirty_nobuffers(); buffers are left out)."""
        return self.filemap.set_page_dirty_nobuffers(page)
