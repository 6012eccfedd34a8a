"""Openings of NFS files, and whose credentials they use (2.6.24 fs/nfs/inode.c: open contexts).

Interface
    * :class:`NfsOpenContext`. :class:`OpenContexts`, a part of NfsInodes: ``nfs_open``, ``nfs_release``, ``put_nfs_open_context``,
      ``nfs_find_open_context``.

Rules of this file
    * A context holds its opener's credential until its own last reference goes. Requests and READs hold references of their own:
      a file that is closed while they are under way stays open for them.
    * nfs_find_open_context() gives the context that was opened first; one whose file is closed goes to the end of the line.
    * ``error`` is what a write that nobody waited for met; close and fsync tell it once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.mm.gfp import GFP_KERNEL
from kemu_nfs.nfs.nfs_client import SIZEOF_OPEN_CONTEXT, NfsModule

if TYPE_CHECKING:
    from kemu_nfs.nfs.inode import NfsInode
    from kemu_nfs.nfs.unlink import Unlinker
    from kemu_nfs.sunrpc.auth import RpcCred

FMODE_READ: Final = 1
FMODE_WRITE: Final = 2


class NfsOpenContext:
    """``struct nfs_open_context``: one opening of a file, and whose credential it uses."""

    __slots__ = ("addr", "count", "cred", "error", "mode", "nfsi")

    def __init__(self, addr: int, nfsi: NfsInode, cred: RpcCred, mode: int) -> None:
        self.addr = addr
        self.nfsi = nfsi
        self.cred = cred
        self.mode = mode
        self.count = 1
        self.error = 0

    def __repr__(self) -> str:
        """Name the opener."""
        return f"<nfs_open_context of inode {self.nfsi.inode.ino} {self.cred!r} mode={self.mode} count={self.count}>"


class OpenContexts:
    """What is done with openings.

    :ivar unlinker: handed over: removes the other name of a file whose last opening goes; None: no file has one.
    """

    module: NfsModule
    unlinker: Unlinker | None = None

    def nfs_open(self, nfsi: NfsInode, uid: int, gid: int, mode: int) -> NfsOpenContext | None:
        """Make an open context with the opener's credential (nfs_open(), alloc_nfs_open_context()); None without memory."""
        auth = nfsi.server.auth
        cred = auth.lookup_cred(uid, gid)
        if cred is None:
            return None
        addr = self.module.slub.kmalloc(SIZEOF_OPEN_CONTEXT, GFP_KERNEL)
        if addr is None:
            auth.put_rpccred(cred)
            return None
        ctx = NfsOpenContext(addr, nfsi, cred, mode)
        nfsi.open_files.append(ctx)
        return ctx

    def nfs_release(self, ctx: NfsOpenContext) -> None:
        """Close: who looks for a context takes another first (nfs_release(), nfs_file_clear_open_context())."""
        open_files = ctx.nfsi.open_files
        open_files.remove(ctx)
        open_files.append(ctx)
        self.put_nfs_open_context(ctx)

    def put_nfs_open_context(self, ctx: NfsOpenContext) -> None:
        """Drop a reference; the last one closes (put_nfs_open_context())."""
        ctx.count -= 1
        if ctx.count:
            return
        nfsi = ctx.nfsi
        nfsi.open_files.remove(ctx)
        nfsi.server.auth.put_rpccred(ctx.cred)
        self.module.slub.kfree(ctx.addr)
        if nfsi.silly is not None and not nfsi.open_files and self.unlinker is not None:
            self.unlinker.nfs_complete_unlink(nfsi)

    def nfs_find_open_context(self, nfsi: NfsInode, cred: RpcCred | None, mode: int) -> NfsOpenContext | None:
        """Find an opening with this very credential, or any if None, and at least this mode; take a reference."""
        for ctx in nfsi.open_files:
            if (cred is None or ctx.cred is cred) and ctx.mode & mode == mode:
                ctx.count += 1
                return ctx
        return None
