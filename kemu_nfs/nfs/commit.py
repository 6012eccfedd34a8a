"""Unstable writes and COMMIT (2.6.23-mm1 fs/nfs/write.c, fs/nfs/inode.c: nfs_write_inode()).

Interface
    * :class:`NfsCommit`: ``nfs_mark_request_commit``, ``nfs_mark_request_dirty``, ``nfs_scan_commit``, ``nfs_commit_list``,
      ``nfs_commit_inode``, ``nfs_cancel_commit_list``, ``nfs_write_inode`` (the super block's method).

Rules of this file
    * A server may answer a WRITE from its memory (UNSTABLE). The request stays in the tree, tagged, until a COMMIT has brought the
      bytes to the server's disk; its page is clean, but cannot be freed, and counts as unstable.
    * Every answer carries the server's verifier, which changes when the server starts again. A COMMIT whose verifier is not that of
      the WRITE says that the bytes may be gone: the page is dirty again and is written once more.
    * ``ncommit`` counts what waits; who scans takes the requests over, locked. The unstable counters go down when the COMMIT is
      over.
    * A COMMIT is always for the whole file.
    * Writes of reclaim are stable: no swap page comes here, unless a server breaks the protocol.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from kemu.errors import KernelBug
from kemu.kernel.errno import EAGAIN, EJUKEBOX, ENOMEM
from kemu.kernel.timer import HZ
from kemu.lib.radix_tree import MAX_INDEX
from kemu.mm.address_space import I_DIRTY_DATASYNC
from kemu.mm.page import PG_reclaim, PG_swapcache
from kemu_nfs.nfs.inode import NFS_PAGE_TAG_COMMIT
from kemu_nfs.nfs.nfs3xdr import PROC_COMMIT
from kemu_nfs.nfs.pagelist import PG_NEED_COMMIT
from kemu_nfs.sunrpc.rpc_task import (
    CALL_START,
    RPC_PRIORITY_HIGH,
    RPC_PRIORITY_LOW,
    RPC_PRIORITY_NORMAL,
    RPC_TASK_ASYNC,
    RpcTask,
)

if TYPE_CHECKING:
    from kemu.mm.address_space import Inode
    from kemu.mm.page import Page
    from kemu_nfs.nfs.inode import NfsInode, NfsInodes, NfsOpenContext
    from kemu_nfs.nfs.nfs_client import NfsModule
    from kemu_nfs.nfs.pagelist import NfsPage, NfsPagelist

FLUSH_SYNC: Final = 1  # how to write: the caller waits for the call,
FLUSH_STABLE: Final = 4  # the answer must mean stable storage,
FLUSH_LOWPRI: Final = 8  # others first,
FLUSH_HIGHPRI: Final = 16  # before others,
FLUSH_NOCOMMIT: Final = 32  # no COMMIT,
FLUSH_INVALIDATE: Final = 64  # what waits for a COMMIT is not wanted any more

NFS_JUKEBOX_RETRY_TIME: Final = 5 * HZ
MAX_PAGE_INDEX: Final = MAX_INDEX  # ULONG_MAX: to the end of the file

_WHOLE_FILE: Final = struct.pack("!QI", 0, 0)


def flush_task_priority(how: int) -> int:
    """Return the RPC priority of a FLUSH_* (flush_task_priority())."""
    if how & FLUSH_HIGHPRI:
        return RPC_PRIORITY_HIGH
    return RPC_PRIORITY_LOW if how & FLUSH_LOWPRI else RPC_PRIORITY_NORMAL


def nfs_async_handle_jukebox(task: RpcTask) -> None:
    """Ask again in a while: the server fetches the file from afar (nfs3_async_handle_jukebox())."""
    task.tk_action = CALL_START
    task.tk_client.rpc.rpc_delay(task, NFS_JUKEBOX_RETRY_TIME)


class NfsCommitData:
    """``struct nfs_write_data`` of a COMMIT: the requests that it is for."""

    __slots__ = ("addr", "nfsi", "reqs")

    def __init__(self, addr: int, nfsi: NfsInode, reqs: list[NfsPage]) -> None:
        self.addr = addr
        self.nfsi = nfsi
        self.reqs = reqs


class NfsCommit:
    """What becomes of requests when the server has their bytes, or has lost them."""

    def __init__(self, module: NfsModule, inodes: NfsInodes, pagelist: NfsPagelist) -> None:
        self.module = module
        self.kernel = module.kernel
        self.patched = module.patched
        self.fixed = module.fixed
        self.filemap = module.filemap
        self.vmstat = module.filemap.vmstat
        self.stats = module.stats
        self.inodes = inodes
        self.pagelist = pagelist

    # -- marks -----------------------------------------------------------------------------------------------------------------

    def nfs_mark_request_commit(self, req: NfsPage) -> None:
        """Let a locked request wait for a COMMIT (nfs_mark_request_commit())."""
        nfsi = req.wb_context.nfsi
        nfsi.ncommit += 1
        req.wb_flags |= PG_NEED_COMMIT
        nfsi.nfs_page_tree.tag_set(req.wb_index, NFS_PAGE_TAG_COMMIT)
        self.vmstat.nr_unstable += 1
        nfsi.server.unstable += 1
        self._mark_inode_dirty(nfsi.inode)

    def _mark_inode_dirty(self, inode: Inode) -> None:
        """See that somebody writes the inode, and so commits."""
        if self.filemap.mark_inode_dirty is not None:
            self.filemap.mark_inode_dirty(inode, I_DIRTY_DATASYNC)

    def _nfs_clear_request_commit(self, req: NfsPage) -> None:
        """Count a request off that waits no more (nfs_clear_request_commit())."""
        if req.wb_flags & PG_NEED_COMMIT:
            req.wb_flags &= ~PG_NEED_COMMIT
            self.vmstat.nr_unstable -= 1
            req.wb_context.nfsi.server.unstable -= 1

    def nfs_mark_request_dirty(self, req: NfsPage) -> None:
        """Keep a page for later whose bytes the server does not have (nfs_mark_request_dirty()); the caller unlocks the request.

        The request stays, with a reference of the page. Reclaim expects that of a page with PG_private, and patch 29 sets none on
        swap pages: v14's page is not lost, but never written again either. Mended with b30c, the request goes.
        """
        page = req.wb_page
        self.filemap.set_page_dirty_nobuffers(page)
        if self.patched.nfs_swap_writepage and page.flags & PG_swapcache:  # [p30]
            if self.fixed.b30c:  # [b30c]
                self.inodes.nfs_inode_remove_request(req)
                self.pagelist.nfs_release_request(req)

    def redirty_swap_page(self, page: Page, error: int) -> None:
        """Keep a page whose write failed from being taken for clean (as swap_writepage() does since 3.6)."""
        self.filemap.set_page_dirty_nobuffers(page)
        page.flags &= ~PG_reclaim
        self.kernel.printk.ratelimited("swap write", f"Write error {error} on swapfile (page {page.pfn:#x})", "err")

    def nfs_context_set_write_error(self, ctx: NfsOpenContext, error: int) -> None:
        """Remember an error for the opening's next fsync or close (nfs_context_set_write_error())."""
        ctx.error = error

    # -- COMMIT ----------------------------------------------------------------------------------------------------------------

    def nfs_scan_commit(self, nfsi: NfsInode, first: int, last: int) -> list[NfsPage]:
        """Lock the requests from page ``first`` to ``last`` that wait for a COMMIT, and take them over (nfs_scan_commit())."""
        if not nfsi.ncommit:
            return []
        tree = nfsi.nfs_page_tree
        found: list[NfsPage] = []
        for index, req in tree.items(first, NFS_PAGE_TAG_COMMIT):
            if index > last:
                break
            if self.pagelist.nfs_lock_request_dontget(req):
                req.wb_count += 1
                found.append(req)
        for req in found:
            tree.tag_clear(req.wb_index, NFS_PAGE_TAG_COMMIT)
        nfsi.ncommit -= len(found)
        return found

    def nfs_commit_list(self, nfsi: NfsInode, reqs: list[NfsPage], how: int) -> int:
        """Send a COMMIT for requests that were scanned (nfs_commit_list()); without memory they go on waiting: 0 or -ENOMEM."""
        addr = self.module.commit_alloc()
        if addr is None:
            for req in reqs:
                self._nfs_clear_request_commit(req)
                self.nfs_mark_request_commit(req)
                self.pagelist.nfs_unlock_request(req)
            return -ENOMEM
        client = nfsi.server.client
        data = NfsCommitData(addr, nfsi, reqs)
        flags = 0 if how & FLUSH_SYNC else RPC_TASK_ASYNC
        task = client.rpc_init_task(flags, PROC_COMMIT, nfsi.fh_wire + _WHOLE_FILE, reqs[0].wb_context.cred, self, data)
        task.tk_priority = flush_task_priority(how)
        for req in reqs:
            req.wb_task = task
        self.stats.commits += 1
        self.stats.commits_outstanding += 1
        client.rpc.rpc_execute(task)
        return 0

    def nfs_commit_inode(self, nfsi: NfsInode, how: int) -> int:
        """Commit all of a file (nfs_commit_inode()): how many requests, or -errno."""
        reqs = self.nfs_scan_commit(nfsi, 0, MAX_PAGE_INDEX)
        if not reqs:
            return 0
        return self.nfs_commit_list(nfsi, reqs, how) or len(reqs)

    def nfs_cancel_commit_list(self, reqs: list[NfsPage]) -> None:
        """Drop requests that were scanned: nobody wants their bytes any more (nfs_cancel_commit_list())."""
        for req in reqs:
            self._nfs_clear_request_commit(req)
            self._remove(req)

    def _remove(self, req: NfsPage) -> None:
        """Take a locked request out of the tree and unlock it."""
        self.inodes.nfs_inode_remove_request(req)
        self.pagelist.nfs_release_request(req)
        self.pagelist.nfs_unlock_request(req)

    def nfs_write_inode(self, inode: Inode, wait: bool) -> int:
        """Commit a file for who writes inodes (nfs_write_inode()): who syncs waits first for the WRITEs under way, and then."""
        nfsi: NfsInode = inode.private
        if wait:
            error = self.module.file_io.write_pages.filemap_fdatawait(nfsi.mapping)
            error = error or self.nfs_commit_inode(nfsi, FLUSH_SYNC)
        else:
            error = self.nfs_commit_inode(nfsi, 0)
        if error >= 0:
            return 0
        self._mark_inode_dirty(inode)
        return error

    # -- answers ---------------------------------------------------------------------------------------------------------------

    def rpc_call_done(self, task: RpcTask) -> None:
        """Look at the end of a COMMIT (nfs_commit_done())."""
        data: NfsCommitData = task.tk_calldata
        status = self._status(task, data.nfsi)
        if status == -EAGAIN:
            return
        verf = task.tk_result.verf if not status else b""
        if status:
            self.stats.write_errors += 1
        for req in data.reqs:
            self._nfs_clear_request_commit(req)
            if status:
                self.nfs_context_set_write_error(req.wb_context, status)
                self._remove(req)
            elif req.wb_verf == verf:
                self._remove(req)
            else:
                # the server was started again, and may have lost what it had not committed
                self.stats.rewrites += 1
                self.nfs_mark_request_dirty(req)
                self.pagelist.nfs_unlock_request(req)

    def _status(self, task: RpcTask, nfsi: NfsInode) -> int:
        """Judge the answer: 0, -errno, or -EAGAIN when the call starts again."""
        if task.tk_status < 0:
            return task.tk_status
        result: Any = task.tk_result
        if result.status == -EJUKEBOX:
            self.stats.jukebox += 1
            nfs_async_handle_jukebox(task)
            return -EAGAIN
        self.inodes.nfs_refresh_inode(nfsi, result, task.tk_start)
        status: int = result.status
        return status

    def rpc_release(self, task: RpcTask) -> None:
        """Free the call (nfs_commit_release())."""
        self.stats.commits_outstanding -= 1
        self.module.commit_free(task.tk_calldata.addr)

    def check(self, nfsi: NfsInode) -> None:
        """Assert that a file's requests do not claim more unstable pages than are counted."""
        unstable = sum(bool(req.wb_flags & PG_NEED_COMMIT) for _, req in nfsi.nfs_page_tree.items())
        if not nfsi.ncommit <= unstable <= nfsi.server.unstable <= self.vmstat.nr_unstable:
            raise KernelBug(
                f"of {self.vmstat.nr_unstable} unstable pages {nfsi.server.unstable} are of this mount, {unstable} of this file, "
                f"and {nfsi.ncommit} of these wait",
                state=nfsi,
            )
