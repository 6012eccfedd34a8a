"""Inodes, open files and address spaces: what a file system and the memory manager show each other (include/linux/fs.h).

Interface
    * :class:`Inode`, :class:`SuperBlock`, :class:`File`, :class:`Cred`, :class:`AddressSpace`, :class:`WritebackControl`.
    * :class:`AddressSpaceOperations`: what a file system (or the swap layer) offers. Methods return 0 or -errno and raise nothing.
      :class:`FileOperations`: read, write, fsync, mmap and release of an opening.

Rules of this file
    * ``->writepage`` and ``->readpage`` are called with the page locked and unlock it. ``->writepage`` of a page that is sent sets
      PG_writeback first.
    * ``->swapfile`` is None where a file system cannot carry a swap file without block numbers (patch 25 asks for it).
    * ``writepages``, ``readpages``, ``prepare_write``, ``commit_write``, ``page_mkwrite`` may be missing, as a NULL pointer in C;
      who calls them asks first.
    * The page cache's tree is made on first use (filemap.py): most address spaces here never hold a page.
    * The lists of dirty inodes have the kernel's tail in front: the inode that has been dirty longest comes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol

import attrs

from kemu.lib.radix_tree import RadixTree
from kemu.mm.backing_dev import BackingDev
from kemu.mm.page import Page

AOP_WRITEPAGE_ACTIVATE: Final = 0x80000  # ->writepage: not now, give the page another turn on the active list

S_SWAPFILE: Final = 256  # inode.i_flags: do not truncate or revalidate, it is swapped to

I_DIRTY_SYNC: Final = 1  # inode.i_state
I_DIRTY_DATASYNC: Final = 2
I_DIRTY_PAGES: Final = 4
I_LOCK: Final = 8
I_DIRTY: Final = I_DIRTY_SYNC | I_DIRTY_DATASYNC | I_DIRTY_PAGES

WB_SYNC_NONE: Final = 0
WB_SYNC_ALL: Final = 1
WB_SYNC_HOLD: Final = 2  # start writing, and keep the inode on the list: sync(2) comes again

LLONG_MAX: Final = (1 << 63) - 1

AS_EIO: Final = 1  # mapping.flags: a write failed and nobody was told yet
AS_ENOSPC: Final = 2


@attrs.define(eq=False)
class WritebackControl:
    """``struct writeback_control``: how eagerly to write, and what came of it.

    :ivar bdi: only what is behind this device; None: everything.
    :ivar older_than_this: a jiffy; inodes that became dirty later stay.
    :ivar pages_skipped: pages that ->writepage made dirty again.
    """

    nr_to_write: int = 32
    for_reclaim: bool = False
    nonblocking: bool = False
    sync_mode: int = WB_SYNC_NONE
    bdi: BackingDev | None = None
    older_than_this: int | None = None
    pages_skipped: int = 0
    range_start: int = 0
    range_end: int = LLONG_MAX
    encountered_congestion: bool = False
    for_kupdate: bool = False
    range_cyclic: bool = False


@attrs.frozen
class Cred:
    """Who opened a file, or who runs: ``fsuid`` and ``fsgid``."""

    uid: int = 0
    gid: int = 0


class AddressSpaceOperations(Protocol):
    """``struct address_space_operations``, as far as reclaim and swap use it."""

    @property
    def swapfile(self) -> Callable[[AddressSpace, int], int] | None:
        """Patch 25: be told that the file is swapped to (1), or no longer (0); None where the file system has no such method."""

    def writepage(self, page: Page, wbc: WritebackControl) -> int:
        """Start writing a locked page; unlock it."""

    def readpage(self, file: File | None, page: Page) -> int:
        """Start reading a locked page; unlock it when its contents are there."""

    def sync_page(self, page: Page) -> None:
        """Hurry: somebody waits for the page."""

    def set_page_dirty(self, page: Page) -> int:
        """Set PG_dirty and what the file system keeps beside it; return 1 if it was clean."""

    def bmap(self, mapping: AddressSpace, block: int) -> int:
        """Return the device block of a file's block, 0 for a hole or where files have no blocks."""


class SwapOperations(AddressSpaceOperations, Protocol):
    """The two methods more that a file system has for swap I/O in v15: they are told the swap file, and so who opened it."""

    def swapout(self, file: File, page: Page, wbc: WritebackControl) -> int:
        """Start writing a locked swap cache page; unlock it."""

    def swapin(self, file: File, page: Page) -> int:
        """Start reading a locked swap cache page; unlock it when its contents are there."""


