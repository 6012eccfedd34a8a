"""Waiting until a file, a part of it or one page has reached the server, and giving up (2.6.23-mm1 fs/nfs/write.c, file.c).

Interface
    * :class:`NfsWait`: ``nfs_wb_all(nfsi)``, ``nfs_wb_nocommit(nfsi)``, ``nfs_sync_mapping_range(nfsi, first, last, how)``,
      ``nfs_wb_page(nfsi, page)``, ``nfs_wb_page_cancel(nfsi, page)``, ``nfs_flush_incompatible(ctx, page)``,
      ``nfs_do_fsync(ctx)``.

Rules of this file
    * To wait is: wait for who works on requests, then commit what waits for a COMMIT, and begin again until there is neither. One
      COMMIT takes all of the file's requests with it.
    * A file is written in two passes. The first starts what it can and passes over pages under writeback; the second waits.
    * Errors of WRITEs are not returned by who waits: they stay with the open context, and nfs_do_fsync() hands them on, once.
    * The kernel takes the range of a single page for the rest of the file, and waits for that. Here it is the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.mm.address_space import I_DIRTY_PAGES, LLONG_MAX, WB_SYNC_ALL, WB_SYNC_NONE, WritebackControl
from kemu.mm.gfp import PAGE_SHIFT
from kemu_nfs.nfs.commit import FLUSH_INVALIDATE, FLUSH_NOCOMMIT, FLUSH_STABLE, MAX_PAGE_INDEX
from kemu_nfs.nfs.pagelist import PG_NEED_COMMIT

if TYPE_CHECKING:
    from kemu.mm.page import Page
    from kemu_nfs.nfs.inode import NfsInode, NfsOpenContext
    from kemu_nfs.nfs.pagelist import NfsPage
    from kemu_nfs.nfs.write import NfsWrite


class NfsWait:
    """Who waits for writes."""

    def __init__(self, write: NfsWrite) -> None:
        self.write = write
        self.commit = write.commit
        self.inodes = write.inodes
        self.pagelist = write.pagelist
        self.filemap = write.filemap

    # -- a range ---------------------------------------------------------------------------------------------------------------

    def _nfs_wait_on_requests(self, nfsi: NfsInode, first: int, last: int) -> int:
        """Wait for who works on requests of pages ``first`` to ``last``; return how many (nfs_wait_on_requests_locked())."""
        waited = 0
        while (req := _busy_request(nfsi, first, last)) is not None:
            first = req.wb_index + 1
            req.wb_count += 1
            self.pagelist.nfs_wait_on_request(req)
            self.pagelist.nfs_release_request(req)
            waited += 1
        return waited

    def nfs_sync_mapping_wait(self, nfsi: NfsInode, first: int, last: int, how: int) -> int:
        """Wait until pages ``first`` to ``last`` are on the server's disk, or dirty again: 0, -errno (nfs_sync_mapping_wait())."""
        while True:
            if self._nfs_wait_on_requests(nfsi, first, last):
                continue
            if how & FLUSH_NOCOMMIT:
                return 0
            reqs = self.commit.nfs_scan_commit(nfsi, first, last)
            if not reqs:
                return 0
            if how & FLUSH_INVALIDATE:
                self.commit.nfs_cancel_commit_list(reqs)
                continue
            reqs += self.commit.nfs_scan_commit(nfsi, 0, MAX_PAGE_INDEX)
            error = self.commit.nfs_commit_list(nfsi, reqs, how)
            if error < 0:
                return error

    # -- a file ----------------------------------------------------------------------------------------------------------------

    def nfs_wb_all(self, nfsi: NfsInode) -> int:
        """Write all of a file and wait until it is on the server's disk: 0 or -errno (nfs_wb_all())."""
        return self.nfs_sync_mapping_range(nfsi, 0, LLONG_MAX, 0)

    def nfs_wb_nocommit(self, nfsi: NfsInode) -> int:
        """Write all of a file and wait until the server has it, in its memory at least (nfs_wb_nocommit())."""
        return self.nfs_sync_mapping_range(nfsi, 0, LLONG_MAX, FLUSH_NOCOMMIT)

    def nfs_sync_mapping_range(self, nfsi: NfsInode, start: int, end: int, how: int) -> int:
        """Write bytes ``start`` to ``end`` of a file, and wait (nfs_sync_mapping_range(), nfs_write_mapping())."""
        mapping = nfsi.mapping
        for sync_mode in (WB_SYNC_NONE, WB_SYNC_ALL):
            wbc = WritebackControl(LLONG_MAX, sync_mode=sync_mode, bdi=nfsi.server.bdi, range_start=start, range_end=end)
            error = self.write.nfs_writepages(mapping, wbc)
            if error >= 0:
                error = self.nfs_sync_mapping_wait(nfsi, start >> PAGE_SHIFT, end >> PAGE_SHIFT, how)
            if error < 0:
                self._still_dirty(nfsi)
                return error
        return 0

    def _still_dirty(self, nfsi: NfsInode) -> None:
        """See that pdflush tries where we could not."""
        if self.filemap.mark_inode_dirty is not None:
            self.filemap.mark_inode_dirty(nfsi.inode, I_DIRTY_PAGES)

    def nfs_do_fsync(self, ctx: NfsOpenContext) -> int:
        """Write all of a file; return also what went wrong with writes of this opening since the last time (nfs_do_fsync())."""
        status = self.nfs_wb_all(ctx.nfsi)
        error, ctx.error = ctx.error, 0
        return error or status

    # -- a page ----------------------------------------------------------------------------------------------------------------

    def nfs_wb_page(self, nfsi: NfsInode, page: Page) -> int:
        """Write a locked page, whoever changed it, and wait until it has no request any more: 0 or -errno (nfs_wb_page())."""
        index = self.inodes.page_index(page)
        while True:
            if self.filemap.clear_page_dirty_for_io(page):
                error = self.write.nfs_writepage_locked(page, WritebackControl(sync_mode=WB_SYNC_ALL))
            else:
                req = self.inodes.nfs_page_find_request_locked(nfsi, page)
                if req is None:
                    return 0
                error = self._flush_idle_request(req, page)
                self.pagelist.nfs_release_request(req)
            if error >= 0:
                error = self.nfs_sync_mapping_wait(nfsi, index, index, FLUSH_STABLE)
            if error < 0:
                self._still_dirty(nfsi)
                return error

    def _flush_idle_request(self, req: NfsPage, page: Page) -> int:
        """Get a request on its way that nobody works on though its page is clean.

        Of a swap slot it may be one of the page that was there before and left without being written: nobody wants it any more.
        """
        if req.wb_busy or req.wb_flags & PG_NEED_COMMIT:
            return 0
        if req.wb_page is not page:
            self.inodes.nfs_inode_remove_request(req)
            self.pagelist.nfs_release_request(req)
            return 0
        write = self.write
        pgio = write.flush.nfs_pageio_init_write(req.wb_context.nfsi, FLUSH_STABLE)
        error = write.nfs_page_async_flush(pgio, page)
        self.pagelist.nfs_pageio_complete(pgio)
        return error or min(pgio.pg_error, 0)

    def nfs_wb_page_cancel(self, nfsi: NfsInode, page: Page) -> int:
        """Forget what was to be written of a locked page that leaves its file (nfs_wb_page_cancel(), nfs_invalidate_page())."""
        index = self.inodes.page_index(page)
        while (req := self.inodes.nfs_page_find_request_locked(nfsi, page)) is not None:
            if req.wb_flags & PG_NEED_COMMIT:
                self.pagelist.nfs_release_request(req)
                self.nfs_sync_mapping_wait(nfsi, index, index, FLUSH_INVALIDATE)
            elif self.pagelist.nfs_lock_request_dontget(req):
                self.inodes.nfs_inode_remove_request(req)
                self.filemap.cancel_dirty_page(page)
                self.pagelist.nfs_release_request(req)
                self.pagelist.nfs_unlock_request(req)
            else:
                self.pagelist.nfs_wait_on_request(req)
                self.pagelist.nfs_release_request(req)
        return 0

    def nfs_flush_incompatible(self, ctx: NfsOpenContext, page: Page) -> int:
        """Before a locked page is changed through an opening: write what another one changed, or what waits for a COMMIT.

        (nfs_flush_incompatible())
        """
        error = 0
        while not error:
            req = self.inodes.nfs_page_find_request_locked(ctx.nfsi, page)
            if req is None:
                return 0
            in_the_way = req.wb_page is not page or req.wb_context is not ctx or req.wb_flags & PG_NEED_COMMIT
            self.pagelist.nfs_release_request(req)
            if not in_the_way:
                return 0
            error = self.nfs_wb_page(ctx.nfsi, page)
        return error


def _busy_request(nfsi: NfsInode, first: int, last: int) -> NfsPage | None:
    """Find the first request from page ``first`` to ``last`` that somebody works on."""
    tree = nfsi.nfs_page_tree
    if first == last:
        req: NfsPage | None = tree.lookup(first)
        return req if req is not None and req.wb_busy else None
    for index, found in tree.items(first):
        if index > last:
            break
        if found.wb_busy:
            return found  # type: ignore[no-any-return]  # the tree holds requests
    return None
