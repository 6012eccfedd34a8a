"""Inodes, open files and address spaces: what a file system and the memory manager show each other (include/linux/fs.h).

Interface
    * :class:`Inode`, :class:`File`, :class:`Cred`, :class:`AddressSpace`, :class:`WritebackControl`.
    * :class:`AddressSpaceOperations`: what a file system (or the swap layer) offers. Methods return 0 or -errno and raise nothing.

Rules of this file
    * ``->writepage`` and ``->readpage`` are called with the page locked and unlock it. ``->writepage`` of a page that is sent sets
      PG_writeback first.
    * ``->swapfile`` is None where a file system cannot carry a swap file without block numbers (patch 25 asks for it).
    * The page cache's tree is made on first use (filemap.py): most address spaces here never hold a page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol

import attrs

from kemu.lib.radix_tree import RadixTree
from kemu.mm.backing_dev import BackingDev
from kemu.mm.page import Page

AOP_WRITEPAGE_ACTIVATE: Final = 0x80000  # ->writepage: not now, give the page another turn on the active list

S_SWAPFILE: Final = 256  # inode.i_flags: do not truncate or revalidate, it is swapped to

WB_SYNC_NONE: Final = 0
WB_SYNC_ALL: Final = 1

AS_EIO: Final = 1  # mapping.flags: a write failed and nobody was told yet
AS_ENOSPC: Final = 2


@attrs.define(eq=False)
class WritebackControl:
    """``struct writeback_control``: how eagerly to write."""

    nr_to_write: int = 32
    for_reclaim: bool = False
    nonblocking: bool = False
    sync_mode: int = WB_SYNC_NONE


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


@attrs.define(eq=False)
class Inode:
    """``struct inode``.

    :param i_bdev: the block device under the file (or that the file is), for swap areas on block devices.
    """

    ino: int = 0
    size: int = 0
    i_flags: int = 0
    is_block: bool = False
    i_bdev: Any = attrs.field(default=None, repr=False)
    i_mapping: Any = attrs.field(default=None, repr=False)  # AddressSpace
    private: Any = attrs.field(default=None, repr=False)  # the file system's own part (NFS_I())

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
    f_path: str = attrs.field(default="", kw_only=True)  # where it lies, as /proc/swaps shows it
