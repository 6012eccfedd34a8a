"""Requests for parts of pages, and gathering them into calls (2.6.23 fs/nfs/pagelist.c).

Interface
    * :class:`NfsPage`, ``struct nfs_page``; :class:`NfsPageio`, ``struct nfs_pageio_descriptor``.
    * :class:`NfsPagelist`: ``nfs_create_request``, ``nfs_lock_request_dontget``, ``nfs_unlock_request``, ``nfs_release_request``,
      ``nfs_wait_on_request``; ``nfs_pageio_add_request``, ``nfs_pageio_cond_complete``, ``nfs_pageio_complete``.

Rules of this file
    * References of a request: 1 from its birth, given up by nfs_unlock_request(); 1 while it is in the inode's tree; 1 from each
      find. The last one gives back the page's reference and the open context's.
    * nfs_create_request() never fails for want of memory: it lets others run and tries again. Patch 32 keeps its reclaim from
      starting I/O: GFP_KERNEL there may come back into nfs_writepage() on the same stack.
    * Requests of neighbouring pages of one opening are gathered up to wsize; reclaim hands in one page at a time. With wsize below
      a page nothing is gathered: one request may need several calls.
    * The kernel tags busy requests in the tree (NFS_PAGE_TAG_LOCKED), so that a scan finds them. A scan here looks at ``wb_busy``
      itself, which spares two walks down the tree for every page. The other tag, for COMMIT, is real.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from kemu.errors import KernelBug
from kemu.kernel.wait import WaitQueue
from kemu.mm.gfp import GFP_KERNEL, GFP_NOIO, PAGE_SIZE
from kemu.mm.page import Page
from kemu_nfs.nfs.inode import NfsInode, NfsInodes, NfsOpenContext

if TYPE_CHECKING:
    from kemu_nfs.nfs.nfs_client import NfsModule
    from kemu_nfs.sunrpc.rpc_task import RpcTask


PG_NEED_COMMIT: Final = 1 << 1  # req.wb_flags: the server has the bytes, but not on stable storage
PG_NEED_RESCHED: Final = 1 << 2  # the server was restarted between two WRITEs of one page: send all of it again


class NfsPage:
    """``struct nfs_page``: ``wb_bytes`` bytes at ``wb_offset`` of page ``wb_index`` of a file.

    :ivar addr: its slab object.
    :ivar wb_busy: PG_BUSY: somebody works on it.
    :ivar wb_flags: PG_NEED_*.
    :ivar wb_verf: the verifier of the WRITE that is to be committed.
    :ivar wb_complete: WRITEs of this request that are still under way, where it needs more than one.
    :ivar wb_task: the call that carries it.
    """

    __slots__ = (
        "addr",
        "wb_busy",
        "wb_bytes",
        "wb_complete",
        "wb_context",
        "wb_count",
        "wb_flags",
        "wb_index",
        "wb_offset",
        "wb_page",
        "wb_task",
        "wb_verf",
        "wb_wait",
    )

    def __init__(self, addr: int, ctx: NfsOpenContext, page: Page, index: int, offset: int, count: int) -> None:
        self.addr = addr
        self.wb_context = ctx
        self.wb_page = page
        self.wb_index = index
        self.wb_offset = offset
        self.wb_bytes = count
        self.wb_count = 1
        self.wb_busy = False
        self.wb_flags = 0
        self.wb_verf: bytes  # these two are unset until they mean something: most requests never use them
        self.wb_complete: int
        self.wb_wait: WaitQueue | None = None
        self.wb_task: RpcTask | None = None

    def __repr__(self) -> str:
        """Show the request."""
        busy = " busy" if self.wb_busy else ""
        busy += " needs COMMIT" if self.wb_flags & PG_NEED_COMMIT else ""
        return f"<nfs_page {self.addr:#x} index={self.wb_index} [{self.wb_offset}+{self.wb_bytes}] count={self.wb_count}{busy}>"


class NfsPageio:
    """``struct nfs_pageio_descriptor``: requests that are gathered for one call."""

    __slots__ = ("doio", "how", "nfsi", "pg_bsize", "pg_count", "pg_error", "pg_list")

    def __init__(self, nfsi: NfsInode, doio: Callable[[NfsPageio], int], bsize: int, how: int) -> None:
        self.nfsi = nfsi
        self.doio = doio
        self.pg_bsize = bsize
        self.how = how
        self.pg_list: list[NfsPage] = []
        self.pg_count = 0
        self.pg_error = 0


class NfsPagelist:
    """What is done with requests."""

    def __init__(self, module: NfsModule, inodes: NfsInodes) -> None:
        self.module = module
        self.inodes = inodes
        self.patched = module.patched
        self.sched = module.sched
        self.slub = module.slub
        self.cache = module.page_cache
        self.put_page = module.page_alloc.put_page
        module.kernel.judge.explainers["nfs_page"] = _explain

    # -- one request -----------------------------------------------------------------------------------------------------------

    def nfs_page_alloc(self) -> int | None:
        """Allocate a struct nfs_page (nfs_page_alloc())."""
        gfp = GFP_NOIO if self.patched.nfs_noio else GFP_KERNEL  # [p32]
        return self.slub.kmem_cache_alloc(self.cache, gfp)

    def nfs_create_request(self, ctx: NfsOpenContext, nfsi: NfsInode, page: Page, offset: int, count: int) -> NfsPage:
        """Make a request for a part of a page (nfs_create_request()); takes a reference of the page and one of the context."""
        while (addr := self.nfs_page_alloc()) is None:
            self.sched.yield_()
        inodes = self.inodes
        if inodes.page_mapping(page).host is not nfsi.inode:
            raise KernelBug("kernel BUG: nfs_create_request() for a page of another file", state=page)
        page.count += 1
        ctx.count += 1
        return NfsPage(addr, ctx, page, inodes.page_index(page), offset, count)

    def nfs_release_request(self, req: NfsPage) -> None:
        """Drop a reference; the last one frees (nfs_release_request(), nfs_free_request())."""
        req.wb_count -= 1
        if req.wb_count:
            return
        if req.wb_busy:
            raise KernelBug("a request that is worked on is freed", state=req)
        self.put_page(req.wb_page)
        self.inodes.put_nfs_open_context(req.wb_context)
        self.slub.kmem_cache_free(self.cache, req.addr)

    def nfs_lock_request_dontget(self, req: NfsPage) -> bool:
        """Begin to work on a request unless somebody does (nfs_lock_request_dontget())."""
        if req.wb_busy:
            return False
        req.wb_busy = True
        return True

    def nfs_unlock_request(self, req: NfsPage) -> None:
        """End work on a request and drop a reference (nfs_unlock_request())."""
        if not req.wb_busy:
            raise KernelBug("NFS: invalid unlock attempted", state=req)
        req.wb_busy = False
        req.wb_task = None
        if req.wb_wait is not None:
            self.sched.wake_up_all(req.wb_wait)
        self.nfs_release_request(req)

    def nfs_wait_on_request(self, req: NfsPage) -> int:
        """Sleep while somebody works on a request (nfs_wait_on_request()); the caller holds a reference."""
        if req.wb_busy:
            if req.wb_wait is None:
                req.wb_wait = WaitQueue("nfs_page")
            self.sched.wait_event(req.wb_wait, lambda: not req.wb_busy, ("nfs_page", req))
        return 0

    # -- gathering -------------------------------------------------------------------------------------------------------------

    def nfs_pageio_add_request(self, desc: NfsPageio, req: NfsPage) -> bool:
        """Add a request to the gathered ones; what does not fit sends them first (nfs_pageio_add_request()).

        False says that this failed and the request is still the caller's.
        """
        while desc.pg_list and not self._can_coalesce(desc, req):
            self.nfs_pageio_complete(desc)
            if desc.pg_error < 0:
                return False
        desc.pg_list.append(req)
        desc.pg_count += req.wb_bytes
        return True

    def _can_coalesce(self, desc: NfsPageio, req: NfsPage) -> bool:
        """Tell whether a request continues the gathered ones (nfs_can_coalesce_requests(), nfs_pageio_do_add_request())."""
        prev = desc.pg_list[-1]
        return (
            desc.pg_bsize >= PAGE_SIZE
            and desc.pg_count + req.wb_bytes <= desc.pg_bsize
            and req.wb_context is prev.wb_context
            and req.wb_index == prev.wb_index + 1
            and not req.wb_offset
            and prev.wb_offset + prev.wb_bytes == PAGE_SIZE
        )

    def nfs_pageio_complete(self, desc: NfsPageio) -> None:
        """Send what is gathered (nfs_pageio_complete(), nfs_pageio_doio())."""
        if desc.pg_list:
            error = desc.doio(desc)
            if error < 0:
                desc.pg_error = error
            desc.pg_list = []
            desc.pg_count = 0

    def nfs_pageio_cond_complete(self, desc: NfsPageio, index: int) -> None:
        """Send what is gathered if page ``index`` does not continue it (nfs_pageio_cond_complete())."""
        if desc.pg_list and index != desc.pg_list[-1].wb_index + 1:
            self.nfs_pageio_complete(desc)


def _explain(req: NfsPage) -> tuple[str, tuple[str, Any] | None]:
    """Say what a request that is worked on waits for."""
    return f"waits for {req!r}", None if req.wb_task is None else ("rpc", req.wb_task)