class BufferedOperations(AddressSpaceOperations, Protocol):
    """The two methods more that generic_file_write() needs."""

    def prepare_write(self, file: File, page: Page, start: int, end: int) -> int:
        """Make a locked page ready for bytes ``start`` to ``end`` to be changed: what they leave must be there."""

    def commit_write(self, file: File, page: Page, start: int, end: int) -> int:
        """Make a page whose bytes were changed dirty, and the file longer if need be."""


class FileOperations(Protocol):
    """``struct file_operations`` of files that have pages; each returns -errno where it fails."""

    def read(self, file: File, pos: int, count: int) -> bytes | int:
        """Read through the page cache; fewer bytes at the end of the file."""

    def write(self, file: File, pos: int, data: bytes) -> int:
        """Write into the page cache: bytes, or -errno if none were."""

    def fsync(self, file: File) -> int:
        """Bring what fdatawrite has left behind to the disk or server."""

    def mmap(self, file: File) -> int:
        """Agree to be mapped."""

    def release(self, file: File) -> None:
        """Close: the last user of the opening is gone."""


@attrs.define(eq=False)
class SuperBlock:
    """``struct super_block``: the inodes of one mounted file system, as far as writeback looks at them.

    :ivar s_dirty: inodes that are dirty, longest first. :ivar s_io: those that a writer is working through.
    :ivar write_inode: writes an inode itself, (inode, wait) -> 0 or -errno; None where that is nothing.
    """

    name: str
    s_dirty: OrderedDict[Inode, None] = attrs.field(factory=OrderedDict, repr=False)
    s_io: OrderedDict[Inode, None] = attrs.field(factory=OrderedDict, repr=False)
    s_inodes: dict[Inode, None] = attrs.field(factory=dict, repr=False)
    write_inode: Callable[[Inode, bool], int] | None = attrs.field(default=None, repr=False)


@attrs.define(eq=False)
class Inode:
    """``struct inode``.

    :param i_bdev: the block device under the file (or that the file is), for swap areas on block devices.
    :ivar i_list: the list of its super block that it is on, None while it is clean.
    :ivar dirtied_when: the jiffy at which it became dirty.
    """

    ino: int = 0
    size: int = 0
    i_flags: int = 0
    is_block: bool = False
    i_bdev: Any = attrs.field(default=None, repr=False)
    i_mapping: Any = attrs.field(default=None, repr=False)  # AddressSpace
    private: Any = attrs.field(default=None, repr=False)  # the file system's own part (NFS_I())
    i_sb: SuperBlock | None = attrs.field(default=None, repr=False)
    i_state: int = 0
    i_list: OrderedDict[Inode, None] | None = attrs.field(default=None, repr=False)
    dirtied_when: int = 0

    @property
    def is_swapfile(self) -> bool:
        """IS_SWAPFILE()."""
        return bool(self.i_flags & S_SWAPFILE)


@attrs.define(eq=False)
class AddressSpace:
    """``struct address_space``: the pages of one file, and how to read and write them."""

    host: Inode | None
    a_ops: AddressSpaceOperations = attrs.field(repr=False)
    backing_dev_info: BackingDev | None = None
    page_tree: RadixTree | None = attrs.field(default=None, repr=False)
    nrpages: int = 0
    flags: int = 0  # AS_*
    writeback_index: int = 0  # where a cyclic writer goes on
    i_mmap: list[Any] = attrs.field(factory=list, repr=False)  # the Vma that map the file, in the order of mmap

    is_anon: ClassVar[bool] = False  # page.mapping is an address space or an AnonVma; the kernel asks its bit 0

    def __attrs_post_init__(self) -> None:
        if self.host is not None and self.host.i_mapping is None:
            self.host.i_mapping = self

    def set_error(self, error: int) -> None:
        """Remember that a write failed, for the next fsync (mapping_set_error())."""
        self.flags |= AS_ENOSPC if error == -28 else AS_EIO


@attrs.define(eq=False)
class File:
    """``struct file``: one opening of an inode."""

    inode: Inode
    f_mapping: AddressSpace
    f_cred: Cred = attrs.Factory(Cred)
    private_data: Any = attrs.field(default=None, repr=False)  # NFS: the open context
    f_op: FileOperations | None = attrs.field(default=None, repr=False)
    f_count: int = 1  # who opened it, and each mapping
    ra_prev: int = -1  # struct file_ra_state: the page that was read last,
    ra_size: int = 0  # and how many were read ahead then
    mmap_hit: int = 0  # faults that met their page in the cache,
    mmap_miss: int = 0  # and those that did not
    f_path: str = attrs.field(default="", kw_only=True)  # where it lies, as /proc/swaps shows it
