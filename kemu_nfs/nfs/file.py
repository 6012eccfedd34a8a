"""NFS files: the address space's methods, and those of open files (2.6.23-mm1 fs/nfs/file.c; patch 31).

Interface
    * :class:`NfsFileOps`: ``nfs_file_aops`` of a mount, with the one method that patch 31 adds, ``swapfile``.
    * ``nfs_file_write(file, pos, data)``: a buffered write. ``nfs_write_sync``, ``nfs_read_sync``: calls without the page cache.
    * :class:`NfsFileOperations`: what read(2), write(2), fsync(2), mmap(2) and close(2) of an NFS file do.

Rules of this file
    * Without patch 31 there is no ->swapfile, and bmap() knows no blocks: swapon says -EINVAL.
    * A buffered write changes the page and leaves its request; pdflush, reclaim, nfs_wb_all() or close write it.
    * A store through a mapping faults first: ->page_mkwrite leaves the request of the whole page, and waits for a WRITE of it that
      is under way (git-nfs in -mm1, 2.6.24).
    * A file that is swapped to cannot be written by write(2) (-EBUSY).
    * A page that is cut off forgets its request, one that is dropped as too old is written first (->launder_page).
    * Left out: locks, direct I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from kemu.kernel.errno import EBUSY, EINVAL, EIO, ENOMEM
from kemu.mm.address_space import AddressSpace, File, WritebackControl
from kemu.mm.gfp import GFP_HIGHUSER, PAGE_SHIFT, PAGE_SIZE
from kemu.mm.mm_struct import Vma
from kemu.mm.page import Page
from kemu_nfs.nfs.inode import NfsInode, NfsInodes, NfsOpenContext
from kemu_nfs.nfs.nfs3proc import Nfs3Calls
from kemu_nfs.nfs.nfs3xdr import PROC_READ, PROC_WRITE, ReadArgs, WriteArgs
from kemu_nfs.nfs.nfs_client import NfsModule, NfsServer
from kemu_nfs.nfs.pagelist import NfsPagelist
from kemu_nfs.nfs.read import NfsRead
from kemu_nfs.nfs.swap_ops import NfsSwapOps
from kemu_nfs.nfs.write import NfsWrite
from kemu_nfs.sunrpc.nfs3_const import NFS_FILE_SYNC


class NfsFileOps:
    """``nfs_file_aops``, and the subsystems behind it, of one mount."""

    def __init__(self, module: NfsModule, server: NfsServer) -> None:
        self.module = module
        self.patched = module.patched
        self.sched = module.sched
        self.filemap = module.filemap
        self.server = server
        self.calls = Nfs3Calls(module, server)
        self.inodes = NfsInodes(module)
        self.pagelist = NfsPagelist(module, self.inodes)
        self.write = NfsWrite(module, self.inodes, self.pagelist)
        self.read = NfsRead(module, self.inodes, self.pagelist, self.write)
        self.swap_ops = NfsSwapOps(self.write, self.read)
        self.swapout = self.swap_ops.nfs_swap_out
        self.swapin = self.swap_ops.nfs_swap_in
        server.a_ops = self
        self.swapfile: Callable[[AddressSpace, int], int] | None = None
        if self.patched.nfs_enable_swap:  # [p31]
            self.swapfile = self.nfs_swapfile

    # -- the address space's methods -------------------------------------------------------------------------------------------

    def writepage(self, page: Page, wbc: WritebackControl) -> int:
        """Start writing a page (nfs_writepage())."""
        return self.write.nfs_writepage(page, wbc)

    def writepages(self, mapping: AddressSpace, wbc: WritebackControl) -> int:
        """Start writing dirty pages of a file (nfs_writepages())."""
        return self.write.nfs_writepages(mapping, wbc)

    def page_mkwrite(self, vma: Vma, page: Page) -> int:
        """Leave a request for a page that will be stored to: its length, or -errno (nfs_vm_page_mkwrite())."""
        self.filemap.lock_page(page)
        error = -EINVAL
        length = self.inodes.nfs_page_length(page) if page.mapping is vma.mapping else 0
        if length:
            error = self.write.nfs_updatepage(vma.file, page, 0, length)
        self.filemap.unlock_page(page)
        return error or length

    def readpage(self, file: File | None, page: Page) -> int:
        """Start reading a page (nfs_readpage())."""
        return self.read.nfs_readpage(file, page)

    def readpages(self, file: File | None, mapping: AddressSpace, pages: list[Page]) -> int:
        """Start reading pages that nobody has asked for yet (nfs_readpages())."""
        return self.read.nfs_readpages(file, mapping, pages)

    def invalidatepage(self, page: Page, offset: int) -> None:
        """Forget what was to be written of a page that is cut off as a whole (nfs_invalidate_page())."""
        if not offset:
            self.write.wait.nfs_wb_page_cancel(self._nfsi(page), page)

    def releasepage(self, page: Page, gfp: int) -> bool:
        """Refuse: a page with a request is not free (nfs_release_page())."""
        return False

    def launder_page(self, page: Page) -> int:
        """Write a locked page that is to be dropped, and wait (nfs_launder_page())."""
        return self.write.nfs_wb_page(self._nfsi(page), page)

    def _nfsi(self, page: Page) -> NfsInode:
        """Return the file that a page belongs to; patch 28 finds it for swap pages too."""
        inode = self.inodes.page_mapping(page).host
        assert inode is not None
        nfsi: NfsInode = inode.private
        return nfsi

    def sync_page(self, page: Page) -> None:
        """Do nothing: calls are sent at once."""

    def set_page_dirty(self, page: Page) -> bool:
        """Set the bit alone; the request is made by who writes (__set_page_dirty_nobuffers())."""
        return self.filemap.set_page_dirty_nobuffers(page)

    def bmap(self, mapping: AddressSpace, block: int) -> int:
        """Return 0: a file on a server has no blocks here."""
        return 0

    def nfs_swapfile(self, mapping: AddressSpace, enable: int) -> int:
        """Begin or cease to swap to a file of this mount."""
        return self.server.swapper.xs_swapper(enable)

    # -- files -----------------------------------------------------------------------------------------------------------------

    def nfs_file_write(self, file: File, pos: int, data: bytes) -> int:
        """Write into the page cache (do_sync_write(), nfs_commit_write()): bytes written, or -errno if none were."""
        if file.inode.is_swapfile:
            self.module.kernel.printk("NFS: attempt to write to active swap file!", "info")
            return -EBUSY
        file_io = self.module.file_io
        done = 0
        while done < len(data):
            offset = pos & (PAGE_SIZE - 1)
            piece = data[done : done + PAGE_SIZE - offset]
            error = self._write_one_page(file, pos >> PAGE_SHIFT, offset, piece)
            if error:
                return done or error
            done += len(piece)
            pos += len(piece)
            if file_io.balance is not None:
                file_io.balance.balance_dirty_pages_ratelimited(file.f_mapping)
        return done

    def _write_one_page(self, file: File, index: int, offset: int, piece: bytes) -> int:
        """Change a page of the cache and leave a request for it."""
        page = self.filemap.find_or_create_page(file.f_mapping, index, GFP_HIGHUSER)
        if page is None:
            return -ENOMEM
        self.filemap.wait_on_page_writeback(page)
        error = self.write.wait.nfs_flush_incompatible(file.private_data, page)
        if not error:
            self.module.file_io.change(file.f_mapping, page, offset, piece)
            error = self.write.nfs_updatepage(file, page, offset, len(piece))
        self.filemap.unlock_page(page)
        self.pagelist.put_page(page)
        return error

    def nfs_write_sync(self, ctx: NfsOpenContext, pos: int, data: bytes) -> int:
        """Write to the server and wait, without the page cache: bytes, or -errno if none were written."""
        nfsi = ctx.nfsi
        done = 0
        while done < len(data):
            piece = data[done : done + self.server.wsize]
            args = WriteArgs(nfsi.fh_wire, pos + done, len(piece), NFS_FILE_SYNC, None, piece)
            start = self.sched.jiffies
            result = self.calls.call_as(ctx.cred, PROC_WRITE, args)
            if isinstance(result, int):
                return done or result
            if not result.count:
                return done or -EIO
            self.inodes.nfs_post_op_update_inode_force_wcc(nfsi, result, start)
            done += result.count
            nfsi.inode.size = max(nfsi.inode.size, pos + done)
        return done

    def nfs_read_sync(self, ctx: NfsOpenContext, pos: int, count: int) -> bytes | int:
        """Read from the server and wait, without the page cache: bytes (fewer at the end of the file), or -errno."""
        parts: list[bytes] = []
        while count:
            args = ReadArgs(ctx.nfsi.fh_wire, pos, min(count, self.server.rsize))
            result = self.calls.call_as(ctx.cred, PROC_READ, args)
            if isinstance(result, int):
                return b"".join(parts) if parts else result
            parts.append(result.data)
            pos += result.count
            count -= result.count
            if result.eof or not result.count:
                break
        return b"".join(parts)

    def fsync(self, nfsi: NfsInode) -> int:
        """Write what the page cache holds of a file and wait; tell what went wrong with any opening's writes, and forget it."""
        error = self.write.nfs_wb_all(nfsi)
        for ctx in nfsi.open_files:
            error, ctx.error = error or ctx.error, 0
        return error


