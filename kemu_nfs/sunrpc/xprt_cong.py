"""Congestion control of a transport without a connection (2.6.23 net/sunrpc/xprt.c: xprt_reserve_xprt_cong() and friends).

Interface
    * :class:`CongXprt`, base of UdpXprt: an Xprt that sends only as many calls at once as the network seems to take, and learns
      from replies how long they take. The protocol calls ``xprt_complete_cong()`` with each reply.

Rules of this file
    * The window ``cwnd`` counts calls in units of RPC_CWNDSCALE. It begins at one, grows by one call per window of replies that
      came while it was full, up to the slot table, and is halved by each timeout (Van Jacobson).
    * A call counts from its first right to send until its reply, its timeout or its end.
    * A call waits for its kind's estimate, doubled for each time it, and the last ones of its kind, had to be sent again.
"""

from __future__ import annotations

from typing import Any, Final

from kemu.kernel.errno import EAGAIN
from kemu_nfs.sunrpc.rpc_sched import RpcSched
from kemu_nfs.sunrpc.rpc_task import RpcRqst, RpcTask
from kemu_nfs.sunrpc.xprt import Xprt
from kemu_nfs.sunrpc.xprt_timeout import XprtTimeout

RPC_CWNDSHIFT: Final = 8
RPC_CWNDSCALE: Final = 1 << RPC_CWNDSHIFT
RPC_INITCWND: Final = RPC_CWNDSCALE


class CongXprt(Xprt):
    """A transport with a congestion window.

    :ivar cong: what is on its way; ``cwnd`` what may be.
    """

    def __init__(self, rpc: RpcSched, addr: int, port: int, timeout: XprtTimeout, *, slots: int, reply_from: Any = None) -> None:
        super().__init__(rpc, addr, port, timeout, slots=slots, reply_from=reply_from)
        self.cong = 0
        self.cwnd = RPC_INITCWND
        self.estimates_rtt = True

    # -- the window ------------------------------------------------------------------------------------------------------------

    def _xprt_get_cong(self, req: RpcRqst | None) -> bool:
        """Count a call in the window if there is room (__xprt_get_cong())."""
        if req is None or req.rq_cong:
            return True
        if self.cong >= self.cwnd:
            return False
        req.rq_cong = True
        self.cong += RPC_CWNDSCALE
        return True

    def _xprt_put_cong(self, req: RpcRqst) -> None:
        """Count a call no more; the next may have its place (__xprt_put_cong())."""
        if req.rq_cong:
            req.rq_cong = False
            self.cong -= RPC_CWNDSCALE
            self._xprt_lock_write_next()

    def _xprt_grow_cwnd(self, req: RpcRqst) -> None:
        """Learn from a reply that more could be on its way (xprt_adjust_cwnd())."""
        cwnd = self.cwnd
        if cwnd <= self.cong:
            cwnd += (RPC_CWNDSCALE * RPC_CWNDSCALE + (cwnd >> 1)) // cwnd
            self.cwnd = min(cwnd, len(self.slots) << RPC_CWNDSHIFT)
            self._xprt_lock_write_next()
        self._xprt_put_cong(req)

    def _xprt_timer(self, task: RpcTask) -> None:
        """No reply in time: too much is on its way (xs_udp_timer(), xprt_adjust_cwnd())."""
        req = task.tk_rqstp
        if req is not None and not req.rq_received:
            self.cwnd = max(self.cwnd >> 1, RPC_CWNDSCALE)
            self._xprt_put_cong(req)
        super()._xprt_timer(task)

    # -- the right to send, for who has room in the window ---------------------------------------------------------------------

    def xprt_reserve_xprt(self, task: RpcTask) -> bool:
        """Take the right to send, or sleep until it is given (xprt_reserve_xprt_cong())."""
        req = task.tk_rqstp
        if self.locked:
            if self.snd_task is task:
                return True
        elif self._xprt_get_cong(req):
            self._xprt_take(task)
            return True
        task.tk_timeout = 0
        task.tk_status = -EAGAIN
        self.rpc.rpc_sleep_on(self.resend if req is not None and req.rq_ntrans else self.sending, task)
        return False

    def _xprt_take(self, task: RpcTask) -> None:
        self.locked = True
        self.snd_task = task
        req = task.tk_rqstp
        if req is not None:
            req.rq_bytes_sent = 0
            req.rq_ntrans += 1

    def _xprt_lock_write_next(self) -> None:
        """Hand the right to send to the next task, if there is room (__xprt_lock_write_next_cong())."""
        if self.locked or self.cong >= self.cwnd:
            return
        task = self.rpc.rpc_wake_up_next(self.resend) or self.rpc.rpc_wake_up_next(self.sending)
        if task is not None and self._xprt_get_cong(task.tk_rqstp):
            self._xprt_take(task)

    def xprt_release(self, task: RpcTask) -> None:
        """Take the slot back, and its place in the window (xprt_release(), xprt_release_rqst_cong())."""
        req = task.tk_rqstp
        if req is not None and req.rq_cong:
            if self.snd_task is task:
                self.xprt_release_write(task)
            self._xprt_put_cong(req)
        super().xprt_release(task)

    # -- round trips -----------------------------------------------------------------------------------------------------------

    def xprt_set_retrans_timeout_rtt(self, task: RpcTask, req: RpcRqst) -> int:
        """Return how many jiffies to wait for this reply (xprt_set_retrans_timeout_rtt())."""
        rtt = task.tk_client.cl_rtt
        timer = task.tk_proc.p_timer
        timeout = rtt.rpc_calc_rto(timer) << (rtt.rpc_ntimeo(timer) + req.rq_retries)
        maxval = self.timeout.maxval
        return timeout if 0 < timeout <= maxval else maxval

    def xprt_complete_cong(self, req: RpcRqst, task: RpcTask, reply: bytes) -> None:
        """Learn from a reply, then hand it to its call (xprt_adjust_cwnd(), xprt_update_rtt(), xprt_complete_rqst())."""
        self._xprt_grow_cwnd(req)
        timer = task.tk_proc.p_timer
        if timer:
            rtt = task.tk_client.cl_rtt
            if req.rq_ntrans == 1:
                rtt.rpc_update_rtt(timer, self.sched.jiffies - req.rq_xtime)
            rtt.rpc_set_timeo(timer, req.rq_ntrans - 1)
        self.xprt_complete_rqst(req, reply)

    def check(self) -> None:
        """Assert also that the window counts what is on its way."""
        super().check()
        assert self.cong == sum(req.rq_cong for req in self.slots) << RPC_CWNDSHIFT, self
        if self.slots:  # a transport that was destroyed has none
            assert RPC_CWNDSCALE <= self.cwnd <= len(self.slots) << RPC_CWNDSHIFT, self
