"""A small file system on a disk: one flat directory, a block map per inode (what fs/ext2 of 2.6.23 is to its pages).

Interface
    * :class:`FlatFs`: ``create(name, size)``, ``open(name)``, ``close(file)``, ``unlink(name)``, ``truncate(name, size)``,
      ``make_swapfile(name, pages)``; ``disk_bytes(mapping, index)`` for audits; ``check()``. Pages are read and written in
      flatfs_pages.py.

Rules of this file
    * A block is a page. Block 0 belongs to the file system, so that bmap() can say 0 for a hole. Holes read as zeros.
    * Names, sizes and block maps are in memory only: nothing of them is read from the disk or written to it, so an unmount or a
      crash is not modelled. What is on the disk are the blocks of files.
    * write(2) finds its block before the page is changed, and fails with -ENOSPC. A store through mmap() finds out when the page is
      written: then the page is clean and what was stored is lost, as on ext2; fsync() tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from kemu.errors import KernelBug
from kemu.fs.flatfs_pages import FlatFsPages
from kemu.kernel.errno import EEXIST, EFBIG, ENOENT, ENOSPC, ETXTBSY
from kemu.mm.address_space import I_DIRTY_DATASYNC, I_DIRTY_SYNC, AddressSpace, File, Inode, SuperBlock
from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE
from kemu.mm.page import ZERO_PAGE
from kemu.mm.swap_header import mkswap_header

if TYPE_CHECKING:
    from kemu.block.bio import Bios
    from kemu.block.disk import Disk
    from kemu.fs.fs_writeback import FsWriteback
    from kemu.kernel.core import Kernel
    from kemu.mm.filemap import Filemap
    from kemu.mm.memory import Memory

VM_MAX_READAHEAD: Final = 128 * 1024  # bytes
MAX_BYTES: Final = 1 << 43


class Parts(Protocol):
    """What a file system needs of a machine."""

    kernel: Kernel
    filemap: Filemap
    memory: Memory
    bios: Bios
    fs_writeback: FsWriteback


class FlatFs(FlatFsPages):
    """A mounted file system: ``address_space_operations`` and ``file_operations`` of its files, too.

    :param disk: is this file system's alone.
    :ivar files: name -> inode. :ivar maps: inode -> page of the file -> block.
    """

    swapfile = None  # files have blocks: swapon asks bmap()

    def __init__(self, machine: Parts, disk: Disk) -> None:
        super().__init__(machine.kernel.sched, machine.filemap, machine.memory.file_io, machine.bios, disk)
        self.fs_writeback = machine.fs_writeback
        self.bdi = disk.backing_dev_info
        self.bdi.ra_pages = VM_MAX_READAHEAD >> PAGE_SHIFT
        self.sb = SuperBlock(f"flatfs on {disk.name}")
        self.fs_writeback.add_super(self.sb)
        self.nr_blocks = disk.size >> PAGE_SHIFT
        self.files: dict[str, Inode] = {}
        self.maps: dict[Inode, dict[int, int]] = {}
        self._next_block = 1
        self._freed: list[int] = []
        self._next_ino = 1

    # -- files -------------------------------------------------------------------------------------------------------------------

    def create(self, name: str, size: int = 0, *, sparse: bool = False) -> Inode | int:
        """Make a file of zeros, with blocks or, sparse, as one hole; return its inode or -errno."""
        if name in self.files:
            return -EEXIST
        if size > MAX_BYTES:
            return -EFBIG
        pages = 0 if sparse else (size + PAGE_SIZE - 1) >> PAGE_SHIFT
        if pages > self.free_blocks:
            return -ENOSPC
        inode = Inode(ino=self._next_ino, size=size, i_bdev=self.disk)
        self._next_ino += 1
        AddressSpace(inode, self, self.bdi)
        self.files[name] = inode
        self.maps[inode] = {}
        for index in range(pages):
            self.disk.blocks[self.get_block(inode, index, create=True)] = ZERO_PAGE
        self.fs_writeback.new_inode(self.sb, inode)
        return inode

    def open(self, name: str) -> File | int:
        """Open a file for reading and writing; return a File or -ENOENT."""
        inode = self.files.get(name)
        if inode is None:
            return -ENOENT
        return File(inode, inode.i_mapping, f_op=self, f_path=f"/{name}")

    def close(self, file: File) -> None:
        """Close an opening; what is dirty stays so."""
        self.file_io.fput(file)

    def truncate(self, name: str, size: int) -> int:
        """Set a file's size: 0 or -errno."""
        inode = self.files.get(name)
        if inode is None:
            return -ENOENT
        if inode.is_swapfile:
            return -ETXTBSY
        error = self._truncate_page(inode, size)
        if error:
            return error
        self.file_io.vmtruncate(inode.i_mapping, size)
        first = (size + PAGE_SIZE - 1) >> PAGE_SHIFT
        block_map = self.maps[inode]
        for index in sorted(index for index in block_map if index >= first):
            self._freed.append(block_map.pop(index))
        self.fs_writeback.mark_inode_dirty(inode, I_DIRTY_SYNC | I_DIRTY_DATASYNC)
        return 0

    def _truncate_page(self, inode: Inode, size: int) -> int:
        """Zero what lies behind the new end in its page, and let that be written (block_truncate_page())."""
        kept, index = size % PAGE_SIZE, size >> PAGE_SHIFT
        if not kept or size >= inode.size or not self.get_block(inode, index, create=False):
            return 0
        page = self.filemap.read_mapping_page(inode.i_mapping, index, None)
        if isinstance(page, int):
            return page
        self.filemap.lock_page(page)
        page.contents = (page.contents or ZERO_PAGE)[:kept].ljust(PAGE_SIZE, b"\0")
        self.filemap.set_page_dirty(page)
        self.filemap.unlock_page(page)
        self.filemap.lru.put_page(page)
        return 0

    def unlink(self, name: str) -> int:
        """Remove a file that nobody has open: 0 or -errno."""
        error = self.truncate(name, 0)
        if not error:
            inode = self.files.pop(name)
            del self.maps[inode]
            self.fs_writeback.drop_inode(inode)
        return error

    def make_swapfile(self, name: str, pages: int) -> File | int:
        """Make a file with a swap header and open it (dd and mkswap): a File for swapon, or -errno."""
        inode = self.create(name, pages << PAGE_SHIFT)
        if isinstance(inode, int):
            return inode
        file = self.open(name)
        assert not isinstance(file, int)
        written = self.write(file, 0, mkswap_header(pages))
        error = min(written, 0) or self.file_io.fsync(file)
        if error:
            return error
        return file

    # -- blocks ------------------------------------------------------------------------------------------------------------------

    @property
    def free_blocks(self) -> int:
        """Blocks that no file has."""
        return self.nr_blocks - self._next_block + len(self._freed)

    def get_block(self, inode: Inode, index: int, *, create: bool) -> int:
        """Return the block of a page of a file; 0 for a hole, or, where one must be found, -ENOSPC."""
        block = self.maps[inode].get(index, 0)
        if block or not create:
            return block
        if self._freed:
            block = self._freed.pop()
        elif self._next_block < self.nr_blocks:
            block = self._next_block
            self._next_block += 1
        else:
            return -ENOSPC
        self.maps[inode][index] = block
        return block

    def bmap(self, mapping: AddressSpace, block: int) -> int:
        """Return the block of the disk, 0 for a hole."""
        assert mapping.host is not None
        return self.get_block(mapping.host, block, create=False)

    def disk_bytes(self, mapping: AddressSpace, index: int) -> bytes | None:
        """Return what the disk holds of a page of a file: for audits."""
        assert mapping.host is not None
        block = self.get_block(mapping.host, index, create=False)
        return self.disk.blocks.get(block, ZERO_PAGE) if block else ZERO_PAGE

    # -- file operations -----------------------------------------------------------------------------------------------------------

    def read(self, file: File, pos: int, count: int) -> bytes | int:
        """Read through the page cache."""
        return self.file_io.generic_file_read(file, pos, count)

    def write(self, file: File, pos: int, data: bytes) -> int:
        """Write into the page cache."""
        if file.inode.is_swapfile:
            return -ETXTBSY
        return self.file_io.generic_file_write(file, pos, data)

    def fsync(self, file: File) -> int:
        """Do nothing more: the pages are on their way, and inodes are not kept on the disk."""
        return 0

    def mmap(self, file: File) -> int:
        """Agree to be mapped."""
        return 0

    def release(self, file: File) -> None:
        """Do nothing: an opening has no state."""

    def check(self) -> None:
        """Assert that no block has two owners and none is lost."""
        used = [block for block_map in self.maps.values() for block in block_map.values()] + self._freed
        if sorted(used) != list(range(1, self._next_block)):
            raise KernelBug(f"flatfs: a block has two owners, or none: {len(used)} are known, {self._next_block - 1} given out")
