"""Reading pages from the server (2.6.24 fs/nfs/read.c; patches 27, 28).

Interface
    * :class:`NfsRead`: ``nfs_readpage`` and ``nfs_readpages`` (the address space's methods).

Rules of this file
    * ->readpage gathers nothing: a swap-in is one READ a page. Readahead hands over many pages; neighbours share a READ of up to
      rsize bytes.
    * With an rsize below the page size one page is several READs, all under way at once (nfs_pagein_multi()). The page is whole
      when the last of them is; if one fails the page has PG_error and is not uptodate.
    * What is still to be written of the page goes out first, else the server would answer with old bytes.
    * Beyond the end of the file a page is zeros without a call; the last page is read as far as the file goes. A server whose file
      is shorter than we think says eof: the rest is zeros.
    * A short answer is no error: the rest is asked for. One without a byte and without eof is (-EIO): it would go on for ever.
    * A page that could not be read is unlocked without PG_uptodate; whoever faulted on it gets SIGBUS. Of a READ for several pages
      those that came whole are uptodate whatever becomes of the rest.
    * ESTALE makes the inode stale: later reads fail at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu.kernel.errno import EBADF, EIO, EJUKEBOX, ENOMEM, ESTALE
from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE
from kemu.mm.page import ZERO_PAGE, Page, PG_error, PG_uptodate
from kemu_nfs.nfs.nfs3xdr import PROC_READ, Nfs3Result, ReadArgs
from kemu_nfs.nfs.open_context import FMODE_READ, NfsOpenContext
from kemu_nfs.nfs.pagelist import NfsPage, NfsPageio, NfsPagelist
from kemu_nfs.nfs.write import NFS_JUKEBOX_RETRY_TIME, NfsWrite
from kemu_nfs.sunrpc.rpc_task import CALL_START, RPC_TASK_ASYNC, RpcTask

if TYPE_CHECKING:
    from kemu.mm.address_space import AddressSpace, File
    from kemu_nfs.nfs.inode import NfsInode, NfsInodes
    from kemu_nfs.nfs.nfs_client import NfsModule


class Pieces:
    """What several READs for one page share.

    :ivar left: those that are under way. :ivar parts: what has come, in the order of the page.
    """

    __slots__ = ("failed", "left", "parts")

    def __init__(self, count: int) -> None:
        self.left = count
        self.parts = [b""] * count
        self.failed = False


class NfsReadData:
    """``struct nfs_read_data``: one READ call and the requests that it is for.

    :ivar total: bytes that are wanted. :ivar parts: what has come of them.
    :ivar pieces: what is shared with the other READs of the same page, None if this one is for whole pages; ``number`` is ours.
    """

    __slots__ = ("addr", "args", "nfsi", "number", "parts", "pieces", "reqs", "total")

    def __init__(self, addr: int, nfsi: NfsInode, reqs: list[NfsPage], args: ReadArgs, total: int) -> None:
        self.addr = addr
        self.nfsi = nfsi
        self.reqs = reqs
        self.args = args
        self.total = total
        self.parts: list[bytes] = []
        self.pieces: Pieces | None = None
        self.number = 0


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

    # -- ->readpage and ->readpages --------------------------------------------------------------------------------------------

    def nfs_readpage(self, file: File | None, page: Page) -> int:
        """Start reading a locked page; it is unlocked when its contents are there, or at once on an error (nfs_readpage())."""
        self.sched.spend(costs.NFS_REQUEST)
        inode = self.inodes.page_mapping(page).host
        assert inode is not None
        nfsi: NfsInode = inode.private
        error = self.write.nfs_wb_page(nfsi, page)
        if not error and nfsi.stale:
            error = -ESTALE
        if not error:
            ctx = self._get_context(nfsi, file)
            if ctx is None:
                error = -EBADF
            else:
                error = self._nfs_readpage_async(ctx, nfsi, page)
                self.inodes.put_nfs_open_context(ctx)
                return error
        self.filemap.unlock_page(page)
        return error

    def _get_context(self, nfsi: NfsInode, file: File | None) -> NfsOpenContext | None:
        """Take a reference of the file's context, or of any that may read."""
        if file is None:
            return self.inodes.nfs_find_open_context(nfsi, None, FMODE_READ)
        ctx: NfsOpenContext = file.private_data
        ctx.count += 1
        return ctx

    def _nfs_readpage_async(self, ctx: NfsOpenContext, nfsi: NfsInode, page: Page) -> int:
        """Ask for one page (nfs_readpage_async())."""
        length = self.inodes.nfs_page_length(page)
        if not length:
            self._return_empty_page(page)
            return 0
        req = self.pagelist.nfs_create_request(ctx, nfsi, page, 0, length)
        req.wb_busy = True
        if length > nfsi.server.rsize:
            return self._pagein_multi(nfsi, req)
        return self._pagein_one(nfsi, [req], length)

    def _return_empty_page(self, page: Page) -> None:
        """Beyond the end of the file are zeros (nfs_return_empty_page())."""
        page.contents = ZERO_PAGE
        page.flags |= PG_uptodate
        self.filemap.unlock_page(page)

    def nfs_readpages(self, file: File | None, mapping: AddressSpace, pages: list[Page]) -> int:
        """Start reading locked pages of the page cache, neighbours together (nfs_readpages()); each is unlocked in the end."""
        assert mapping.host is not None
        nfsi: NfsInode = mapping.host.private
        ctx = None if nfsi.stale else self._get_context(nfsi, file)
        if ctx is None:
            for page in pages:
                self.filemap.unlock_page(page)
            return -ESTALE if nfsi.stale else -EBADF
        pgio = NfsPageio(nfsi, self._pagein, nfsi.server.rsize, 0)
        for page in pages:
            self._readpage_async_filler(ctx, pgio, page)
        self.pagelist.nfs_pageio_complete(pgio)
        self.inodes.put_nfs_open_context(ctx)
        return min(pgio.pg_error, 0)

    def _readpage_async_filler(self, ctx: NfsOpenContext, pgio: NfsPageio, page: Page) -> None:
        """Gather one page (readpage_async_filler())."""
        self.sched.spend(costs.NFS_REQUEST)
        error = self.write.nfs_wb_page(pgio.nfsi, page)
        if error or page.flags & PG_uptodate:
            self.filemap.unlock_page(page)
            return
        length = self.inodes.nfs_page_length(page)
        if not length:
            self._return_empty_page(page)
            return
        req = self.pagelist.nfs_create_request(ctx, pgio.nfsi, page, 0, length)
        req.wb_busy = True
        if not self.pagelist.nfs_pageio_add_request(pgio, req):
            self._async_read_error([req])

    # -- READ calls --------------------------------------------------------------------------------------------------------------

    def _pagein(self, desc: NfsPageio) -> int:
        """Send what is gathered."""
        if desc.pg_count > desc.pg_bsize:
            return self._pagein_multi(desc.nfsi, desc.pg_list[0])
        return self._pagein_one(desc.nfsi, desc.pg_list, desc.pg_count)

    def _pagein_one(self, nfsi: NfsInode, reqs: list[NfsPage], count: int) -> int:
        """Ask for neighbouring pages with one READ (nfs_pagein_one())."""
        addr = self.module.readdata_alloc()
        if addr is None:
            self._async_read_error(reqs)
            return -ENOMEM
        args = ReadArgs(nfsi.fh_wire, reqs[0].wb_index << PAGE_SHIFT, count)
        self._execute_read(NfsReadData(addr, nfsi, reqs, args, count))
        return 0

    def _pagein_multi(self, nfsi: NfsInode, req: NfsPage) -> int:
        """Ask for one page with several READs at once (nfs_pagein_multi()); without memory for all of them none is sent."""
        rsize = nfsi.server.rsize
        offset = req.wb_index << PAGE_SHIFT
        sizes = [min(rsize, req.wb_bytes - done) for done in range(0, req.wb_bytes, rsize)]
        pieces = Pieces(len(sizes))
        calls: list[NfsReadData] = []
        for number, size in enumerate(sizes):
            addr = self.module.readdata_alloc()
            if addr is None:
                for data in calls:
                    self.module.readdata_free(data.addr)
                self._async_read_error([req])
                return -ENOMEM
            data = NfsReadData(addr, nfsi, [req], ReadArgs(nfsi.fh_wire, offset + number * rsize, size), size)
            data.pieces = pieces
            data.number = number
            calls.append(data)
        req.wb_page.flags &= ~PG_error
        for data in calls:
            self._execute_read(data)
        return 0

    def _async_read_error(self, reqs: list[NfsPage]) -> None:
        """Give up pages whose READ cannot be made (nfs_async_read_error())."""
        for req in reqs:
            req.wb_page.flags |= PG_error
            self._readpage_release(req)

    def _execute_read(self, data: NfsReadData) -> None:
        """Start the call (nfs_read_rpcsetup(), nfs_execute_read())."""
        client = data.nfsi.server.client
        reqs = data.reqs
        task = client.rpc_init_task(RPC_TASK_ASYNC, PROC_READ, data.args, reqs[0].wb_context.cred, self, data)
        for req in reqs:
            req.wb_task = task
            self.io[req.wb_page] = task
        self.stats.reads += 1
        self.stats.reads_outstanding += 1
        client.rpc.rpc_execute(task)

    def rpc_call_done(self, task: RpcTask) -> None:
        """Take what has come, or ask for the rest (nfs_readpage_result(), nfs_readpage_retry())."""
        data: NfsReadData = task.tk_calldata
        if task.tk_status < 0:
            self._failed(data)
            return
        result: Nfs3Result = task.tk_result
        if result.status == -EJUKEBOX:
            self.stats.jukebox += 1
            task.tk_action = CALL_START
            task.tk_client.rpc.rpc_delay(task, NFS_JUKEBOX_RETRY_TIME)
            return
        self.inodes.nfs_refresh_inode(data.nfsi, result, task.tk_start)
        if result.status:
            if result.status == -ESTALE:
                self.inodes.nfs_mark_stale(data.nfsi)
            task.tk_status = result.status
            self._failed(data)
            return
        if result.count == PAGE_SIZE == data.total and not data.parts:
            page = data.reqs[0].wb_page
            page.contents = result.data
            page.flags |= PG_uptodate
            return
        data.parts.append(result.data)
        args = data.args
        if result.count < args.count and not result.eof:
            if not result.count:
                task.tk_status = -EIO
                self._failed(data)
                return
            args.offset += result.count
            args.count -= result.count
            task.tk_action = CALL_START
            return
        self._complete(data, b"".join(data.parts).ljust(data.total, b"\0"))

    def _complete(self, data: NfsReadData, payload: bytes) -> None:
        """Put bytes into their pages, or into the piece that they are."""
        pieces = data.pieces
        if pieces is not None:
            pieces.parts[data.number] = payload
            return
        for number, req in enumerate(data.reqs):
            page = req.wb_page
            page.contents = payload[number << PAGE_SHIFT : (number + 1) << PAGE_SHIFT].ljust(PAGE_SIZE, b"\0")
            page.flags |= PG_uptodate

    def _failed(self, data: NfsReadData) -> None:
        """Keep the pages that came whole before the rest could not be had (nfs_readpage_set_pages_uptodate())."""
        self.stats.read_errors += 1
        if data.pieces is not None:
            data.pieces.failed = True
            return
        payload = b"".join(data.parts)
        whole = len(payload) >> PAGE_SHIFT
        for number, req in enumerate(data.reqs[:whole]):
            req.wb_page.contents = payload[number << PAGE_SHIFT : (number + 1) << PAGE_SHIFT]
            req.wb_page.flags |= PG_uptodate

    def rpc_release(self, task: RpcTask) -> None:
        """Unlock the pages and free the call (nfs_readpage_release_full(), nfs_readpage_release_partial())."""
        data: NfsReadData = task.tk_calldata
        self.stats.reads_outstanding -= 1
        pieces = data.pieces
        if pieces is None:
            for req in data.reqs:
                self._readpage_release(req)
        else:
            pieces.left -= 1
            if not pieces.left:
                self._assemble(data.reqs[0], pieces)
        self.module.readdata_free(data.addr)

    def _assemble(self, req: NfsPage, pieces: Pieces) -> None:
        """Make a page of its pieces: the last READ for it has ended (nfs_readpage_result_partial())."""
        page = req.wb_page
        if pieces.failed:
            page.flags |= PG_error
        else:
            page.contents = b"".join(pieces.parts).ljust(PAGE_SIZE, b"\0")
            page.flags |= PG_uptodate
        self._readpage_release(req)

    def _readpage_release(self, req: NfsPage) -> None:
        """Unlock a page and let its request go (nfs_readpage_release())."""
        page = req.wb_page
        self.io.pop(page, None)
        self.filemap.unlock_page(page)
        self.pagelist.nfs_unlock_request(req)
