"""read(2), write(2), fsync(2), truncate and close of files that have a page cache (2.6.23 mm/filemap.c, fs/sync.c, mm/memory.c).

Interface
    * :class:`FileIo`: ``read(file, pos, count)``, ``write(file, pos, data)``, ``fsync(file)``, ``fput(file)``: what processes call.
    * ``generic_file_read``, ``generic_file_write``, ``vmtruncate``: what a file system's own operations are made of.

Rules of this file
    * A write changes the page cache only: ->prepare_write makes the page ready, ->commit_write makes it dirty. Who has made too
      much dirty waits in balance_dirty_pages().
    * fsync() starts all writes, lets the file system finish, and waits; an error of an earlier write is told once.
    * Every byte that is written is noted in the shadow, every byte that is read is compared with it.
    * Left out: O_DIRECT, O_SYNC, O_APPEND, vectors, times of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from kemu.errors import ConfigError
from kemu.kernel import costs
from kemu.kernel.errno import ENOMEM
from kemu.mm.address_space import BufferedOperations
from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE
from kemu.mm.page import ZERO_PAGE, Page, PG_uptodate
from kemu.mm.write_pages import WritePages

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.address_space import AddressSpace, File, FileOperations
    from kemu.mm.dirty_balance import DirtyBalance
    from kemu.mm.filemap import Filemap
    from kemu.mm.readahead import Readahead
    from kemu.mm.shadow import Shadow


class FileIo:
    """The system calls on open files.

    :ivar balance: handed over: slows down who dirties too much; None: nobody does.
    """

    def __init__(self, kernel: Kernel, filemap: Filemap, readahead: Readahead, shadow: Shadow) -> None:
        self.sched = kernel.sched
        self.filemap = filemap
        self.lru = filemap.lru
        self.readahead = readahead
        self.shadow = shadow
        self.write_pages = WritePages(filemap)
        self.balance: DirtyBalance | None = None

    # -- system calls ----------------------------------------------------------------------------------------------------------

    def read(self, file: File, pos: int, count: int) -> bytes | int:
        """Read: bytes, fewer at the end of the file, or -errno if none were."""
        return _f_op(file).read(file, pos, count)

    def write(self, file: File, pos: int, data: bytes) -> int:
        """Write: how many bytes, or -errno if none were."""
        return _f_op(file).write(file, pos, data)

    def fsync(self, file: File) -> int:
        """Bring what was written to the file to its disk or server: 0, or what went wrong since the last time (do_fsync())."""
        mapping = file.f_mapping
        error = self.write_pages.filemap_fdatawrite(mapping)
        error = error or _f_op(file).fsync(file)
        waited = self.write_pages.filemap_fdatawait(mapping)
        return error or waited

    def fput(self, file: File) -> None:
        """Let go of an opening: a close, or a mapping that goes; the last one releases it (fput())."""
        file.f_count -= 1
        if not file.f_count and file.f_op is not None:
            file.f_op.release(file)

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def generic_file_read(self, file: File, pos: int, count: int) -> bytes | int:
        """Read through the page cache (do_generic_mapping_read())."""
        mapping = file.f_mapping
        assert mapping.host is not None
        parts: list[bytes] = []
        while count > 0 and pos < mapping.host.size:
            index, offset = pos >> PAGE_SHIFT, pos & (PAGE_SIZE - 1)
            page = self._page_to_read(mapping, file, index)
            if isinstance(page, int):
                return b"".join(parts) if parts else page
            size = min(count, PAGE_SIZE - offset, mapping.host.size - pos)
            self.sched.spend(costs.COPY_PAGE)
            contents = page.contents or ZERO_PAGE
            self.shadow.verify_file(mapping, index, contents, "read(2)")
            parts.append(contents[offset : offset + size])
            if file.ra_prev != index or not offset:
                self.lru.mark_page_accessed(page)
            file.ra_prev = index
            self.lru.put_page(page)
            pos += size
            count -= size
            self.sched.cond_resched()
        return b"".join(parts)

    def _page_to_read(self, mapping: AddressSpace, file: File, index: int) -> Page | int:
        """Return an uptodate page of a file with a reference, or -errno."""
        page = self.filemap.find_get_page(mapping, index)
        if page is None:
            self.readahead.ondemand(mapping, file, index)
        elif page.flags & PG_uptodate:
            return page
        else:
            self.lru.put_page(page)
        return self.filemap.read_mapping_page(mapping, index, file, accessed=False)

    # -- writing -----------------------------------------------------------------------------------------------------------------

    def generic_file_write(self, file: File, pos: int, data: bytes) -> int:
        """Write into the page cache (generic_file_buffered_write())."""
        mapping = file.f_mapping
        done = 0
        while done < len(data):
            offset = pos & (PAGE_SIZE - 1)
            piece = data[done : done + PAGE_SIZE - offset]
            error = self._write_page(mapping, file, pos >> PAGE_SHIFT, offset, piece)
            if error:
                return done or error
            done += len(piece)
            pos += len(piece)
            if self.balance is not None:
                self.balance.balance_dirty_pages_ratelimited(mapping)
            self.sched.cond_resched()
        return done

    def _write_page(self, mapping: AddressSpace, file: File, index: int, offset: int, piece: bytes) -> int:
        """Change a part of one page: 0 or -errno."""
        filemap = self.filemap
        page = filemap.find_or_create_page(mapping, index)
        if page is None:
            return -ENOMEM
        end = offset + len(piece)
        ops = cast(BufferedOperations, mapping.a_ops)
        error = ops.prepare_write(file, page, offset, end)
        if not error:
            self.sched.spend(costs.COPY_PAGE)
            self.change(mapping, page, offset, piece)
            error = ops.commit_write(file, page, offset, end)
        filemap.unlock_page(page)
        self.lru.mark_page_accessed(page)
        self.lru.put_page(page)
        return error

    def change(self, mapping: AddressSpace, page: Page, offset: int, piece: bytes) -> None:
        """Copy user bytes into a locked page, and note them in the shadow."""
        old = page.contents or ZERO_PAGE
        if page.flags & PG_uptodate:
            self.shadow.verify_file(mapping, page.word_d, old, "write(2)")
        page.contents = piece if len(piece) == PAGE_SIZE else old[:offset] + piece + old[offset + len(piece) :]
        self.shadow.write_file(mapping, page.word_d, offset, piece, page.contents, uptodate=bool(page.flags & PG_uptodate))

    # -- truncating --------------------------------------------------------------------------------------------------------------

    def vmtruncate(self, mapping: AddressSpace, size: int) -> None:
        """Set a file's size; what is cached beyond it goes, and the rest of its last page becomes zeros (vmtruncate())."""
        assert mapping.host is not None
        shrinks = size < mapping.host.size
        mapping.host.size = size
        if not shrinks:
            return
        self.filemap.truncate_inode_pages(mapping, (size + PAGE_SIZE - 1) >> PAGE_SHIFT)
        kept = size & (PAGE_SIZE - 1)
        page = self.filemap.find_lock_page(mapping, size >> PAGE_SHIFT) if kept else None
        if page is not None:
            page.contents = (page.contents or ZERO_PAGE)[:kept].ljust(PAGE_SIZE, b"\0")
            self.filemap.unlock_page(page)
            self.lru.put_page(page)
        if kept:
            self.shadow.cut_file_page(mapping, size >> PAGE_SHIFT, kept)


def _f_op(file: File) -> FileOperations:
    """Return a file's operations."""
    if file.f_op is None:
        raise ConfigError(f"inode {file.inode.ino} cannot be read or written: its file system has no file operations")
    return file.f_op
