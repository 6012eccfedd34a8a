"""Reading pages from the server (2.6.23 fs/nfs/read.c; patches 27, 28).

Interface
    * :class:`NfsRead`: ``nfs_readpage`` (the address space's method).

Rules of this file
    * One READ per page: ->readpage gathers nothing. What is still to be written of the page goes out first, else the server would
      answer with old bytes.
    * Beyond the end of the file a page is zeros without a call; the last page is read as far as the file goes.
    * A page that could not be read is unlocked without PG_uptodate; whoever faulted on it gets SIGBUS.
    * Left out: readpages, several READs at once for one page (rsize < 4096 asks for the pieces one after the other).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu.kernel.errno import EBADF, EIO, EJUKEBOX, ENOMEM
from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE
from kemu.mm.page import ZERO_PAGE, Page, PG_error, PG_uptodate
from kemu_nfs.nfs.inode import FMODE_READ, NfsInode, NfsInodes, NfsOpenContext
from kemu_nfs.nfs.nfs3xdr import PROC_READ, Nfs3Result, ReadArgs
from kemu_nfs.nfs.nfs_client import NfsModule
from kemu_nfs.nfs.pagelist import NfsPage, NfsPagelist
from kemu_nfs.nfs.write import NFS_JUKEBOX_RETRY_TIME, NfsWrite
from kemu_nfs.sunrpc.rpc_task import CALL_START, RPC_TASK_ASYNC, RpcTask

if TYPE_CHECKING:
    from kemu.mm.address_space import File


class NfsReadData:
    """``struct nfs_read_data``: one READ call and the request that it is for."""

    __slots__ = ("addr", "args", "nfsi", "parts", "req", "total")

    def __init__(self, addr: int, nfsi: NfsInode, req: NfsPage, args: ReadArgs, total: int) -> None:
        self.addr = addr
        self.nfsi = nfsi
        self.req = req
        self.args = args
        self.total = total
        self.parts: list[bytes] = []


class NfsRead:
    """The reading half of the client."""

    def __init__(self, module: NfsModule, inodes: NfsInodes, pagelist: NfsPagelist, write: NfsWrite) -> None:
        self.module = module
        self.sched = module.sched
        self.filemap = module.filemap
        self.stats = module.stats
        self.inodes = inodes
        self.pagelist = pagelist
        self.write = write
        self.io = module.io

    def nfs_readpage(self, file: File | None, page: Page) -> int:
        """Start reading a locked page; it is unlocked when its contents are there, or at once on an error (nfs_readpage())."""
        self.sched.spend(costs.NFS_REQUEST)
        inodes = self.inodes
        inode = inodes.page_mapping(page).host
        assert inode is not None
        nfsi: NfsInode = inode.private
        error = self.write.nfs_wb_page(nfsi, page)
        if not error:
            ctx: NfsOpenContext | None
            if file is None:
                ctx = inodes.nfs_find_open_context(nfsi, None, FMODE_READ)
            else:
                ctx = file.private_data
                assert ctx is not None
                ctx.count += 1
            if ctx is None:
                error = -EBADF
            else:
                error = self._nfs_readpage_async(ctx, nfsi, page)
                inodes.put_nfs_open_context(ctx)
                return error
        self.filemap.unlock_page(page)
        return error

    def _nfs_readpage_async(self, ctx: NfsOpenContext, nfsi: NfsInode, page: Page) -> int:
        """Ask for the page (nfs_readpage_async(), nfs_pagein_one())."""
        length = self.inodes.nfs_page_length(page)
        if not length:
            page.contents = ZERO_PAGE
            page.flags |= PG_uptodate
            self.filemap.unlock_page(page)
            return 0
        req = self.pagelist.nfs_create_request(ctx, nfsi, page, 0, length)
        req.wb_busy = True
        addr = self.module.readdata_alloc()
        if addr is None:
            self.pagelist.nfs_unlock_request(req)
            page.flags |= PG_error
            self.filemap.unlock_page(page)
            return -ENOMEM
        server = nfsi.server
        args = ReadArgs(nfsi.fh_wire, req.wb_index << PAGE_SHIFT, min(length, server.rsize))
        data = NfsReadData(addr, nfsi, req, args, length)
        task = server.client.rpc_init_task(RPC_TASK_ASYNC, PROC_READ, args, ctx.cred, self, data)
        req.wb_task = task
        self.io[page] = task
        self.stats.reads += 1
        self.stats.reads_outstanding += 1
        server.client.rpc.rpc_execute(task)
        return 0

    def rpc_call_done(self, task: RpcTask) -> None:
        """Fill the page, or ask for the rest (nfs_readpage_result(), nfs_readpage_retry())."""
        data: NfsReadData = task.tk_calldata
        if task.tk_status < 0:
            self.stats.read_errors += 1
            return
        result: Nfs3Result = task.tk_result
        if result.status == -EJUKEBOX:
            self.stats.jukebox += 1
            task.tk_action = CALL_START
            task.tk_client.rpc.rpc_delay(task, NFS_JUKEBOX_RETRY_TIME)
            return
        self.inodes.nfs_refresh_inode(data.nfsi, result)
        if result.status:
            task.tk_status = result.status
            self.stats.read_errors += 1
            return
        page = data.req.wb_page
        if result.count == PAGE_SIZE:
            page.contents = result.data
        else:
            data.parts.append(result.data)
            data.total -= result.count
            if data.total and not result.eof:
                if not result.count:
                    task.tk_status = -EIO
                    self.stats.read_errors += 1
                    return
                data.args.offset += result.count
                data.args.count = min(data.total, data.nfsi.server.rsize)
                task.tk_action = CALL_START
                return
            page.contents = b"".join(data.parts).ljust(PAGE_SIZE, b"\0")
        page.flags |= PG_uptodate

    def rpc_release(self, task: RpcTask) -> None:
        """Unlock the page and free the call (nfs_readpage_release(), nfs_readdata_release())."""
        data: NfsReadData = task.tk_calldata
        page = data.req.wb_page
        self.io.pop(page, None)
        self.stats.reads_outstanding -= 1
        self.filemap.unlock_page(page)
        self.pagelist.nfs_unlock_request(data.req)
        self.module.readdata_free(data.addr)
