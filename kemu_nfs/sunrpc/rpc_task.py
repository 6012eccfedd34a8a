"""What an RPC in progress is made of: task and request slot (2.6.23 include/linux/sunrpc/sched.h, xprt.h).

Interface
    * :class:`RpcTask`, :class:`RpcRqst`, :class:`RpcProc`, :class:`RpcCallOps`; for users of this module also the states of a
      call (rpc_states.py) and the queues on which tasks sleep (rpc_wait_queue.py).

Rules of this file
    * A task is on at most one queue, ``tk_waitqueue``; None means that it is runnable or running.
    * ``tk_status`` >= 0 is success; a reply's length where a reply came. ``tk_action`` is a CALL_* number, CALL_DONE at the end.
    * Left out: signals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from kemu_nfs.sunrpc.rpc_states import (
    CALL_ALLOCATE,
    CALL_BIND,
    CALL_CONNECT,
    CALL_CONNECT_STATUS,
    CALL_DECODE,
    CALL_DONE,
    CALL_EXIT,
    CALL_REFRESH,
    CALL_REFRESHRESULT,
    CALL_RESERVE,
    CALL_RESERVERESULT,
    CALL_START,
    CALL_STATES,
    CALL_STATUS,
    CALL_TIMEOUT,
    CALL_TRANSMIT,
    CALL_TRANSMIT_STATUS,
    CallState,
)
from kemu_nfs.sunrpc.rpc_wait_queue import (
    RPC_PRIORITY_HIGH,
    RPC_PRIORITY_LOW,
    RPC_PRIORITY_NORMAL,
    RPC_TASK_SWAPPER,
    RpcPriorityQueue,
    RpcWaitQueue,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.timer import Timer
    from kemu.kernel.wait import WaitQueue
    from kemu.kernel.workqueue import Work
    from kemu.mm.page import Page
    from kemu_nfs.sunrpc.auth import RpcCred
    from kemu_nfs.sunrpc.clnt import RpcClnt

__all__ = [
    "CALL_ALLOCATE",
    "CALL_BIND",
    "CALL_CONNECT",
    "CALL_CONNECT_STATUS",
    "CALL_DECODE",
    "CALL_DONE",
    "CALL_EXIT",
    "CALL_REFRESH",
    "CALL_REFRESHRESULT",
    "CALL_RESERVE",
    "CALL_RESERVERESULT",
    "CALL_START",
    "CALL_STATES",
    "CALL_STATUS",
    "CALL_TIMEOUT",
    "CALL_TRANSMIT",
    "CALL_TRANSMIT_STATUS",
    "RPC_PRIORITY_HIGH",
    "RPC_PRIORITY_LOW",
    "RPC_PRIORITY_NORMAL",
    "RPC_TASK_SWAPPER",
    "CallState",
    "RpcCallOps",
    "RpcPriorityQueue",
    "RpcProc",
    "RpcRqst",
    "RpcTask",
    "RpcWaitQueue",
]

# tk_flags; RPC_TASK_SWAPPER is in rpc_wait_queue.py, which goes by it
RPC_TASK_ASYNC: Final = 0x0001
RPC_CALL_MAJORSEEN: Final = 0x0020
RPC_TASK_DYNAMIC: Final = 0x0080
RPC_TASK_KILLED: Final = 0x0100
RPC_TASK_SOFT: Final = 0x0200


class RpcCallOps(Protocol):
    """``struct rpc_call_ops``: what the caller does with the end of a call."""

    def rpc_call_done(self, task: RpcTask) -> None:
        """Look at ``tk_status`` and ``tk_result``; may start the call again."""

    def rpc_release(self, task: RpcTask) -> None:
        """Free what the call held; the last that happens."""


@attrs.frozen
class RpcProc:
    """``struct rpc_procinfo``: one procedure of a program.

    :param encode: arguments -> (bytes, pages as (page, offset, size) or None, bytes after the pages).
    :param decode: (reply, offset of the results, arguments) -> result; raises XdrError.
    :param bufsize: bytes of the call and reply buffers, without pages (what rpc_malloc() is asked for).
    :param limit: bytes of the longest reply.
    :param p_timer: which round trip estimate this kind of call has a part in, 1 to 5; 0: none (UDP; rpc_timer.py).
    """

    name: str
    number: int
    encode: Callable[[Any], tuple[bytes, list[tuple[Page, int, int]] | None, bytes]]
    decode: Callable[[bytes, int, Any], Any]
    bufsize: int = 1024
    limit: int = 2048
    p_timer: int = 0


class RpcTask:
    """``struct rpc_task``: one call on its way.

    :ivar addr: slab object of a task that stands alone (RPC_TASK_DYNAMIC); others are part of their caller's object.
    :ivar running: somebody executes it, or it waits for rpciod to do so.
    """

    __slots__ = (
        "addr",
        "running",
        "tk_action",
        "tk_argp",
        "tk_callback",
        "tk_calldata",
        "tk_client",
        "tk_cookie",
        "tk_cred",
        "tk_cred_retry",
        "tk_flags",
        "tk_garb_retry",
        "tk_ops",
        "tk_pid",
        "tk_priority",
        "tk_proc",
        "tk_result",
        "tk_rqstp",
        "tk_start",
        "tk_status",
        "tk_timeout",
        "tk_timeout_fn",
        "tk_timer",
        "tk_waitqueue",
        "tk_wake",
        "tk_work",
    )

    def __init__(
        self, pid: int, client: RpcClnt, flags: int, proc: RpcProc, argp: Any, cred: RpcCred | None, ops: RpcCallOps, calldata: Any
    ) -> None:
        self.tk_pid = pid
        self.tk_client = client
        self.tk_flags = flags
        self.tk_proc = proc
        self.tk_argp = argp
        self.tk_cred = cred
        self.tk_ops = ops
        self.tk_calldata = calldata
        self.tk_action = CALL_START
        self.tk_callback: Callable[[RpcTask], None] | None = None
        self.tk_status = 0
        self.tk_result: Any = None
        self.tk_rqstp: RpcRqst | None = None
        self.tk_priority = RPC_PRIORITY_NORMAL
        self.tk_cookie = 0
        self.tk_garb_retry = 2
        self.tk_cred_retry = 2
        self.tk_timeout = 0
        self.tk_timeout_fn: Callable[[RpcTask], None] | None = None
        self.tk_timer: Timer | None = None
        self.tk_waitqueue: RpcWaitQueue | None = None
        self.tk_wake: WaitQueue | None = None
        self.tk_work: Work | None = None
        self.tk_start = 0
        self.running = False
        self.addr: int | None = None

    def __repr__(self) -> str:
        """Show what rpc_show_tasks() would print."""
        queue = self.tk_waitqueue.name if self.tk_waitqueue is not None else "none"
        xid = f" xid {self.tk_rqstp.rq_xid:#x}" if self.tk_rqstp is not None else ""
        action = CALL_STATES[self.tk_action].name
        return (
            f"<rpc {self.tk_pid} {self.tk_proc.name}{xid} flags={self.tk_flags:#x} {action} status={self.tk_status} queue={queue}>"
        )


class RpcRqst:
    """``struct rpc_rqst``: one slot of a transport, and the call that has it.

    :ivar rq_head: the call as bytes, record mark and all; empty until it is encoded.
    :ivar rq_pages: pages that follow the head, sent without a copy.
    :ivar rq_ntrans: how often the call got the right to send; ``rq_sends``: how often it was sent whole.
    :ivar rq_received: bytes of the reply, 0 while there is none.
    :ivar rq_timer: kept from call to call: an armed timer that only moves on costs nothing.
    :ivar rq_cong: UDP: it counts in the congestion window. ``rq_xtime``: UDP: the jiffy of its last transmission.
    """

    __slots__ = (
        "rq_buffer",
        "rq_bufsize",
        "rq_bytes_sent",
        "rq_cong",
        "rq_head",
        "rq_majortimeo",
        "rq_ntrans",
        "rq_pages",
        "rq_received",
        "rq_reply",
        "rq_retries",
        "rq_sends",
        "rq_slen",
        "rq_tail",
        "rq_task",
        "rq_timeout",
        "rq_timer",
        "rq_xid",
        "rq_xtime",
    )

    def __init__(self) -> None:
        self.rq_timer: Timer | None = None
        self.rq_buffer: int | None = None
        self.rq_bufsize = 0
        self.rq_cong = False
        self.rq_xtime = 0
        self.clear()

    def clear(self) -> None:
        """Make the slot ready for its next call."""
        self.rq_task: RpcTask | None = None
        self.rq_xid = 0
        self.rq_head = b""
        self.rq_pages: list[tuple[Page, int, int]] | None = None
        self.rq_tail = b""
        self.rq_slen = 0
        self.rq_bytes_sent = 0
        self.rq_ntrans = 0
        self.rq_sends = 0
        self.rq_received = 0
        self.rq_reply = b""
        self.rq_timeout = 0
        self.rq_majortimeo = 0
        self.rq_retries = 0

    def __repr__(self) -> str:
        """Name the slot's call."""
        return f"<rpc_rqst xid={self.rq_xid:#x} sent={self.rq_bytes_sent}/{self.rq_slen} received={self.rq_received}>"
