"""Dirty pages on their way out: ->writepage, ->writepages, and their requests (2.6.23-mm1 fs/nfs/write.c; patches 28, 30, 33).

Interface
    * :class:`NfsWrite`: ``nfs_writepage`` and ``nfs_writepages`` (the address space's methods), ``nfs_updatepage`` (a buffered
      write, or a store through a mapping); ``nfs_writepage_setup(ctx, page, offset, count)`` and
      ``nfs_page_async_flush(pgio, page)``, the two steps of writing one page.
    * Its parts: ``flush`` (WRITE calls), ``commit`` (COMMIT), ``wait`` (fsync and the like). ``nfs_wb_page`` and ``nfs_wb_all`` are
      those of ``wait``.

Rules of this file
    * A page goes out in three steps: a request for it exists (from write(2) or ->page_mkwrite, or from patch 30 for a swap page);
      nfs_page_async_flush() sets PG_writeback and hands the request on; a WRITE carries it, and its reply ends the writeback.
    * A page without a request is "written" by doing nothing: that is the base's way with pages nobody changed through NFS, and what
      becomes of swap pages without patch 30.
    * A request that waits for a COMMIT is not changed: who wants to write more of its page waits for the COMMIT first.
    * Reclaim takes a page that is neither dirty nor under writeback for clean. So who fails must leave it dirty (b30c, b30e).
    * Left out: O_APPEND, O_SYNC, file locks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.errno import EBADF, EBUSY, ENOMEM
from kemu.mm.gfp import GFP_NOIO, PAGE_SHIFT
from kemu.mm.page import PG_uptodate
from kemu_nfs.nfs.attr_cache import NFS_INO_INVALID_DATA
from kemu_nfs.nfs.commit import FLUSH_HIGHPRI, FLUSH_LOWPRI, FLUSH_STABLE, NFS_JUKEBOX_RETRY_TIME, NfsCommit
from kemu_nfs.nfs.flush import NfsFlush
from kemu_nfs.nfs.inode import FMODE_WRITE
from kemu_nfs.nfs.pagelist import PG_NEED_COMMIT
from kemu_nfs.nfs.wait import NfsWait

if TYPE_CHECKING:
    from kemu.mm.address_space import AddressSpace, File, WritebackControl
    from kemu.mm.page import Page
    from kemu_nfs.nfs.inode import NfsInode, NfsInodes, NfsOpenContext
    from kemu_nfs.nfs.nfs_client import NfsModule
    from kemu_nfs.nfs.pagelist import NfsPage, NfsPageio, NfsPagelist

__all__ = ["NFS_JUKEBOX_RETRY_TIME", "NfsWrite", "wb_priority"]


def wb_priority(wbc: WritebackControl) -> int:
    """Translate who asks into how to write (wb_priority())."""
    if wbc.for_reclaim:
        return FLUSH_HIGHPRI | FLUSH_STABLE
    return FLUSH_LOWPRI if wbc.for_kupdate else 0


class NfsWrite:
    """The writing half of the client."""

    def __init__(self, module: NfsModule, inodes: NfsInodes, pagelist: NfsPagelist) -> None:
        self.module = module
        self.kernel = module.kernel
        self.sched = module.sched
        self.patched = module.patched
        self.fixed = module.fixed
        self.filemap = module.filemap
        self.stats = module.stats
        self.inodes = inodes
        self.pagelist = pagelist
        self.commit = NfsCommit(module, inodes, pagelist)
        self.flush = NfsFlush(module, inodes, pagelist, self.commit)
        self.wait = NfsWait(self)
        self.nfs_wb_page = self.wait.nfs_wb_page
        self.nfs_wb_all = self.wait.nfs_wb_all

    # -- ->writepage -----------------------------------------------------------------------------------------------------------

    def nfs_writepage(self, page: Page, wbc: WritebackControl) -> int:
        """Start writing a locked page and unlock it (nfs_writepage())."""
        data = self.sched.current.data
        depth = data.get("nfs_writepage", 0) + 1
        data["nfs_writepage"] = depth
        if depth > self.stats.writepage_depth:
            self.stats.writepage_depth = depth
        try:
            error = self.nfs_writepage_locked(page, wbc)
        finally:
            data["nfs_writepage"] = depth - 1
        self.filemap.unlock_page(page)
        return error

    def nfs_writepage_locked(self, page: Page, wbc: WritebackControl) -> int:
        """Start writing a page that stays locked (nfs_writepage_locked())."""
        inode = self.inodes.page_mapping(page).host
        assert inode is not None
        nfsi: NfsInode = inode.private
        pgio = self.flush.nfs_pageio_init_write(nfsi, wb_priority(wbc))
        error = self.nfs_do_writepage(page, wbc, pgio)
        self.pagelist.nfs_pageio_complete(pgio)
        return error if error < 0 else min(pgio.pg_error, 0)

    def nfs_writepages(self, mapping: AddressSpace, wbc: WritebackControl) -> int:
        """Start writing dirty pages of a file, neighbours together (nfs_writepages())."""
        assert mapping.host is not None
        nfsi: NfsInode = mapping.host.private
        pgio = self.flush.nfs_pageio_init_write(nfsi, wb_priority(wbc))
        error = self.module.file_io.write_pages.write_cache_pages(
            mapping, wbc, lambda page, _: self._writepages_one(page, wbc, pgio)
        )
        self.pagelist.nfs_pageio_complete(pgio)
        return error if error < 0 else min(pgio.pg_error, 0)

    def _writepages_one(self, page: Page, wbc: WritebackControl, pgio: NfsPageio) -> int:
        """Gather one page and unlock it (nfs_writepages_callback())."""
        error = self.nfs_do_writepage(page, wbc, pgio)
        self.filemap.unlock_page(page)
        return error

    def nfs_do_writepage(self, page: Page, wbc: WritebackControl, pgio: NfsPageio) -> int:
        """Hand the page's request on; patch 30 first makes one for a page of a swap file (nfs_do_writepage()).

        v14 looks the credential up by whoever reclaims and never drops it (b30a); wants the very credential of the opener, so that
        only root's reclaim succeeds where root did swapon (b30b); and whatever fails leaves the page clean, so that reclaim frees
        the only copy (b30c). v15 took the context of the swap file's opener; 3.6 makes the page dirty again.
        """
        self.sched.spend(costs.NFS_REQUEST)
        nfsi = pgio.nfsi
        if self.patched.nfs_swap_writepage and nfsi.inode.is_swapfile:  # [p30]
            current = self.sched.current
            auth = nfsi.server.auth
            error = -EBADF
            cred = auth.lookup_cred(current.uid, current.gid)
            if cred is None:
                error = -ENOMEM
            else:
                wanted = None if self.fixed.b30b else cred  # [b30b]
                ctx = self.inodes.nfs_find_open_context(nfsi, wanted, FMODE_WRITE)
                if self.fixed.b30a:  # [b30a]
                    auth.put_rpccred(cred)
                if ctx is not None:
                    error = self.nfs_writepage_setup(ctx, page, 0, self.inodes.nfs_page_length(page))
                    self.inodes.put_nfs_open_context(ctx)
                    if error:
                        self.flush.nfs_zap_page(nfsi, page)
            if error:
                if self.fixed.b30c:  # [b30c]
                    self.commit.redirty_swap_page(page, error)
                return error
        if pgio.pg_list:
            self.pagelist.nfs_pageio_cond_complete(pgio, page.word_d)
        return self.nfs_page_async_flush(pgio, page)

    def swap_page_not_written(self, nfsi: NfsInode, page: Page, error: int) -> None:
        """Mark a swap page that got no request (v15: nfs_swap_out()), and keep it dirty if that is mended."""
        self.flush.nfs_zap_page(nfsi, page)
        if self.patched.nfs_swap_writepage:  # [p30]
            if self.fixed.b30c:  # [b30c]
                self.commit.redirty_swap_page(page, error)

    def nfs_page_async_flush(self, pgio: NfsPageio, page: Page) -> int:
        """Set PG_writeback on a page that has a request and gather it (nfs_page_async_flush()); without one do nothing."""
        pagelist = self.pagelist
        while True:
            req = self.inodes.nfs_page_find_request_locked(pgio.nfsi, page)
            if req is None:
                return 0
            if pagelist.nfs_lock_request_dontget(req):
                break
            error = pagelist.nfs_wait_on_request(req)
            pagelist.nfs_release_request(req)
            if error:
                return error
        if req.wb_flags & PG_NEED_COMMIT:
            pagelist.nfs_unlock_request(req)
            pagelist.nfs_pageio_complete(pgio)
            return 0
        if self.filemap.set_page_writeback(page):
            raise KernelBug("kernel BUG: nfs_page_async_flush() of a page under writeback", state=page)
        pgio.nfsi.server.writeback_begins()
        if not pagelist.nfs_pageio_add_request(pgio, req):
            # the base forgets the request here, and its page stays under writeback for ever; 2.6.26 does not
            self.flush.nfs_redirty_request(req)
            return pgio.pg_error
        return 0

    # -- requests --------------------------------------------------------------------------------------------------------------

    def nfs_writepage_setup(self, ctx: NfsOpenContext, page: Page, offset: int, count: int) -> int:
        """Make or widen the page's request (nfs_writepage_setup()): 0 or -errno."""
        nfsi = ctx.nfsi
        while True:
            req = self.nfs_update_request(ctx, page, offset, count)
            if not isinstance(req, int):
                break
            if req != -EBUSY:
                return req
            error = self.nfs_wb_page(nfsi, page)
            if error:
                return error
        end = (req.wb_index << PAGE_SHIFT) + offset + count
        nfsi.inode.size = max(nfsi.inode.size, end)  # nfs_grow_file()
        if not page.flags & PG_uptodate and not req.wb_offset and req.wb_bytes == self.inodes.nfs_page_length(page):
            page.flags |= PG_uptodate  # nfs_mark_uptodate()
        self.pagelist.nfs_unlock_request(req)
        return 0

    def nfs_update_request(self, ctx: NfsOpenContext, page: Page, offset: int, count: int) -> NfsPage | int:
        """Find the page's request and widen it, or make one (nfs_update_request()): the request, locked, or -errno.

        Patch 33 fills the stock of tree nodes before each lap, so that the insert below the lock cannot fail. On the second lap
        there is a new request already; v14 forgets it when the stock cannot be filled then (b33).
        """
        nfsi = ctx.nfsi
        pagelist = self.pagelist
        radix_nodes = self.module.radix_nodes
        new: NfsPage | None = None
        while True:
            if self.patched.nfs_radix_nowarn:  # [p33]
                error = radix_nodes.preload(GFP_NOIO)
                if error:
                    if self.fixed.b33:  # [b33]
                        if new is not None:
                            pagelist.nfs_release_request(new)
                    return error
            # below the inode's lock
            req = self.inodes.nfs_page_find_request_locked(nfsi, page)
            if req is not None:
                locked = pagelist.nfs_lock_request_dontget(req)
                if self.patched.nfs_radix_nowarn:  # [p33]
                    radix_nodes.preload_end()
                if not locked:
                    pagelist.nfs_wait_on_request(req)
                    pagelist.nfs_release_request(req)
                    continue
                if new is not None:
                    pagelist.nfs_release_request(new)
                return self._widen(ctx, req, page, offset, count)
            if new is not None:
                new.wb_busy = True
                error = self.inodes.nfs_inode_add_request(nfsi, new)
                if self.patched.nfs_radix_nowarn:  # [p33]
                    radix_nodes.preload_end()
                if error:
                    pagelist.nfs_unlock_request(new)
                    return error
                return new
            if self.patched.nfs_radix_nowarn:  # [p33]
                radix_nodes.preload_end()
            new = pagelist.nfs_create_request(ctx, nfsi, page, offset, count)

    def _widen(self, ctx: NfsOpenContext, req: NfsPage, page: Page, offset: int, count: int) -> NfsPage | int:
        """Let a request that is there cover our bytes too; -EBUSY if it is another's, waits for a COMMIT or leaves a gap."""
        end = offset + count
        req_end = req.wb_offset + req.wb_bytes
        other = req.wb_context is not ctx or req.wb_page is not page
        if other or req.wb_flags & PG_NEED_COMMIT or offset > req_end or end < req.wb_offset:
            self.pagelist.nfs_unlock_request(req)
            return -EBUSY
        req.wb_offset = min(req.wb_offset, offset)
        req.wb_bytes = max(req_end, end) - req.wb_offset
        return req

    def nfs_updatepage(self, file: File, page: Page, offset: int, count: int) -> int:
        """Take note of a buffered write into a locked page (nfs_updatepage()): 0 or -errno.

        Of a page whose contents are all known the request covers all, so that a second write into it finds no gap.
        """
        if not count:
            return 0
        ctx: NfsOpenContext = file.private_data
        nfsi = ctx.nfsi
        if page.flags & PG_uptodate and not nfsi.cache_validity & NFS_INO_INVALID_DATA:
            count = max(offset + count, self.inodes.nfs_page_length(page))
            offset = 0
        error = self.nfs_writepage_setup(ctx, page, offset, count)
        if error:
            self.flush.nfs_zap_page(nfsi, page)
            return error
        self.filemap.set_page_dirty_nobuffers(page)
        return 0