class NfsFileOperations:
    """``nfs_file_operations`` of one mount.

    :param sync: every write waits until the server has it (mount options sync and noac).
    """

    def __init__(self, ops: NfsFileOps, *, sync: bool = False) -> None:
        self.ops = ops
        self.sync = sync
        self.inodes = ops.inodes
        self.file_io = ops.module.file_io

    def read(self, file: File, pos: int, count: int) -> bytes | int:
        """Read through the page cache, unless it is stale (nfs_file_read())."""
        return self.inodes.nfs_revalidate_mapping(file.inode.private) or self.file_io.generic_file_read(file, pos, count)

    def write(self, file: File, pos: int, data: bytes) -> int:
        """Write into the page cache (nfs_file_write())."""
        nfsi: NfsInode = file.inode.private
        done = self.inodes.nfs_revalidate_mapping(nfsi) or self.ops.nfs_file_write(file, pos, data)
        if self.sync and done > 0:
            return self.ops.fsync(nfsi) or done
        return done

    def fsync(self, file: File) -> int:
        """Wait for all requests of the file (nfs_fsync())."""
        return self.ops.write.wait.nfs_do_fsync(file.private_data)

    def mmap(self, file: File) -> int:
        """Agree to be mapped, with pages that are not stale (nfs_file_mmap())."""
        return self.inodes.nfs_revalidate_mapping(file.inode.private)

    def release(self, file: File) -> None:
        """Let the open context go (nfs_file_release())."""
        self.inodes.nfs_release(file.private_data)
        file.private_data = None
