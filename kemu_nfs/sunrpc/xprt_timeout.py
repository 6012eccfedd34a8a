"""How long a call waits for its reply, and when its server is declared silent (2.6.23 net/sunrpc/xprt.c).

Interface
    * :class:`XprtTimeout`; TCP_TIMEOUT, UDP_TIMEOUT: what a mount without options has.
    * :class:`XprtTimeouts`, base of Xprt: ``xprt_adjust_timeout(req)``.

Rules of this file
    * After each timeout that is not a major one the next is longer: twice as long (UDP), or by the increment (TCP), up to maxval.
      A major timeout comes when all retries together are over; then it begins anew, and so do the estimates of round trips.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kemu.kernel.timer import HZ

if TYPE_CHECKING:
    from kemu.kernel.sched import Sched
    from kemu_nfs.sunrpc.rpc_task import RpcRqst

NFS_MAX_UDP_TIMEOUT: Final = 60 * HZ
NFS_MAX_TCP_TIMEOUT: Final = 600 * HZ


@attrs.frozen
class XprtTimeout:
    """``struct rpc_timeout``, in jiffies."""

    initval: int
    maxval: int
    increment: int
    retries: int
    exponential: bool


TCP_TIMEOUT: Final = XprtTimeout(60 * HZ, NFS_MAX_TCP_TIMEOUT, 60 * HZ, 2, exponential=False)
UDP_TIMEOUT: Final = XprtTimeout(7 * HZ // 10, NFS_MAX_UDP_TIMEOUT, 0, 5, exponential=True)


class XprtTimeouts:
    """The timeouts of a transport's calls."""

    timeout: XprtTimeout
    sched: Sched

    def _xprt_reset_majortimeo(self, req: RpcRqst) -> None:
        """Compute when the server is declared silent (xprt_reset_majortimeo())."""
        timeout = self.timeout
        major = req.rq_timeout
        if timeout.exponential:
            major <<= timeout.retries
        else:
            major += timeout.increment * timeout.retries
        if major > timeout.maxval or not major:
            major = timeout.maxval
        req.rq_majortimeo = major + self.sched.jiffies

    def xprt_adjust_timeout(self, req: RpcRqst) -> bool:
        """Choose the next timeout; tell whether this was a major one (xprt_adjust_timeout())."""
        timeout = self.timeout
        if self.sched.jiffies < req.rq_majortimeo:
            if timeout.exponential:
                req.rq_timeout <<= 1
            else:
                req.rq_timeout += timeout.increment
            if timeout.maxval and req.rq_timeout >= timeout.maxval:
                req.rq_timeout = timeout.maxval
            req.rq_retries += 1
            return False
        req.rq_timeout = timeout.initval
        req.rq_retries = 0
        self._xprt_reset_majortimeo(req)
        if req.rq_task is not None:
            req.rq_task.tk_client.cl_rtt.rpc_init_rtt(timeout.initval)
        return True
