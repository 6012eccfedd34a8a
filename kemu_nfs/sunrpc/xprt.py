"""A transport, whatever its protocol: slots, the right to send, xids, timeouts (2.6.23 net/sunrpc/xprt.c).

Interface
    * :class:`Xprt`, base of TcpXprt and UdpXprt (xprtsock.py). Upwards, for the states of clnt.py: ``xprt_reserve``,
      ``xprt_release``, ``xprt_connect``, ``xprt_prepare_transmit``, ``xprt_transmit``, ``xprt_release_write``,
      ``xprt_adjust_timeout``. Downwards: ``send_request``, ``connect``, ``close``, ``prepare_head`` are the protocol's; it calls
      ``xprt_complete_rqst``, ``xprt_wake_pending_tasks``, ``xprt_disconnect``, ``xprt_write_space``.

Rules of this file
    * The slot table is one allocation at mount: a call needs no memory for its slot.
    * One task at a time may send: ``locked``, and ``snd_task`` says who. Whoever sent half a record and gives up the right closes
      the connection.
    * ``recv`` finds the call of a reply by xid; a call is in it from its first transmission until its reply or its end.
    * A datagram transport's congestion window and round trip estimates are in xprt_cong.py, timeouts in xprt_timeout.py.
    * Left out: soft reconnect limits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

from kemu.errors import KernelBug
from kemu.kernel.errno import EAGAIN, ECONNREFUSED, ECONNRESET, EIO, ENOMEM, ENOTCONN, ETIMEDOUT
from kemu.kernel.timer import HZ, Timer
from kemu.kernel.workqueue import Work
from kemu.mm.gfp import GFP_KERNEL
from kemu_nfs.sunrpc.rpc_sched import RpcSched
from kemu_nfs.sunrpc.rpc_sysctl import RPC_DEF_SLOT_TABLE, RPC_MAX_SLOT_TABLE, RPC_MIN_SLOT_TABLE
from kemu_nfs.sunrpc.rpc_task import RPC_TASK_SOFT, RpcPriorityQueue, RpcRqst, RpcTask, RpcWaitQueue
from kemu_nfs.sunrpc.xprt_timeout import TCP_TIMEOUT, UDP_TIMEOUT, XprtTimeout, XprtTimeouts

__all__ = ["RPC_DEF_SLOT_TABLE", "RPC_MAX_SLOT_TABLE", "SIZEOF_RPC_RQST", "TCP_TIMEOUT", "UDP_TIMEOUT", "Xprt", "XprtTimeout"]

SIZEOF_RPC_RQST: Final = 300
XS_IDLE_DISC_TO: Final = 5 * 60 * HZ


class Xprt(XprtTimeouts, ABC):
    """``struct rpc_xprt``: one way to one server.

    :param slots: calls that may be on their way at once.
    :param reply_from: what a reply needs, for the chain of waits (the stack's NIC).
    :ivar swapper: patch 31: how many swap files were told of (v14: 0 or 1).
    :ivar connects: tries to connect; ``established``: connections that came up.
    :ivar close_wait: the connection is to be closed as soon as nobody sends.
    """

    prot = "none"

    def __init__(
        self, rpc: RpcSched, addr: int, port: int, timeout: XprtTimeout, *, slots: int = RPC_DEF_SLOT_TABLE, reply_from: Any = None
    ) -> None:
        kernel = rpc.kernel
        self.rpc = rpc
        self.kernel = kernel
        self.sched = kernel.sched
        self.timers = kernel.timers
        self.judge = kernel.judge
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.addr = addr
        self.port = port
        self.timeout = timeout
        self.reply_from = self if reply_from is None else reply_from
        slots = min(max(slots, RPC_MIN_SLOT_TABLE), RPC_MAX_SLOT_TABLE)
        self.slot_memory = rpc.slub.kmalloc(slots * SIZEOF_RPC_RQST, GFP_KERNEL)
        self.slots = [RpcRqst() for _ in range(slots if self.slot_memory is not None else 0)]
        self.free = list(reversed(self.slots))
        self.backlog = RpcPriorityQueue("xprt_backlog")
        self.sending = RpcWaitQueue("xprt_sending")
        self.resend = RpcWaitQueue("xprt_resend")
        self.pending = RpcWaitQueue("xprt_pending")
        self.recv: dict[int, RpcRqst] = {}
        self.xid = kernel.rng.getrandbits(32)
        self.locked = False
        self.snd_task: RpcTask | None = None
        self.connected = False
        self.connecting = False
        self.close_wait = False
        self.shutdown = False
        self.estimates_rtt = False
        self.swapper = 0  # [p31] added
        self.connect_timeout = 60 * HZ
        self.connects = 0
        self.established = 0
        self.last_used = 0
        self.retransmissions = 0
        self.replies_unknown = 0
        self.task_cleanup = Work("xprt_autoclose", self._xprt_autoclose)
        self.idle_timer = Timer("xprt idle", self._xprt_init_autodisconnect)
        point = kernel.trace.point
        self._trace_transmit = point("sunrpc:xprt_transmit", ("task", "xid", "status"))
        self._trace_lookup = point("sunrpc:xprt_lookup_rqst", ("xid", "size"))
        self._trace_timer = point("sunrpc:xprt_timer", ("task", "xid"))
        explainers = kernel.judge.explainers
        explainers["slot"] = _explain_slot
        explainers.setdefault("reply", _explain_reply)

    # -- what a protocol provides ----------------------------------------------------------------------------------------------

    @abstractmethod
    def connect(self, task: RpcTask) -> None:
        """Begin to connect; wake ``pending`` when it is decided."""

    @abstractmethod
    def send_request(self, task: RpcTask) -> int:
        """Send what is left of the task's call: 0, -EAGAIN (and the task sleeps until there is room), -ENOTCONN, -errno."""

    @abstractmethod
    def close(self) -> None:
        """Drop the socket."""

    def set_buffer_size(self, sndsize: int, rcvsize: int) -> None:
        """Make room for calls and replies of these sizes, where the socket does not do it by itself (rpc_setbufsize())."""

    @abstractmethod
    def prepare_head(self, req: RpcRqst, head: bytes) -> None:
        """Put the call's bytes into the slot, with what the protocol puts before them."""

    # -- slots -----------------------------------------------------------------------------------------------------------------

    def xprt_reserve(self, task: RpcTask) -> None:
        """Give the task a slot, or let it sleep until there may be one (xprt_reserve())."""
        if task.tk_rqstp is not None:
            return
        if self.shutdown or not self.slots:
            task.tk_status = -EIO if self.slots else -ENOMEM
            return
        if self.free:
            req = self.free.pop()
            task.tk_rqstp = req
            req.rq_task = task
            self.xid = req.rq_xid = (self.xid + 1) & 0xFFFFFFFF
            req.rq_timeout = self.timeout.initval
            return
        task.tk_status = -EAGAIN
        task.tk_timeout = 0
        self.rpc.rpc_sleep_on(self.backlog, task)

    def xprt_release(self, task: RpcTask) -> None:
        """Take the slot back and give it to the next (xprt_release())."""
        req = task.tk_rqstp
        if req is None:
            return
        if self.snd_task is task:
            self.xprt_release_write(task)
        if self.recv.get(req.rq_xid) is req:
            del self.recv[req.rq_xid]
        self.last_used = self.sched.jiffies
        if not self.recv and not self.idle_timer.pending and self.connected:
            self.timers.mod_timer(self.idle_timer, self.last_used + XS_IDLE_DISC_TO)
        self.rpc.rpc_free(req)
        task.tk_rqstp = None
        req.clear()
        self.free.append(req)
        if self.backlog.qlen:
            self.rpc.rpc_wake_up_next(self.backlog)

    # -- the right to send -----------------------------------------------------------------------------------------------------

    def xprt_reserve_xprt(self, task: RpcTask) -> bool:
        """Take the right to send, or sleep until it is given (xprt_reserve_xprt())."""
        req = task.tk_rqstp
        if self.locked:
            if self.snd_task is task:
                return True
            task.tk_timeout = 0
            task.tk_status = -EAGAIN
            self.rpc.rpc_sleep_on(self.resend if req is not None and req.rq_ntrans else self.sending, task)
            return False
        self.locked = True
        self.snd_task = task
        if req is not None:
            req.rq_bytes_sent = 0
            req.rq_ntrans += 1
        return True

    def xprt_release_write(self, task: RpcTask | None) -> None:
        """Give up the right to send and hand it to the next (xprt_release_xprt(), xs_tcp_release_xprt())."""
        if self.snd_task is not task:
            return
        if task is not None:
            req = task.tk_rqstp
            if req is not None and req.rq_bytes_sent and req.rq_bytes_sent != req.rq_slen:
                # half a record is on its way: nothing that follows would be understood
                self.close_wait = True
        self._xprt_clear_locked()
        self._xprt_lock_write_next()

    def _xprt_clear_locked(self) -> None:
        """Unlock, or keep the lock for who closes the connection (xprt_clear_locked())."""
        self.snd_task = None
        if not self.close_wait or self.shutdown:
            self.locked = False
        else:
            self.rpc.rpciod.queue_work(self.task_cleanup)

    def _xprt_lock_write_next(self) -> None:
        """Hand the right to send to the next task (__xprt_lock_write_next())."""
        if self.locked:
            return
        task = self.rpc.rpc_wake_up_next(self.resend) or self.rpc.rpc_wake_up_next(self.sending)
        if task is None:
            return
        self.locked = True
        self.snd_task = task
        req = task.tk_rqstp
        if req is not None:
            req.rq_bytes_sent = 0
            req.rq_ntrans += 1

    # -- connecting ------------------------------------------------------------------------------------------------------------

    def xprt_connect(self, task: RpcTask) -> None:
        """Wait for a connection; the first who comes starts it (xprt_connect())."""
        if self.shutdown:
            task.tk_status = -EIO
            return
        if not self.xprt_reserve_xprt(task):
            return
        if self.connected:
            self.xprt_release_write(task)
            return
        if self.close_wait:
            # 2.6.23 left an old socket to its worker and could close the new connection by mistake
            self.close_wait = False
            self.close()
        if task.tk_rqstp is not None:
            task.tk_rqstp.rq_bytes_sent = 0
        task.tk_timeout = self.connect_timeout
        self.rpc.rpc_sleep_on(self.pending, task, self.xprt_connect_status)
        self.connect(task)

    def xprt_connect_status(self, task: RpcTask) -> None:
        """Judge the end of a wait for the connection (xprt_connect_status()).

        Every error but four ends the call with EIO, also of a hard mount: so do ENOMEM, ENOBUFS, EHOSTUNREACH and EADDRINUSE in the
        connect worker (b30e).
        """
        status = task.tk_status
        if status >= 0:
            return
        if status in (-ECONNREFUSED, -ECONNRESET, -ENOTCONN, -ETIMEDOUT, -EAGAIN) and not task.tk_flags & RPC_TASK_SOFT:
            return
        self.xprt_release_write(task)
        task.tk_status = -EIO

    def xprt_wake_pending_tasks(self, status: int) -> None:
        """Wake who waits for the connection or for a reply (xprt_wake_pending_tasks())."""
        if status < 0:
            self.rpc.rpc_wake_up_status(self.pending, status)
        else:
            for task in self.pending.tasks():
                self.rpc.rpc_wake_up_task(task)

    def xprt_disconnect(self) -> None:
        """Say that there is no connection (xprt_disconnect()): everything that was sent must be sent again."""
        if self.connected:
            self.connected = False
            self.judge.progress()
        self.xprt_wake_pending_tasks(-ENOTCONN)

    def xprt_force_close(self) -> None:
        """Have the connection closed as soon as nobody sends."""
        self.close_wait = True
        if not self.locked:
            self.locked = True
            self.rpc.rpciod.queue_work(self.task_cleanup)

    def _xprt_autoclose(self, data: object) -> None:
        """Close the connection; the right to send is ours (xprt_autoclose())."""
        self.xprt_disconnect()
        self.close()
        self.close_wait = False
        self.locked = False
        self._xprt_lock_write_next()

    def _xprt_init_autodisconnect(self, data: object) -> None:
        """Close a connection that nobody used for five minutes (xprt_init_autodisconnect())."""
        if self.shutdown or self.recv or not self.connected or len(self.free) != len(self.slots):
            return
        due = self.last_used + XS_IDLE_DISC_TO
        if self.sched.jiffies < due:
            self.timers.mod_timer(self.idle_timer, due)
        elif not self.locked:
            self.xprt_force_close()

    # -- sending and receiving -------------------------------------------------------------------------------------------------

    def xprt_prepare_transmit(self, task: RpcTask) -> int:
        """Take the right to send (xprt_prepare_transmit()): 0, a reply's length, -EAGAIN or -ENOTCONN."""
        req = task.tk_rqstp
        assert req is not None
        if req.rq_received and not req.rq_bytes_sent:
            return req.rq_received
        if not self.xprt_reserve_xprt(task):
            return -EAGAIN
        if not self.connected:
            return -ENOTCONN
        return 0

    def xprt_transmit(self, task: RpcTask) -> None:
        """Send a call, or the rest of it, and sleep until its reply (xprt_transmit())."""
        req = task.tk_rqstp
        assert req is not None
        if not req.rq_received:
            if req.rq_xid not in self.recv:
                self.recv[req.rq_xid] = req
                self._xprt_reset_majortimeo(req)
        elif not req.rq_bytes_sent:
            return
        status = self.send_request(task)
        if self._trace_transmit.enabled:
            self._trace_transmit(task.tk_pid, req.rq_xid, status)
        if not status:
            if req.rq_sends:
                self.retransmissions += 1
            req.rq_sends += 1
            if not self.connected:
                task.tk_status = -ENOTCONN
            elif not req.rq_received:
                task.tk_timeout = self.xprt_set_retrans_timeout_rtt(task, req) if self.estimates_rtt else req.rq_timeout
                self.rpc.rpc_sleep_on(self.pending, task, None, self._xprt_timer)
            return
        task.tk_status = status

    def xprt_set_retrans_timeout_rtt(self, task: RpcTask, req: RpcRqst) -> int:
        """Return how long to wait for a reply, where round trips are estimated (xprt_cong.py)."""
        return req.rq_timeout

    def _xprt_timer(self, task: RpcTask) -> None:
        """No reply in time (xprt_timer())."""
        req = task.tk_rqstp
        if req is not None and not req.rq_received:
            task.tk_status = -ETIMEDOUT
            if self._trace_timer.enabled:
                self._trace_timer(task.tk_pid, req.rq_xid)
        self.rpc.rpc_wake_up_task(task)

    def xprt_complete_rqst(self, req: RpcRqst, reply: bytes) -> None:
        """Hand a reply to its call (xprt_complete_rqst()); from softirq."""
        del self.recv[req.rq_xid]
        if self._trace_lookup.enabled:
            self._trace_lookup(req.rq_xid, len(reply))
        req.rq_reply = reply
        req.rq_received = max(len(reply), 1)
        self.judge.progress()
        task = req.rq_task
        if task is None:
            raise KernelBug("a reply for a slot without a call", state=req)
        self.rpc.rpc_wake_up_task(task)

    def xprt_write_space(self) -> None:
        """Let the sender go on (xprt_write_space())."""
        if self.snd_task is not None:
            self.rpc.rpc_wake_up_task(self.snd_task)

    # -- the end ---------------------------------------------------------------------------------------------------------------

    def xprt_destroy(self) -> None:
        """Close and free everything; no call may be under way."""
        if len(self.free) != len(self.slots):
            raise KernelBug("a transport with calls under way is destroyed", state=self)
        self.shutdown = True
        self.timers.del_timer(self.idle_timer)
        self.rpc.rpciod.cancel(self.task_cleanup)
        self.connected = False
        self.close()
        self.locked = False
        if self.slot_memory is not None:
            self.rpc.slub.kfree(self.slot_memory)
            self.slot_memory = None
        self.slots = []
        self.free = []

    def check(self) -> None:
        """Assert that slots, calls and the right to send agree."""
        used = [req for req in self.slots if req.rq_task is not None]
        assert len(used) + len(self.free) == len(self.slots), self
        for req in used:
            task = req.rq_task
            assert task is not None
            assert task.tk_rqstp is req, req
        for xid, req in self.recv.items():
            assert req.rq_xid == xid, req
            assert not req.rq_received, req
        assert self.snd_task is None or self.locked, self
        assert len(self.backlog) == 0 or not self.free, self

    def __repr__(self) -> str:
        """Show the transport's state."""
        state = "connected" if self.connected else "connecting" if self.connecting else "not connected"
        return f"<xprt {self.prot} {state}, {len(self.slots) - len(self.free)}/{len(self.slots)} slots, swapper {self.swapper}>"


def _explain_slot(xprt: Xprt) -> tuple[str, tuple[str, Any] | None]:
    """Say who has the slots: the oldest call is as good as any."""
    for req in xprt.slots:
        if req.rq_task is not None:
            return f"all {len(xprt.slots)} slots are in use", ("rpc", req.rq_task)
    return "slots are free", None


def _explain_reply(_xprt: object) -> tuple[str, None]:
    """Say what a reply needs, where no stack explains it better."""
    return "a reply needs a receive buffer here and the server's answer", None
