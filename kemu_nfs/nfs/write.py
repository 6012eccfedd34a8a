"""Writing pages to the server (2.6.23-mm1 fs/nfs/write.c; patches 27, 28, 30, 32, 33).

Interface
    * :class:`NfsWrite`: ``nfs_writepage`` and ``nfs_writepages`` (the address space's methods), ``nfs_updatepage`` (a buffered
      write, or a store through a mapping), ``nfs_wb_page``, ``nfs_wb_all``.

Rules of this file
    * A page goes out in three steps: a request for it exists (from write(2) or ->page_mkwrite, or from patch 30 for a swap page);
      nfs_page_async_flush() sets PG_writeback and hands the request on; a WRITE carries it, and its reply ends the writeback.
    * A page without a request is "written" by doing nothing: that is the base's way with pages nobody changed through NFS, and what
      becomes of swap pages without patch 30.
    * Writes are FILE_SYNC (wb_priority() of reclaim gives FLUSH_STABLE): no page is ever "unstable".
    * Reclaim takes a page that is neither dirty nor under writeback for clean. So who fails must leave it dirty (b30c, b30e).
    * Left out: UNSTABLE writes and COMMIT, several WRITEs at once for one page (wsize < 4096 sends the pieces one after the other),
      O_APPEND.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.errno import EAGAIN, EBADF, EBUSY, EIO, EJUKEBOX, ENOMEM
from kemu.kernel.timer import HZ
from kemu.mm.address_space import AddressSpace, WritebackControl
from kemu.mm.gfp import GFP_NOIO, PAGE_SHIFT
from kemu.mm.page import Page, PG_error, PG_reclaim, PG_swapcache, PG_uptodate
from kemu_nfs.nfs.inode import FMODE_WRITE, NfsInode, NfsInodes, NfsOpenContext
from kemu_nfs.nfs.nfs3xdr import PROC_WRITE, Nfs3Result, WriteArgs
from kemu_nfs.nfs.nfs_client import NfsModule
from kemu_nfs.nfs.pagelist import NfsPage, NfsPageio, NfsPagelist
from kemu_nfs.sunrpc.nfs3_const import NFS_FILE_SYNC
from kemu_nfs.sunrpc.rpc_task import CALL_START, RPC_PRIORITY_HIGH, RPC_PRIORITY_NORMAL, RPC_TASK_ASYNC, RpcTask

if TYPE_CHECKING:
    from kemu.mm.address_space import File

FLUSH_STABLE: Final = 4
FLUSH_HIGHPRI: Final = 16
NFS_JUKEBOX_RETRY_TIME: Final = 5 * HZ


def wb_priority(wbc: WritebackControl) -> int:
    """Translate who asks into how to write (wb_priority())."""
    return FLUSH_HIGHPRI | FLUSH_STABLE if wbc.for_reclaim else 0


class NfsWriteData:
    """``struct nfs_write_data``: one WRITE call, its arguments and the requests that it carries.

    :ivar done: bytes that the server has confirmed.
    """

    __slots__ = ("addr", "args", "done", "nfsi", "reqs", "total")

    def __init__(self, addr: int, nfsi: NfsInode, reqs: list[NfsPage], args: WriteArgs, total: int) -> None:
        self.addr = addr
        self.nfsi = nfsi
        self.reqs = reqs
        self.args = args
        self.total = total
        self.done = 0


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
        self.io = module.io

    # -- ->writepage -----------------------------------------------------------------------------------------------------------

    def nfs_writepage(self, page: Page, wbc: WritebackControl) -> int:
        """Start writing a locked page and unlock it (nfs_writepage())."""
        data = self.sched.current.data
        depth = data.get("nfs_writepage", 0) + 1
        data["nfs_writepage"] = depth
        self.stats.writepage_depth = max(self.stats.writepage_depth, depth)
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
        pgio = NfsPageio(nfsi, self.nfs_flush_one, nfsi.server.wsize, wb_priority(wbc))
        error = self.nfs_do_writepage(page, wbc, pgio)
        self.pagelist.nfs_pageio_complete(pgio)
        return error if error < 0 else min(pgio.pg_error, 0)

    def nfs_writepages(self, mapping: AddressSpace, wbc: WritebackControl) -> int:
        """Start writing dirty pages of a file, neighbours together (nfs_writepages())."""
        assert mapping.host is not None
        nfsi: NfsInode = mapping.host.private
        pgio = NfsPageio(nfsi, self.nfs_flush_one, nfsi.server.wsize, wb_priority(wbc))
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
                        page.flags |= PG_error
            if error:
                if self.fixed.b30c:  # [b30c]
                    self._redirty_swap_page(page, error)
                return error
        self.pagelist.nfs_pageio_cond_complete(pgio, page.word_d)
        return self.nfs_page_async_flush(pgio, page)

    def _redirty_swap_page(self, page: Page, error: int) -> None:
        """Keep a page whose write failed from being taken for clean (as swap_writepage() does since 3.6)."""
        self.filemap.set_page_dirty_nobuffers(page)
        page.flags &= ~PG_reclaim
        self.kernel.printk.ratelimited("swap write", f"Write error {error} on swapfile (page {page.pfn:#x})", "err")

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
        if self.filemap.set_page_writeback(page):
            raise KernelBug("kernel BUG: nfs_page_async_flush() of a page under writeback", state=page)
        pgio.nfsi.server.writeback_begins()
        pagelist.nfs_pageio_add_request(pgio, req)
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
        """Let a request that is there cover our bytes too; -EBUSY if it is another's or leaves a gap."""
        end = offset + count
        req_end = req.wb_offset + req.wb_bytes
        if req.wb_context is not ctx or req.wb_page is not page or offset > req_end or end < req.wb_offset:
            self.pagelist.nfs_unlock_request(req)
            return -EBUSY
        req.wb_offset = min(req.wb_offset, offset)
        req.wb_bytes = max(req_end, end) - req.wb_offset
        return req

    def nfs_updatepage(self, file: File, page: Page, offset: int, count: int) -> int:
        """Take note of a buffered write into a locked page (nfs_updatepage()): 0 or -errno."""
        if not count:
            return 0
        error = self.nfs_writepage_setup(file.private_data, page, offset, count)
        if error:
            page.flags |= PG_error
            return error
        self.filemap.set_page_dirty_nobuffers(page)
        return 0

    # -- WRITE calls -----------------------------------------------------------------------------------------------------------

    def nfs_flush_one(self, desc: NfsPageio) -> int:
        """Send gathered requests as one WRITE (nfs_flush_one()); without memory their pages are dirty again."""
        reqs = desc.pg_list
        addr = self.module.writedata_alloc()
        if addr is None:
            for req in reqs:
                self._nfs_redirty_request(req)
                self._end_page_writeback(desc.nfsi, req.wb_page)
                self.pagelist.nfs_unlock_request(req)
            return -ENOMEM
        nfsi = desc.nfsi
        first = reqs[0]
        offset = (first.wb_index << PAGE_SHIFT) + first.wb_offset
        total = desc.pg_count
        args = WriteArgs(nfsi.fh_wire, offset, 0, NFS_FILE_SYNC, None)
        data = NfsWriteData(addr, nfsi, reqs, args, total)
        self._aim(data)
        self._nfs_execute_write(data, first.wb_context, desc.how)
        return 0

    def _nfs_redirty_request(self, req: NfsPage) -> None:
        """Keep a page for later whose WRITE could not be made (nfs_redirty_request()).

        Its request stays, with a reference of the page. Reclaim expects that of a page with PG_private, and patch 29 sets none on
        swap pages: v14's page is not lost, but never written again either. Mended with b30c, the request goes.
        """
        page = req.wb_page
        self.filemap.set_page_dirty_nobuffers(page)
        if self.patched.nfs_swap_writepage and page.flags & PG_swapcache:  # [p30]
            if self.fixed.b30c:  # [b30c]
                self.inodes.nfs_inode_remove_request(req)
                self.pagelist.nfs_release_request(req)

    def _aim(self, data: NfsWriteData) -> None:
        """Point the arguments at what is not written yet, as much as wsize allows."""
        args = data.args
        args.count = count = min(data.total - data.done, data.nfsi.server.wsize)
        pages = []
        skip = data.done
        for req in data.reqs:
            if skip >= req.wb_bytes:
                skip -= req.wb_bytes
                continue
            size = min(req.wb_bytes - skip, count)
            pages.append((req.wb_page, req.wb_offset + skip, size))
            skip = 0
            count -= size
            if not count:
                break
        args.pages = pages

    def _nfs_execute_write(self, data: NfsWriteData, ctx: NfsOpenContext, how: int) -> None:
        """Start the call (nfs_write_rpcsetup(), nfs_execute_write())."""
        client = data.nfsi.server.client
        task = client.rpc_init_task(RPC_TASK_ASYNC, PROC_WRITE, data.args, ctx.cred, self, data)
        task.tk_priority = RPC_PRIORITY_HIGH if how & FLUSH_HIGHPRI else RPC_PRIORITY_NORMAL
        io = self.io
        for req in data.reqs:
            req.wb_task = task
            io[req.wb_page] = task
        stats = self.stats
        stats.writes += 1
        stats.writes_outstanding = outstanding = stats.writes_outstanding + 1
        stats.writes_outstanding_peak = max(stats.writes_outstanding_peak, outstanding)
        client.rpc.rpc_execute(task)

    def rpc_call_done(self, task: RpcTask) -> None:
        """Look at the end of a WRITE (nfs_writeback_done(), nfs_writeback_done_full())."""
        data: NfsWriteData = task.tk_calldata
        status = self._nfs_writeback_done(task, data)
        if status == -EAGAIN:
            return  # more to write
        if status:
            self.stats.write_errors += 1
        nfsi = data.nfsi
        pagelist = self.pagelist
        for req in data.reqs:
            page = req.wb_page
            if status:
                req.wb_context.error = status
                self._nfs_set_pageerror(page, status)
            self.io.pop(page, None)
            self._end_page_writeback(nfsi, page)
            self.inodes.nfs_inode_remove_request(req)
            pagelist.nfs_release_request(req)
            pagelist.nfs_unlock_request(req)

    def _nfs_writeback_done(self, task: RpcTask, data: NfsWriteData) -> int:
        """Judge the answer (nfs_writeback_done()): 0, -errno, or -EAGAIN when the call starts again with the rest."""
        if task.tk_status < 0:
            return task.tk_status
        result: Nfs3Result = task.tk_result
        if result.status == -EJUKEBOX:
            # the server fetches the file from afar: ask again in a while (nfs3_async_handle_jukebox())
            self.stats.jukebox += 1
            task.tk_action = CALL_START
            task.tk_client.rpc.rpc_delay(task, NFS_JUKEBOX_RETRY_TIME)
            return -EAGAIN
        self.inodes.nfs_refresh_inode(data.nfsi, result)
        if result.status:
            return result.status
        data.done += result.count
        if data.done >= data.total:
            return 0
        if not result.count:
            self.kernel.printk.ratelimited("nfs write", f"NFS: Server wrote zero bytes, expected {data.args.count}.")
            return -EIO
        data.args.offset += result.count
        self._aim(data)
        task.tk_action = CALL_START
        return -EAGAIN

    def _nfs_set_pageerror(self, page: Page, error: int) -> None:
        """Mark a page that could not be written (nfs_set_pageerror()). v14 leaves a swap page clean then, and so lost (b30e)."""
        page.flags |= PG_error
        if self.patched.nfs_swap_writepage and page.flags & PG_swapcache:  # [p30]
            if self.fixed.b30e:  # [b30e]
                self._redirty_swap_page(page, error)

    def rpc_release(self, task: RpcTask) -> None:
        """Free the call (nfs_writedata_release())."""
        self.stats.writes_outstanding -= 1
        self.module.writedata_free(task.tk_calldata.addr)

    def _end_page_writeback(self, nfsi: NfsInode, page: Page) -> None:
        """End a page's writeback, and perhaps the mount's congestion (nfs_end_page_writeback())."""
        self.filemap.end_page_writeback(page)
        nfsi.server.writeback_ends()

    # -- waiting for writes ----------------------------------------------------------------------------------------------------

    def nfs_wb_page(self, nfsi: NfsInode, page: Page) -> int:
        """Write the page's request, whoever made it, and wait for it (nfs_wb_page()); the page is locked."""
        inodes = self.inodes
        pagelist = self.pagelist
        while True:
            if self.filemap.clear_page_dirty_for_io(page):
                error = self.nfs_writepage_locked(page, WritebackControl())
                if error < 0:
                    return error
            req = inodes.nfs_page_find_request_locked(nfsi, page)
            if req is None:
                return 0
            if req.wb_busy:
                error = pagelist.nfs_wait_on_request(req)
            elif req.wb_page is not page:
                # of a page that left the slot before it was written: nobody wants it any more (nfs_cancel_requests())
                inodes.nfs_inode_remove_request(req)
                pagelist.nfs_release_request(req)
                error = 0
            else:
                pgio = NfsPageio(nfsi, self.nfs_flush_one, nfsi.server.wsize, FLUSH_STABLE)
                error = self.nfs_page_async_flush(pgio, req.wb_page)
                pagelist.nfs_pageio_complete(pgio)
                error = error or min(pgio.pg_error, 0)
            pagelist.nfs_release_request(req)
            if error:
                return error

    def nfs_wb_all(self, nfsi: NfsInode) -> int:
        """Write all requests of a file and wait for them (nfs_wb_all()): 0, or the error that a write met."""
        error = 0
        while nfsi.npages:
            req: NfsPage = nfsi.nfs_page_tree.gang_lookup(0, 1)[0]
            page = req.wb_page
            page.count += 1
            self.filemap.lock_page(page)
            self.filemap.wait_on_page_writeback(page)
            error = self.nfs_wb_page(nfsi, page) or error
            self.filemap.unlock_page(page)
            self.pagelist.put_page(page)
            if error == -ENOMEM:
                return error
        for ctx in nfsi.open_files:
            error, ctx.error = error or ctx.error, 0
        return error
