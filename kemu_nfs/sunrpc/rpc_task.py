"""What an RPC in progress is made of: task, request slot, wait queue (2.6.23 include/linux/sunrpc/sched.h, xprt.h), and its states.

Interface
    * :class:`RpcTask`, :class:`RpcRqst`, :class:`RpcWaitQueue`, :class:`RpcProc`, :class:`RpcCallOps`.
    * ``CALL_*`` and the table :data:`CALL_STATES`: every state of a call with the states that may follow it (clnt.py does the
      steps).

Rules of this file
    * A task is on at most one queue, ``tk_waitqueue``; None means that it is runnable or running.
    * ``tk_status`` >= 0 is success; a reply's length where a reply came. ``tk_action`` is a CALL_* number, CALL_DONE at the end.
    * Of a priority queue, one level is served until its share is used up, then the next lower one that is not empty: tasks of low
      priority are slowed, not starved.
    * Left out: fairness between processes on one level (tk_cookie), signals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.timer import Timer
    from kemu.kernel.wait import WaitQueue
    from kemu.kernel.workqueue import Work
    from kemu.mm.page import Page
    from kemu_nfs.sunrpc.auth import RpcCred
    from kemu_nfs.sunrpc.clnt import RpcClnt

# tk_flags
RPC_TASK_ASYNC: Final = 0x0001
RPC_TASK_SWAPPER: Final = 0x0002
RPC_CALL_MAJORSEEN: Final = 0x0020
RPC_TASK_DYNAMIC: Final = 0x0080
RPC_TASK_KILLED: Final = 0x0100
RPC_TASK_SOFT: Final = 0x0200

RPC_PRIORITY_LOW: Final = 0
RPC_PRIORITY_NORMAL: Final = 1
RPC_PRIORITY_HIGH: Final = 2
_SHARES: Final = (1, 4, 16)  # wake-ups in a row, by priority

# states of a call
CALL_DONE: Final = 0
CALL_START: Final = 1
CALL_RESERVE: Final = 2
CALL_RESERVERESULT: Final = 3
CALL_ALLOCATE: Final = 4
CALL_BIND: Final = 5
CALL_CONNECT: Final = 6
CALL_CONNECT_STATUS: Final = 7
CALL_TRANSMIT: Final = 8
CALL_TRANSMIT_STATUS: Final = 9
CALL_STATUS: Final = 10
CALL_TIMEOUT: Final = 11
CALL_DECODE: Final = 12
CALL_EXIT: Final = 13


@attrs.frozen
class CallState:
    """One state of a call: its name, and where it may lead. Any state may also lead to ``rpc_exit_task`` (rpc_exit())."""

    name: str
    then: tuple[int, ...]


CALL_STATES: Final[dict[int, CallState]] = {
    CALL_DONE: CallState("done", ()),
    CALL_START: CallState("call_start", (CALL_RESERVE,)),
    CALL_RESERVE: CallState("call_reserve", (CALL_RESERVERESULT,)),
    CALL_RESERVERESULT: CallState("call_reserveresult", (CALL_ALLOCATE, CALL_RESERVE)),
    CALL_ALLOCATE: CallState("call_allocate", (CALL_BIND, CALL_RESERVE)),
    CALL_BIND: CallState("call_bind", (CALL_CONNECT,)),
    CALL_CONNECT: CallState("call_connect", (CALL_TRANSMIT, CALL_CONNECT_STATUS)),
    CALL_CONNECT_STATUS: CallState("call_connect_status", (CALL_TRANSMIT, CALL_BIND, CALL_TIMEOUT)),
    CALL_TRANSMIT: CallState("call_transmit", (CALL_TRANSMIT_STATUS, CALL_STATUS)),
    CALL_TRANSMIT_STATUS: CallState("call_transmit_status", (CALL_STATUS,)),
    CALL_STATUS: CallState("call_status", (CALL_DECODE, CALL_TIMEOUT, CALL_BIND, CALL_TRANSMIT)),
    CALL_TIMEOUT: CallState("call_timeout", (CALL_BIND,)),
    CALL_DECODE: CallState("call_decode", (CALL_EXIT, CALL_BIND)),
    CALL_EXIT: CallState("rpc_exit_task", (CALL_DONE, CALL_START)),  # the caller may start the call again
}


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
    """

    name: str
    number: int
    encode: Callable[[Any], tuple[bytes, list[tuple[Page, int, int]] | None, bytes]]
    decode: Callable[[bytes, int, Any], Any]
    bufsize: int = 1024
    limit: int = 2048


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
        "tk_cred",
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
        self.tk_garb_retry = 2
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
    """

    __slots__ = (
        "rq_buffer",
        "rq_bufsize",
        "rq_bytes_sent",
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
    )

    def __init__(self) -> None:
        self.rq_timer: Timer | None = None
        self.rq_buffer: int | None = None
        self.rq_bufsize = 0
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


class RpcWaitQueue:
    """``struct rpc_wait_queue``: tasks that sleep, by priority, first come first served."""

    __slots__ = ("_count", "_level", "levels", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.levels: tuple[dict[RpcTask, None], ...] = ({}, {}, {})
        self._level = RPC_PRIORITY_HIGH
        self._count = _SHARES[RPC_PRIORITY_HIGH]

    def add(self, task: RpcTask) -> None:
        """Put a task at the end of its level."""
        self.levels[task.tk_priority][task] = None

    def remove(self, task: RpcTask) -> None:
        """Take a task out."""
        del self.levels[task.tk_priority][task]

    def first(self) -> RpcTask | None:
        """Choose the task that is next (__rpc_wake_up_next_priority()); it stays on the queue."""
        levels = self.levels
        low, normal, high = levels
        if high or normal or low:  # mostly nobody sleeps
            level = self._level
            if levels[level] and self._count:
                self._count -= 1
                return next(iter(levels[level]))
            for step in range(1, 4):
                lower = (level - step) % 3
                if levels[lower]:
                    self._level = lower
                    self._count = _SHARES[lower] - 1
                    return next(iter(levels[lower]))
        self._level = RPC_PRIORITY_HIGH
        self._count = _SHARES[RPC_PRIORITY_HIGH]
        return None

    def tasks(self) -> list[RpcTask]:
        """List who sleeps, highest priority first."""
        return [*self.levels[2], *self.levels[1], *self.levels[0]]

    def __len__(self) -> int:
        """Count who sleeps."""
        return len(self.levels[0]) + len(self.levels[1]) + len(self.levels[2])

    def __repr__(self) -> str:
        """Name the queue and who sleeps."""
        return f"<rpc queue {self.name}: {self.tasks()}>"
