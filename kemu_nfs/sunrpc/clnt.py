"""The states of a call (2.6.23 net/sunrpc/clnt.c): what is done in each, and where it leads.

Interface
    * :class:`RpcClnt`: one program on one transport. ``rpc_call_sync(proc, argp, cred)`` blocks; ``rpc_init_task()`` and
      ``rpc_execute()`` are for calls whose task is part of a caller's object.

Rules of this file
    * ``steps[CALL_X](task)`` does state X. rpc_task.CALL_STATES says what may follow.
    * A hard mount tries for ever: only what the base gives up ends a call (an errno that is none of the usual four from the connect
      worker, and what the server answers).
    * The reply is judged in call_decode(), in process context; a reply that makes no sense is asked for again, twice.
    * Left out: rpcbind (ports are told), refreshing of credentials, autobinding, statistics per procedure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.kernel import costs
from kemu.kernel.errno import (
    EACCES,
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTDOWN,
    EHOSTUNREACH,
    EIO,
    ENETUNREACH,
    ENOMEM,
    ENOTCONN,
    EOPNOTSUPP,
    EPIPE,
    EPROTONOSUPPORT,
    ETIMEDOUT,
)
from kemu.kernel.timer import HZ
from kemu_nfs.sunrpc.auth import RpcCred
from kemu_nfs.sunrpc.rpc_msg import (
    REPLY_DENIED_AUTH,
    REPLY_DENIED_VERSION,
    REPLY_OK,
    REPLY_PROC_UNAVAIL,
    REPLY_PROG_MISMATCH,
    REPLY_PROG_UNAVAIL,
    call_header,
    decode_reply,
)
from kemu_nfs.sunrpc.rpc_sched import RPC_RETRY_DELAY, RpcSched
from kemu_nfs.sunrpc.rpc_task import (
    CALL_ALLOCATE,
    CALL_BIND,
    CALL_CONNECT,
    CALL_CONNECT_STATUS,
    CALL_DECODE,
    CALL_EXIT,
    CALL_RESERVE,
    CALL_RESERVERESULT,
    CALL_STATUS,
    CALL_TIMEOUT,
    CALL_TRANSMIT,
    CALL_TRANSMIT_STATUS,
    RPC_CALL_MAJORSEEN,
    RPC_TASK_DYNAMIC,
    RPC_TASK_SOFT,
    RPC_TASK_SWAPPER,
    RpcCallOps,
    RpcProc,
    RpcTask,
)
from kemu_nfs.sunrpc.xdr import XdrError
from kemu_nfs.sunrpc.xprt import Xprt

if TYPE_CHECKING:
    from collections.abc import Callable

_ANSWERS: Final = {
    REPLY_DENIED_VERSION: -EPROTONOSUPPORT,
    REPLY_DENIED_AUTH: -EACCES,
    REPLY_PROG_UNAVAIL: -EIO,
    REPLY_PROG_MISMATCH: -EPROTONOSUPPORT,
    REPLY_PROC_UNAVAIL: -EOPNOTSUPP,
}


class _SyncOps:
    """A call whose caller waits: nothing to tell, nothing to free."""

    def rpc_call_done(self, task: RpcTask) -> None:
        """Do nothing: the caller looks at the task."""

    def rpc_release(self, task: RpcTask) -> None:
        """Do nothing."""


_SYNC_OPS: Final = _SyncOps()


class RpcClnt:
    """``struct rpc_clnt``: a program on a server.

    :param server: its name, for messages.
    :param soft: give up after a major timeout.
    """

    def __init__(
        self, rpc: RpcSched, xprt: Xprt, prog: int, vers: int, server: str, *, protname: str = "nfs", soft: bool = False
    ) -> None:
        self.rpc = rpc
        self.kernel = rpc.kernel
        self.sched = rpc.sched
        self.judge = rpc.kernel.judge
        self.xprt = xprt
        self.prog = prog
        self.vers = vers
        self.server = server
        self.protname = protname
        self.soft = soft
        self.steps: list[Callable[[RpcTask], None]] = [
            _no_step,
            self.call_start,
            self.call_reserve,
            self.call_reserveresult,
            self.call_allocate,
            self.call_bind,
            self.call_connect,
            self.call_connect_status,
            self.call_transmit,
            self.call_transmit_status,
            self.call_status,
            self.call_timeout,
            self.call_decode,
            rpc.rpc_exit_task,
        ]

    # -- calling ---------------------------------------------------------------------------------------------------------------

    def rpc_init_task(self, flags: int, proc: RpcProc, argp: Any, cred: RpcCred | None, ops: RpcCallOps, calldata: Any) -> RpcTask:
        """Make a task that is part of its caller's object (rpc_init_task()); patch 31's ``swapper`` marks all of a transport's."""
        if self.xprt.swapper:
            flags |= RPC_TASK_SWAPPER
        if self.soft:
            flags |= RPC_TASK_SOFT
        return RpcTask(self.rpc.next_pid(), self, flags, proc, argp, cred, ops, calldata)

    def rpc_call_sync(self, proc: RpcProc, argp: Any, cred: RpcCred | None) -> tuple[int, Any]:
        """Call and wait (rpc_call_sync()): (0, result) or (-errno, None)."""
        addr = self.rpc.rpc_alloc_task()
        if addr is None:
            return -ENOMEM, None
        task = self.rpc_init_task(RPC_TASK_DYNAMIC, proc, argp, cred, _SYNC_OPS, None)
        task.addr = addr
        self.rpc.rpc_execute(task)
        if task.tk_status < 0:
            return task.tk_status, None
        return 0, task.tk_result

    # -- the states ------------------------------------------------------------------------------------------------------------

    def call_start(self, task: RpcTask) -> None:
        """Begin, or begin again."""
        task.tk_action = CALL_RESERVE

    def call_reserve(self, task: RpcTask) -> None:
        """Ask for a slot; sleep on the backlog if there is none."""
        task.tk_status = 0
        task.tk_action = CALL_RESERVERESULT
        self.xprt.xprt_reserve(task)

    def call_reserveresult(self, task: RpcTask) -> None:
        """See whether there is a slot now."""
        status = task.tk_status
        task.tk_status = 0
        if task.tk_rqstp is not None:
            task.tk_action = CALL_ALLOCATE
        elif status == -EAGAIN:
            task.tk_action = CALL_RESERVE
        else:
            self.rpc.rpc_exit(task, status or -EIO)

    def call_allocate(self, task: RpcTask) -> None:
        """Get the buffer; without memory give the slot back, wait HZ/16 and start over."""
        task.tk_status = 0
        task.tk_action = CALL_BIND
        req = task.tk_rqstp
        assert req is not None
        if req.rq_buffer is not None or self.rpc.rpc_malloc(task, task.tk_proc.bufsize):
            return
        self.xprt.xprt_release(task)
        task.tk_action = CALL_RESERVE
        self.rpc.rpc_delay(task, RPC_RETRY_DELAY)

    def call_bind(self, task: RpcTask) -> None:
        """Know the server's port; it is always known here."""
        task.tk_action = CALL_CONNECT

    def call_connect(self, task: RpcTask) -> None:
        """Send if there is a connection, else wait for one."""
        if self.xprt.connected:
            task.tk_action = CALL_TRANSMIT
            return
        task.tk_action = CALL_CONNECT_STATUS
        if task.tk_status < 0:
            return
        self.xprt.xprt_connect(task)

    def call_connect_status(self, task: RpcTask) -> None:
        """See what became of the connection."""
        status = task.tk_status
        task.tk_status = 0
        if status >= 0:
            task.tk_action = CALL_TRANSMIT
        elif status in (-ENOTCONN, -EAGAIN, -ECONNREFUSED, -ECONNRESET):
            task.tk_action = CALL_TIMEOUT if task.tk_flags & RPC_TASK_SOFT else CALL_BIND
        elif status == -ETIMEDOUT:
            task.tk_action = CALL_TIMEOUT
        else:
            self.rpc.rpc_exit(task, -EIO)

    def call_transmit(self, task: RpcTask) -> None:
        """Get the transport for ourselves, write the call once, send it."""
        task.tk_action = CALL_STATUS
        if task.tk_status < 0:
            return
        xprt = self.xprt
        task.tk_status = status = xprt.xprt_prepare_transmit(task)
        if status:
            return
        task.tk_action = CALL_TRANSMIT_STATUS
        req = task.tk_rqstp
        assert req is not None
        if not req.rq_head:
            self._encode(task)
        xprt.xprt_transmit(task)
        if task.tk_status < 0:
            return
        # before it sleeps: others want to send
        self.call_transmit_status(task)

    def _encode(self, task: RpcTask) -> None:
        """Write header and arguments (call_encode(), rpc_xdr_encode())."""
        req = task.tk_rqstp
        assert req is not None
        cred = task.tk_cred
        proc = task.tk_proc
        head, req.rq_pages, req.rq_tail = proc.encode(task.tk_argp)
        self.xprt.prepare_head(
            req, call_header(req.rq_xid, self.prog, self.vers, proc.number, cred.wire if cred else _AUTH_NULL) + head
        )
        self.sched.spend(costs.XDR_CALL)

    def call_transmit_status(self, task: RpcTask) -> None:
        """Let the next task send, unless this one still waits for room on the socket."""
        task.tk_action = CALL_STATUS
        if task.tk_status != -EAGAIN:
            self.xprt.xprt_release_write(task)

    def call_status(self, task: RpcTask) -> None:
        """Decide what an answer, or its absence, means."""
        req = task.tk_rqstp
        assert req is not None
        if req.rq_received and not req.rq_bytes_sent:
            task.tk_status = req.rq_received
        status = task.tk_status
        if status >= 0:
            # woken from a delay it has no reply yet, and must send the rest
            task.tk_action = CALL_DECODE if req.rq_received else CALL_TRANSMIT
            return
        task.tk_status = 0
        if status in (-EHOSTDOWN, -EHOSTUNREACH, -ENETUNREACH):
            task.tk_action = CALL_TIMEOUT
            self.rpc.rpc_delay(task, 3 * HZ)
        elif status == -ETIMEDOUT:
            task.tk_action = CALL_TIMEOUT
        elif status in (-ECONNREFUSED, -ECONNRESET, -ENOTCONN, -EPIPE):
            task.tk_action = CALL_BIND
        elif status == -EAGAIN:
            task.tk_action = CALL_TRANSMIT
        else:
            if status != -EIO:
                self.kernel.printk(f"{self.protname}: RPC call returned error {-status}", "warning")
            self.rpc.rpc_exit(task, status)

    def call_timeout(self, task: RpcTask) -> None:
        """Send again; after a major timeout say so."""
        req = task.tk_rqstp
        assert req is not None
        if self.xprt.xprt_adjust_timeout(req):
            if task.tk_flags & RPC_TASK_SOFT:
                self.kernel.printk(f"{self.protname}: server {self.server} not responding, timed out", "notice")
                self.rpc.rpc_exit(task, -EIO)
                return
            if not task.tk_flags & RPC_CALL_MAJORSEEN:
                task.tk_flags |= RPC_CALL_MAJORSEEN
                self.kernel.printk(f"{self.protname}: server {self.server} not responding, still trying", "notice")
        task.tk_action = CALL_BIND
        task.tk_status = 0

    def call_decode(self, task: RpcTask) -> None:
        """Read the reply."""
        if task.tk_flags & RPC_CALL_MAJORSEEN:
            self.kernel.printk(f"{self.protname}: server {self.server} OK", "notice")
            task.tk_flags &= ~RPC_CALL_MAJORSEEN
        req = task.tk_rqstp
        assert req is not None
        reply = req.rq_reply
        verdict, offset = decode_reply(reply)
        if verdict == REPLY_OK:
            task.tk_action = CALL_EXIT
            task.tk_status = 0
            try:
                task.tk_result = task.tk_proc.decode(reply, offset, task.tk_argp)
            except XdrError as error:
                self.kernel.printk.ratelimited("rpc decode", f"{self.protname}: {task.tk_proc.name} reply: {error}")
                task.tk_status = -EIO
            self.sched.spend(costs.XDR_CALL)
            return
        answer = _ANSWERS.get(verdict)
        if answer is not None:
            self.rpc.rpc_exit(task, answer)
        elif task.tk_garb_retry:
            task.tk_garb_retry -= 1
            task.tk_action = CALL_BIND
            task.tk_status = 0
            req.rq_received = 0
            req.rq_reply = b""
        else:
            self.kernel.printk(f"RPC: {self.protname}: garbage, exit EIO", "notice")
            self.rpc.rpc_exit(task, -EIO)

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


_AUTH_NULL: Final = bytes(16)  # null credential and null verifier


def _no_step(task: RpcTask) -> None:
    """Nothing is done in CALL_DONE; it is here so that the table begins at 0."""
