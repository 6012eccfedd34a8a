"""Calling the server as the running task (2.6.23 fs/nfs/nfs3proc.c: nfs3_rpc_wrapper()).

Interface: :class:`Nfs3Calls`: ``call(proc, args)`` and ``call_as(cred, proc, args)`` give the result, or -errno.

Rules of this file
    * call() goes out with the uid and gid of who runs; its credential is dropped when the reply is there. call_as() is for those
      who hold one: an open file's.
    * JUKEBOX: the server fetches the file from afar. We ask again every five seconds, as often as it takes.
    * Left out: signals that end the wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.kernel.errno import EJUKEBOX, ENOMEM
from kemu.kernel.timer import HZ

if TYPE_CHECKING:
    from kemu_nfs.nfs.nfs3xdr import Nfs3Result
    from kemu_nfs.nfs.nfs_client import NfsModule, NfsServer
    from kemu_nfs.sunrpc.auth import RpcCred
    from kemu_nfs.sunrpc.rpc_task import RpcProc

JUKEBOX_RETRY: Final = 5 * HZ


class Nfs3Calls:
    """Calls to one server."""

    def __init__(self, module: NfsModule, server: NfsServer) -> None:
        self.sched = module.sched
        self.stats = module.stats
        self.server = server

    def call(self, proc: RpcProc, args: Any) -> Nfs3Result | int:
        """Call a procedure as the running task and wait: its result, or -errno."""
        current = self.sched.current
        auth = self.server.auth
        cred = auth.lookup_cred(current.uid, current.gid)
        if cred is None:
            return -ENOMEM
        result = self.call_as(cred, proc, args)
        auth.put_rpccred(cred)
        return result

    def call_as(self, cred: RpcCred, proc: RpcProc, args: Any) -> Nfs3Result | int:
        """Call a procedure with a credential that the caller holds, and wait: its result, or -errno."""
        while True:
            result: Nfs3Result | None
            status, result = self.server.client.rpc_call_sync(proc, args, cred)
            if result is None:
                return status
            if result.status != -EJUKEBOX:
                return result.status or result
            self.stats.jukebox += 1
            self.sched.schedule_timeout(JUKEBOX_RETRY, ("sleep", None))
