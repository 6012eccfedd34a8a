"""Removing files that are open (2.6.23 fs/nfs/unlink.c, dir.c: silly renames).

Interface
    * :class:`Unlinker`: ``nfs_sillyrename(folder, name, nfsi)``; ``nfs_complete_unlink(nfsi)`` when the last opening goes;
      ``wait()`` until all removals are answered.

Rules of this file
    * The server knows no openings: a file that is removed while we have it open would be gone (ESTALE). So it gets another name,
      ``.nfs``, its fileid and a number, until the last opening goes; then that name is removed, by a call that nobody waits for.
    * The opening may go in a callback of an RPC. What the removal needs is therefore allocated when the file is renamed.
    * A client that dies between leaves the name behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.errors import KernelBug
from kemu.kernel.errno import EBUSY, EJUKEBOX, ENOENT, ENOMEM
from kemu.kernel.wait import WaitQueue
from kemu.mm.gfp import GFP_KERNEL
from kemu_nfs.nfs.nfs3proc import JUKEBOX_RETRY, Nfs3Calls
from kemu_nfs.nfs.nfs3xdr_names import PROC_LOOKUP, PROC_REMOVE, PROC_RENAME, diropargs
from kemu_nfs.sunrpc.rpc_task import CALL_START, RPC_TASK_ASYNC, RpcTask

if TYPE_CHECKING:
    from kemu_nfs.nfs.inode import NfsInode
    from kemu_nfs.nfs.nfs_client import NfsModule
    from kemu_nfs.sunrpc.auth import RpcCred

SIZEOF_UNLINKDATA: Final = 320  # the task, the arguments, the name


class SillyName:
    """``struct nfs_unlinkdata``: the name under which a removed file lives on, and who removed it."""

    __slots__ = ("addr", "cred", "folder", "name")

    def __init__(self, addr: int, folder: NfsInode, name: str, cred: RpcCred) -> None:
        self.addr = addr
        self.folder = folder
        self.name = name
        self.cred = cred


class Unlinker:
    """Names that are to be removed, of one mount."""

    def __init__(self, module: NfsModule, calls: Nfs3Calls) -> None:
        self.module = module
        self.sched = module.sched
        self.calls = calls
        self.counter = 0
        self.pending = 0
        self._queue = WaitQueue("nfs unlink")

    def nfs_sillyrename(self, folder: NfsInode, name: str, nfsi: NfsInode) -> int:
        """Give a file that is open another name instead of removing it: 0 or -errno (nfs_sillyrename())."""
        if nfsi.silly is not None:
            return -EBUSY  # it has its other name already
        current = self.sched.current
        addr = self.module.slub.kmalloc(SIZEOF_UNLINKDATA, GFP_KERNEL)
        if addr is None:
            return -ENOMEM
        cred = nfsi.server.auth.lookup_cred(current.uid, current.gid)
        if cred is None:
            self.module.slub.kfree(addr)
            return -ENOMEM
        silly = SillyName(addr, folder, "", cred)
        error = self._rename(folder, name, nfsi, silly)
        if error:
            self._free(nfsi, silly)
            return error
        nfsi.silly = silly
        return 0

    def _rename(self, folder: NfsInode, name: str, nfsi: NfsInode, silly: SillyName) -> int:
        """Find a name that is free, and rename."""
        while True:
            self.counter += 1
            silly.name = f".nfs{nfsi.inode.ino:016x}{self.counter & 0xFFFFFFFF:08x}"
            found = self.calls.call(PROC_LOOKUP, diropargs(folder.fh_wire, silly.name))
            if found == -ENOENT:
                break
            if isinstance(found, int):
                return found
        result = self.calls.call(PROC_RENAME, diropargs(folder.fh_wire, name, diropargs(folder.fh_wire, silly.name)))
        return result if isinstance(result, int) else 0

    def nfs_complete_unlink(self, nfsi: NfsInode) -> None:
        """Remove the other name: the last opening is gone (nfs_complete_unlink())."""
        silly = nfsi.silly
        if silly is None:
            raise KernelBug("nfs_complete_unlink() of a file that was not renamed", state=nfsi)
        client = nfsi.server.client
        args = diropargs(silly.folder.fh_wire, silly.name)
        self.pending += 1
        client.rpc.rpc_execute(client.rpc_init_task(RPC_TASK_ASYNC, PROC_REMOVE, args, silly.cred, self, nfsi))

    def rpc_call_done(self, task: RpcTask) -> None:
        """Ask again if the server is busy; whatever else it says is the end (nfs_async_unlink_done())."""
        if task.tk_status >= 0 and task.tk_result.status == -EJUKEBOX:
            task.tk_action = CALL_START
            task.tk_client.rpc.rpc_delay(task, JUKEBOX_RETRY)

    def rpc_release(self, task: RpcTask) -> None:
        """Free what was kept for the call (nfs_async_unlink_release())."""
        nfsi: NfsInode = task.tk_calldata
        silly = nfsi.silly
        assert silly is not None
        nfsi.silly = None
        self._free(nfsi, silly)
        self.pending -= 1
        if not self.pending:
            self.sched.wake_up_all(self._queue)

    def _free(self, nfsi: NfsInode, silly: SillyName) -> None:
        nfsi.server.auth.put_rpccred(silly.cred)
        self.module.slub.kfree(silly.addr)

    def wait(self) -> None:
        """Sleep until the server has answered all removals."""
        self.sched.wait_event(self._queue, lambda: not self.pending, ("sleep", None))
