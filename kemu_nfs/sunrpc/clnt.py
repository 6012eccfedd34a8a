"""A program on a server, and calls of it (2.6.23 net/sunrpc/clnt.c).

Interface
    * :class:`RpcClnt`: one program on one transport. ``rpc_call_sync(proc, argp, cred)`` blocks; ``rpc_init_task()`` and
      RpcSched.rpc_execute() are for calls whose task is part of a caller's object; ``rpc_ping()`` asks for nothing, as nobody.
    * ``rpc_killall_tasks()`` ends its calls with -EIO; ``rpc_shutdown_client()`` also waits for them, and destroys the transport.

Rules of this file
    * What a call does step by step is in call_steps.py.
    * A soft client's calls end after a major timeout; a hard one's only with an answer, or killed.
    * Left out: clones of a client, signals (so intr says nothing).
"""

from __future__ import annotations

from typing import Any, Final

from kemu.kernel.errno import EIO, ENOMEM
from kemu.kernel.timer import HZ
from kemu.kernel.wait import WaitQueue
from kemu_nfs.sunrpc.auth import RpcCred
from kemu_nfs.sunrpc.call_steps import CallSteps
from kemu_nfs.sunrpc.rpc_sched import RpcSched
from kemu_nfs.sunrpc.rpc_task import (
    CALL_CONNECT_STATUS,
    RPC_TASK_DYNAMIC,
    RPC_TASK_KILLED,
    RPC_TASK_SOFT,
    RPC_TASK_SWAPPER,
    RpcCallOps,
    RpcProc,
    RpcTask,
)
from kemu_nfs.sunrpc.rpc_timer import RpcRtt
from kemu_nfs.sunrpc.xprt import Xprt


class _SyncOps:
    """A call whose caller waits: nothing to tell, nothing to free."""

    def rpc_call_done(self, task: RpcTask) -> None:
        """Do nothing: the caller looks at the task."""

    def rpc_release(self, task: RpcTask) -> None:
        """Do nothing."""


_SYNC_OPS: Final = _SyncOps()
_PING: Final = RpcProc("NULL", 0, lambda _args: (b"", None, b""), lambda _reply, _offset, _args: None)


class RpcClnt(CallSteps):
    """``struct rpc_clnt``: a program on a server.

    :param server: its name, for messages.
    :param soft: give up after a major timeout.
    :ivar cl_rtt: round trip times of its calls, for UDP.
    """

    def __init__(
        self, rpc: RpcSched, xprt: Xprt, prog: int, vers: int, server: str, *, protname: str = "nfs", soft: bool = False
    ) -> None:
        super().__init__(rpc, xprt, prog, vers, server, protname)
        self.soft = soft
        self.cl_rtt = RpcRtt(xprt.timeout.initval)
        self.destroy_wait = WaitQueue("rpc destroy")

    # -- calling ---------------------------------------------------------------------------------------------------------------

    def rpc_init_task(self, flags: int, proc: RpcProc, argp: Any, cred: RpcCred | None, ops: RpcCallOps, calldata: Any) -> RpcTask:
        """Make a task that is part of its caller's object (rpc_init_task()); patch 31's ``swapper`` marks all of a transport's."""
        if self.xprt.swapper:
            flags |= RPC_TASK_SWAPPER
        if self.soft:
            flags |= RPC_TASK_SOFT
        task = RpcTask(self.rpc.next_pid(), self, flags, proc, argp, cred, ops, calldata)
        task.tk_cookie = self.sched.current.pid
        return task

    def rpc_call_sync(self, proc: RpcProc, argp: Any, cred: RpcCred | None, flags: int = 0) -> tuple[int, Any]:
        """Call and wait (rpc_call_sync()): (0, result) or (-errno, None).

        :param flags: RPC_TASK_SOFT for a call that may give up although the client is hard.
        """
        addr = self.rpc.rpc_alloc_task()
        if addr is None:
            return -ENOMEM, None
        task = self.rpc_init_task(RPC_TASK_DYNAMIC | flags, proc, argp, cred, _SYNC_OPS, None)
        task.addr = addr
        self.rpc.rpc_execute(task)
        if task.tk_status < 0:
            return task.tk_status, None
        return 0, task.tk_result

    def rpc_ping(self) -> int:
        """Call procedure 0 without a credential and without patience (rpc_ping()): 0 or -errno."""
        return self.rpc_call_sync(_PING, None, None, RPC_TASK_SOFT)[0]

    # -- the end ---------------------------------------------------------------------------------------------------------------

    def _tasks(self) -> list[RpcTask]:
        return [task for task in self.rpc.live if task.tk_client is self]

    def rpc_killall_tasks(self) -> None:
        """End all calls that sleep with -EIO (rpc_killall_tasks()); one that runs just now is left to the next time."""
        for task in self._tasks():
            task.tk_flags |= RPC_TASK_KILLED
            if task.tk_waitqueue is not None:
                self.rpc.rpc_exit(task, -EIO)
                self.rpc.rpc_wake_up_task(task)

    def rpc_shutdown_client(self) -> None:
        """End all calls, wait until their owners have heard of it, and destroy the transport (rpc_shutdown_client()); may sleep."""
        while self._tasks():
            self.rpc_killall_tasks()
            self.sched.wait_event_timeout(self.destroy_wait, lambda: not self._tasks(), HZ, ("rpc client", self))
        self.xprt.xprt_destroy()

    # -- for people ------------------------------------------------------------------------------------------------------------

    def explain(self, task: RpcTask) -> tuple[str, tuple[str, Any] | None]:
        """Say what a call waits for, and who could give it."""
        xprt = self.xprt
        queue = task.tk_waitqueue
        name = task.tk_proc.name
        if task.tk_rqstp is not None:
            name += f" xid {task.tk_rqstp.rq_xid:#x}"
        if queue is None:
            return f"{name} is on rpciod's list", None
        if queue is xprt.backlog:
            return f"{name} waits for a slot", ("slot", xprt)
        if queue is xprt.sending or queue is xprt.resend:
            owner = xprt.snd_task
            return f"{name} waits until it may send", None if owner is None else ("rpc", owner)
        if queue is self.rpc.delay_queue:
            return (
                f"{name} tries again soon: {'no memory for its buffer' if task.tk_rqstp is None else 'it could not be sent'}",
                None,
            )
        if task.tk_action == CALL_CONNECT_STATUS:
            return f"{name} waits for the connection to {self.server}", ("reply", xprt.reply_from)
        if xprt.snd_task is task:
            return f"{name} waits for room on the socket", ("reply", xprt.reply_from)
        return f"{name} waits for its reply", ("reply", xprt.reply_from)
