"""WRITE calls: making them of requests, and what their answers mean (2.6.23-mm1 fs/nfs/write.c; patches 27, 28, 30).

Interface
    * :class:`NfsFlush`: ``nfs_pageio_init_write(nfsi, how)`` gives the gathering that writes; ``nfs_flush_one``,
      ``nfs_flush_multi``; ``nfs_redirty_request``, ``nfs_set_pageerror``, ``nfs_end_page_writeback``.

Rules of this file
    * Requests that were gathered go in one WRITE. With wsize below a page a request goes in several, all sent at once; the last
      answer ends the writeback.
    * Who reclaims writes stably: FILE_SYNC, or DATA_SYNC where a COMMIT will come anyway. Others write UNSTABLE.
    * What a server has not written of a call is sent again from there; of an UNSTABLE one all of it, stably this time, for a crash
      between two answers could not be noticed. A server that writes nothing is an error.
    * An error ends the writeback, marks the page, makes the cached file doubtful, and stays with the open context for fsync or
      close. Reclaim takes such a page for clean; of a swap page that was the only copy (b30e).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.errno import EAGAIN, EIO, EJUKEBOX, ENOMEM
from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE
from kemu.mm.page import PG_error, PG_swapcache
from kemu_nfs.nfs.commit import FLUSH_STABLE, NfsCommit, flush_task_priority, nfs_async_handle_jukebox
from kemu_nfs.nfs.nfs3xdr import PROC_WRITE, Nfs3Result, WriteArgs
from kemu_nfs.nfs.pagelist import PG_NEED_COMMIT, PG_NEED_RESCHED, NfsPageio
from kemu_nfs.sunrpc.nfs3_const import NFS_DATA_SYNC, NFS_FILE_SYNC, NFS_UNSTABLE
from kemu_nfs.sunrpc.rpc_task import CALL_START, RPC_TASK_ASYNC, RpcCallOps, RpcTask

if TYPE_CHECKING:
    from kemu.mm.page import Page
    from kemu_nfs.nfs.inode import NfsInode, NfsInodes
    from kemu_nfs.nfs.nfs_client import NfsModule
    from kemu_nfs.nfs.pagelist import NfsPage, NfsPagelist


class NfsWriteData:
    """``struct nfs_write_data``: one WRITE call, its arguments and the requests that it carries."""

    __slots__ = ("addr", "args", "nfsi", "reqs")

    def __init__(self, addr: int, nfsi: NfsInode, reqs: list[NfsPage], args: WriteArgs) -> None:
        self.addr = addr
        self.nfsi = nfsi
        self.reqs = reqs
        self.args = args


class NfsFlush:
    """WRITEs of a mount, whole pages: also the ``nfs_write_full_ops`` of their calls."""

    def __init__(self, module: NfsModule, inodes: NfsInodes, pagelist: NfsPagelist, commit: NfsCommit) -> None:
        self.module = module
        self.kernel = module.kernel
        self.patched = module.patched
        self.fixed = module.fixed
        self.filemap = module.filemap
        self.stats = module.stats
        self.inodes = inodes
        self.pagelist = pagelist
        self.commit = commit
        self.io = module.io
        self.partial = NfsFlushPartial(self)

    # -- sending ---------------------------------------------------------------------------------------------------------------

    def nfs_pageio_init_write(self, nfsi: NfsInode, how: int) -> NfsPageio:
        """Begin to gather requests for WRITEs (nfs_pageio_init_write())."""
        wsize = nfsi.server.wsize
        return NfsPageio(nfsi, self.nfs_flush_one if wsize >= PAGE_SIZE else self.nfs_flush_multi, wsize, how)

    def nfs_flush_one(self, desc: NfsPageio) -> int:
        """Send gathered requests as one WRITE (nfs_flush_one()); without memory their pages are dirty again."""
        reqs = desc.pg_list
        addr = self.module.writedata_alloc()
        if addr is None:
            for req in reqs:
                self.nfs_redirty_request(req)
            return -ENOMEM
        pages = []
        for req in reqs:
            page = req.wb_page
            page.flags &= ~PG_error
            pages.append((page, req.wb_offset, req.wb_bytes))
        first = reqs[0]
        offset = (first.wb_index << PAGE_SHIFT) + first.wb_offset
        self._nfs_execute_write(addr, reqs, offset, desc.pg_count, pages, desc.how, self)
        return 0

    def nfs_flush_multi(self, desc: NfsPageio) -> int:
        """Send one request as several WRITEs (nfs_flush_multi()); without memory for all of them none is sent."""
        req = desc.pg_list[0]
        wsize = desc.pg_bsize
        module = self.module
        addrs: list[int] = []
        for _ in range(-(-req.wb_bytes // wsize)):
            addr = module.writedata_alloc()
            if addr is None:
                for taken in addrs:
                    module.writedata_free(taken)
                self.nfs_redirty_request(req)
                return -ENOMEM
            addrs.append(addr)
        page = req.wb_page
        page.flags &= ~PG_error
        req.wb_complete = len(addrs)
        start = req.wb_offset
        left = req.wb_bytes
        for addr in addrs:
            size = min(left, wsize)
            where = (req.wb_index << PAGE_SHIFT) + start
            self._nfs_execute_write(addr, [req], where, size, [(page, start, size)], desc.how, self.partial)
            start += size
            left -= size
        return 0

    def _nfs_execute_write(
        self, addr: int, reqs: list[NfsPage], offset: int, count: int, pages: list[tuple[Page, int, int]], how: int, ops: RpcCallOps
    ) -> None:
        """Start a call (nfs_write_rpcsetup(), nfs3_proc_write_setup(), nfs_execute_write())."""
        ctx = reqs[0].wb_context
        nfsi = ctx.nfsi
        stable = NFS_UNSTABLE
        if how & FLUSH_STABLE:
            stable = NFS_DATA_SYNC if nfsi.ncommit else NFS_FILE_SYNC
        data = NfsWriteData(addr, nfsi, reqs, WriteArgs(nfsi.fh_wire, offset, count, stable, pages))
        client = nfsi.server.client
        task = client.rpc_init_task(RPC_TASK_ASYNC, PROC_WRITE, data.args, ctx.cred, ops, data)
        task.tk_priority = flush_task_priority(how)
        io = self.io
        for req in reqs:
            req.wb_task = task
            io[req.wb_page] = task
        stats = self.stats
        stats.writes += 1
        stats.writes_outstanding = outstanding = stats.writes_outstanding + 1
        if outstanding > stats.writes_outstanding_peak:
            stats.writes_outstanding_peak = outstanding
        client.rpc.rpc_execute(task)

    # -- answers ---------------------------------------------------------------------------------------------------------------

    def rpc_call_done(self, task: RpcTask) -> None:
        """Look at the end of a WRITE of whole requests (nfs_writeback_done_full())."""
        data: NfsWriteData = task.tk_calldata
        status = self.nfs_writeback_done(task, data)
        if status == -EAGAIN:
            return  # more to write
        if status:
            self.stats.write_errors += 1
        result: Nfs3Result = task.tk_result
        pagelist = self.pagelist
        for req in data.reqs:
            page = req.wb_page
            del self.io[page]
            if status:
                self.nfs_set_pageerror(req, status)
            elif result.committed != NFS_FILE_SYNC:
                req.wb_verf = result.verf
                self.commit.nfs_mark_request_commit(req)
                self.nfs_end_page_writeback(req)
                pagelist.nfs_unlock_request(req)
                continue
            self.nfs_end_page_writeback(req)
            self.inodes.nfs_inode_remove_request(req)
            pagelist.nfs_release_request(req)
            pagelist.nfs_unlock_request(req)

    def nfs_writeback_done(self, task: RpcTask, data: NfsWriteData) -> int:
        """Judge the answer (nfs_writeback_done()): 0, -errno, or -EAGAIN when the call starts again with the rest."""
        if task.tk_status < 0:
            return task.tk_status
        result: Nfs3Result = task.tk_result
        if result.status == -EJUKEBOX:
            self.stats.jukebox += 1
            nfs_async_handle_jukebox(task)
            return -EAGAIN
        self.inodes.nfs_post_op_update_inode_force_wcc(data.nfsi, result, task.tk_start)
        if result.status:
            return result.status
        args = data.args
        if result.committed < args.stable:
            self.kernel.printk.ratelimited(
                "nfs committed",
                f"NFS: faulty NFS server {data.nfsi.server.name}: (committed = {result.committed}) != (stable = {args.stable})",
            )
        return self._short_write(task, args, result) if result.count < args.count else 0

    def _short_write(self, task: RpcTask, args: WriteArgs, result: Nfs3Result) -> int:
        """Send what the server has not written, or give up: -EAGAIN or -EIO."""
        if not result.count:
            self.kernel.printk.ratelimited("nfs write", f"NFS: Server wrote zero bytes, expected {args.count}.")
            return -EIO
        self.stats.short_writes += 1
        if result.committed == NFS_UNSTABLE:
            args.stable = NFS_FILE_SYNC
        else:
            args.offset += result.count
            args.count -= result.count
            assert args.pages is not None
            args.pages = _without(args.pages, result.count)
        task.tk_action = CALL_START
        return -EAGAIN

    def rpc_release(self, task: RpcTask) -> None:
        """Free the call (nfs_writedata_release())."""
        self.stats.writes_outstanding -= 1
        self.module.writedata_free(task.tk_calldata.addr)

    # -- what becomes of a page --------------------------------------------------------------------------------------------------

    def nfs_redirty_request(self, req: NfsPage) -> None:
        """Give a request and its page back whose WRITE could not be made (nfs_redirty_request())."""
        self.commit.nfs_mark_request_dirty(req)
        self.nfs_end_page_writeback(req)
        self.pagelist.nfs_unlock_request(req)

    def nfs_set_pageerror(self, req: NfsPage, error: int) -> None:
        """Note that a page could not be written (nfs_set_pageerror()). v14 leaves a swap page clean then, and so lost (b30e)."""
        page = req.wb_page
        self.commit.nfs_context_set_write_error(req.wb_context, error)
        self.nfs_zap_page(req.wb_context.nfsi, page)
        if self.patched.nfs_swap_writepage and page.flags & PG_swapcache:  # [p30]
            if self.fixed.b30e:  # [b30e]
                self.commit.redirty_swap_page(page, error)

    def nfs_zap_page(self, nfsi: NfsInode, page: Page) -> None:
        """Mark a page as bad, and what is cached of its file as doubtful (nfs_zap_mapping())."""
        page.flags |= PG_error
        self.inodes.nfs_zap_mapping(nfsi)

    def nfs_end_page_writeback(self, req: NfsPage) -> None:
        """End a page's writeback, and perhaps the mount's congestion (nfs_end_page_writeback())."""
        self.filemap.end_page_writeback(req.wb_page)
        req.wb_context.nfsi.server.writeback_ends()


class NfsFlushPartial:
    """``nfs_write_partial_ops``: WRITEs of parts of one page."""

    def __init__(self, flush: NfsFlush) -> None:
        self.flush = flush

    def rpc_call_done(self, task: RpcTask) -> None:
        """Look at the end of a WRITE of a part; the last part ends the page's writeback (nfs_writeback_done_partial())."""
        flush = self.flush
        data: NfsWriteData = task.tk_calldata
        status = flush.nfs_writeback_done(task, data)
        if status == -EAGAIN:
            return
        req = data.reqs[0]
        if status:
            flush.stats.write_errors += 1
            flush.nfs_set_pageerror(req, status)
        elif task.tk_result.committed != NFS_FILE_SYNC:
            self._defer_commit(req, task.tk_result.verf)
        req.wb_complete -= 1
        if not req.wb_complete:
            self._nfs_writepage_release(req)

    def _defer_commit(self, req: NfsPage, verf: bytes) -> None:
        """Note that a part needs a COMMIT; if the server was started again since another part, all of the page goes once more."""
        if req.wb_flags & PG_NEED_RESCHED:
            return
        if not req.wb_flags & PG_NEED_COMMIT:
            req.wb_flags |= PG_NEED_COMMIT
            req.wb_verf = verf
        elif req.wb_verf != verf:
            req.wb_flags = req.wb_flags & ~PG_NEED_COMMIT | PG_NEED_RESCHED

    def _nfs_writepage_release(self, req: NfsPage) -> None:
        """Decide what becomes of a page whose parts are all answered (nfs_writepage_release(), nfs_reschedule_unstable_write())."""
        flush = self.flush
        flags = req.wb_flags
        req.wb_flags = 0
        page = req.wb_page
        del flush.io[page]
        if not page.flags & PG_error and flags:
            if flags & PG_NEED_COMMIT:
                flush.commit.nfs_mark_request_commit(req)
            else:
                flush.stats.rewrites += 1
                flush.commit.nfs_mark_request_dirty(req)
            flush.nfs_end_page_writeback(req)
        else:
            flush.nfs_end_page_writeback(req)
            flush.inodes.nfs_inode_remove_request(req)
            flush.pagelist.nfs_release_request(req)
        flush.pagelist.nfs_unlock_request(req)

    def rpc_release(self, task: RpcTask) -> None:
        """Free the call."""
        self.flush.rpc_release(task)


def _without(pages: list[tuple[Page, int, int]], count: int) -> list[tuple[Page, int, int]]:
    """Leave the first ``count`` bytes of some pages out."""
    rest = []
    for page, offset, size in pages:
        if count < size:
            rest.append((page, offset + count, size - count))
            count = 0
        else:
            count -= size
    return rest
