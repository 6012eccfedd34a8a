"""The interface that the review asked for: ->swapout and ->swapin of an NFS file (posted with v15 of the series).

Interface: :class:`NfsSwapOps`: ``nfs_swap_out(file, page, wbc)``, ``nfs_swap_in(file, page)``; a machine booted with
``swap_ops="swapout"`` calls them in the place of ->writepage and ->readpage.

Rules of this file
    * The swap file's own opening says whose credential a WRITE carries: no credential is looked up and none can be missing (b30a,
      b30b), and whether S_SWAPFILE is set already makes no difference (b30d). Patch 30 is not needed.
    * A page that could not be written is still left clean, as in v15 (b30c); 3.6 makes it dirty again.
    * Later kernels: swap_activate() and swap_deactivate() (3.6), and ->swap_rw() (5.19), which never sees ->writepage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu_nfs.nfs.write import wb_priority

if TYPE_CHECKING:
    from kemu.mm.address_space import File, WritebackControl
    from kemu.mm.page import Page
    from kemu_nfs.nfs.inode import NfsOpenContext
    from kemu_nfs.nfs.read import NfsRead
    from kemu_nfs.nfs.write import NfsWrite


class NfsSwapOps:
    """How pages go to a swap file and come back."""

    def __init__(self, write: NfsWrite, read: NfsRead) -> None:
        self.sched = write.sched
        self.filemap = write.filemap
        self.write = write
        self.read = read

    def nfs_swap_out(self, file: File, page: Page, wbc: WritebackControl) -> int:
        """Start writing a locked swap cache page and unlock it (fs/nfs/write.c of v15)."""
        self.sched.spend(costs.NFS_REQUEST)
        write = self.write
        ctx: NfsOpenContext = file.private_data
        error = write.nfs_writepage_setup(ctx, page, 0, write.inodes.nfs_page_length(page))
        if error:
            write.swap_page_not_written(ctx.nfsi, page, error)
        else:
            pgio = write.flush.nfs_pageio_init_write(ctx.nfsi, wb_priority(wbc))
            error = write.nfs_page_async_flush(pgio, page)
            write.pagelist.nfs_pageio_complete(pgio)
            error = error if error < 0 else min(pgio.pg_error, 0)
        self.filemap.unlock_page(page)
        return error

    def nfs_swap_in(self, file: File, page: Page) -> int:
        """Start reading a locked swap cache page; it is unlocked when its contents are there (v15: ->swap_in is nfs_readpage())."""
        return self.read.nfs_readpage(file, page)
