"""What is done in each state of a call (2.6.23 net/sunrpc/clnt.c: the call_...() functions).

Interface
    * :class:`CallSteps`, base of RpcClnt: ``steps[CALL_X](task)`` does state X. rpc_states.py is the table of the states.

Rules of this file
    * A hard mount tries for ever: only what the base gives up ends a call (an errno that is none of the usual four from the connect
      worker, and what the server answers).
    * The reply is judged in call_decode(), in process context. One that makes no sense is asked for again, twice; one too short to
      be any, as often as it comes. A credential that the server calls stale is refreshed, twice, each time with a new xid.
    * Left out: rpcbind (ports are told), autobinding, statistics per procedure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
    ENOTCONN,
    EOPNOTSUPP,
    EPFNOSUPPORT,
    EPIPE,
    EPROTONOSUPPORT,
    ETIMEDOUT,
)
from kemu.kernel.timer import HZ
from kemu_nfs.sunrpc.auth import AUTH_NULL
from kemu_nfs.sunrpc.rpc_msg import (
    REPLY_AUTH_GARBLED,
    REPLY_AUTH_STALE,
    REPLY_AUTH_TOOWEAK,
    REPLY_DENIED_AUTH,
    REPLY_DENIED_VERSION,
    REPLY_ODD,
    REPLY_OK,
    REPLY_PROC_UNAVAIL,
    REPLY_PROG_MISMATCH,
    REPLY_PROG_UNAVAIL,
    call_header,
    decode_reply,
)
from kemu_nfs.sunrpc.rpc_sched import RPC_RETRY_DELAY
from kemu_nfs.sunrpc.rpc_states import (
    CALL_ALLOCATE,
    CALL_BIND,
    CALL_CONNECT,
    CALL_CONNECT_STATUS,
    CALL_DECODE,
    CALL_EXIT,
    CALL_REFRESH,
    CALL_REFRESHRESULT,
    CALL_RESERVE,
    CALL_RESERVERESULT,
    CALL_STATUS,
    CALL_TIMEOUT,
    CALL_TRANSMIT,
    CALL_TRANSMIT_STATUS,
)
from kemu_nfs.sunrpc.rpc_task import RPC_CALL_MAJORSEEN, RPC_TASK_SOFT, RpcTask
from kemu_nfs.sunrpc.xdr import XdrError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu_nfs.sunrpc.rpc_sched import RpcSched
    from kemu_nfs.sunrpc.xprt import Xprt

_MIN_REPLY: Final = 12  # xid, type and state of a reply

_ENDS: Final = {
    REPLY_DENIED_VERSION: -EPROTONOSUPPORT,
    REPLY_DENIED_AUTH: -EIO,
    REPLY_AUTH_TOOWEAK: -EACCES,
    REPLY_PROG_UNAVAIL: -EPFNOSUPPORT,
    REPLY_PROG_MISMATCH: -EPROTONOSUPPORT,
    REPLY_PROC_UNAVAIL: -EOPNOTSUPP,
    REPLY_ODD: -EIO,
}


class CallSteps:
    """The states of the calls of one client."""

    def __init__(self, rpc: RpcSched, xprt: Xprt, prog: int, vers: int, server: str, protname: str) -> None:
        self.rpc = rpc
        self.kernel = rpc.kernel
        self.sched = rpc.sched
        self.xprt = xprt
        self.prog = prog
        self.vers = vers
        self.server = server
        self.protname = protname
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
            self.call_refresh,
            self.call_refreshresult,
            rpc.rpc_exit_task,
        ]

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
        """Get the transport for ourselves, write the call once, send it, sleep until its reply."""
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
            req, call_header(req.rq_xid, self.prog, self.vers, proc.number, cred.wire if cred else AUTH_NULL) + head
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
        elif len(reply) < _MIN_REPLY:
            # no reply at all: a hard mount asks until it gets one
            self._again(task, CALL_TIMEOUT if task.tk_flags & RPC_TASK_SOFT else CALL_BIND)
        else:
            self._call_verify(task, verdict)

    def _call_verify(self, task: RpcTask, verdict: int) -> None:
        """Ask again, refresh the credential, or end the call, as the reply's header says (call_verify())."""
        end = _ENDS.get(verdict)
        if end is not None:
            if verdict == REPLY_AUTH_TOOWEAK:
                self.kernel.printk(f"call_verify: server {self.server} requires stronger authentication.", "notice")
            self.rpc.rpc_exit(task, end)
        elif verdict == REPLY_AUTH_STALE:
            if not task.tk_cred_retry:
                self.rpc.rpc_exit(task, -EACCES)
                return
            task.tk_cred_retry -= 1
            if task.tk_cred is not None:
                task.tk_cred.up_to_date = False
            self.xprt.xprt_release(task)  # so that the next try has a new xid: the server's duplicate cache knows the old one
            task.tk_action = CALL_REFRESH
            task.tk_status = 0
        elif task.tk_garb_retry:
            task.tk_garb_retry -= 1
            self._again(task, CALL_BIND)
        elif verdict == REPLY_AUTH_GARBLED:
            self.rpc.rpc_exit(task, -EACCES)
        else:
            self.kernel.printk(f"RPC: {self.protname}: garbage, exit EIO", "notice")
            self.rpc.rpc_exit(task, -EIO)

    def _again(self, task: RpcTask, action: int) -> None:
        """Forget the reply and send the call again, with the same xid."""
        req = task.tk_rqstp
        assert req is not None
        req.rq_received = 0
        req.rq_reply = b""
        task.tk_action = action
        task.tk_status = 0

    def call_refresh(self, task: RpcTask) -> None:
        """Make the credential good again."""
        task.tk_action = CALL_REFRESHRESULT
        task.tk_status = task.tk_cred.crrefresh() if task.tk_cred is not None else 0

    def call_refreshresult(self, task: RpcTask) -> None:
        """Begin anew with a good credential; else try in three seconds."""
        status = task.tk_status
        task.tk_status = 0
        task.tk_action = CALL_RESERVE
        if status >= 0 and (task.tk_cred is None or task.tk_cred.up_to_date):
            return
        if status == -EACCES:
            self.rpc.rpc_exit(task, -EACCES)
            return
        task.tk_action = CALL_REFRESH
        if status != -ETIMEDOUT:
            self.rpc.rpc_delay(task, 3 * HZ)


def _no_step(task: RpcTask) -> None:
    """Nothing is done in CALL_DONE; it is here so that the table begins at 0."""
