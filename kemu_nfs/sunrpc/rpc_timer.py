"""How long a call over UDP takes, estimated from those before it (2.6.23 net/sunrpc/timer.c; Jacobson and Karels, SIGCOMM 1988).

Interface
    * :class:`RpcRtt`, one per client: ``rpc_update_rtt(timer, jiffies)``, ``rpc_calc_rto(timer)``, ``rpc_set_timeo``,
      ``rpc_ntimeo``, ``rpc_init_rtt``.

Rules of this file
    * Calls of a kind (RpcProc.p_timer: 1 attributes, 2 lookups, 3 reads, 4 writes, 5 commits) have an estimate in common; kind 0
      has none and waits for the mount's timeo.
    * All in jiffies; ``srtt`` is eight times the mean, ``sdrtt`` four times the deviation, which is never below HZ/10.
    * Only a call that was sent once tells a time (Karn): the other's reply might answer either try. ``ntimeouts`` remembers how
      often the last ones had to be sent, and shrinks by one with each that went better.
"""

from __future__ import annotations

from typing import Final

from kemu.kernel.timer import HZ

RPC_RTO_MAX: Final = 60 * HZ
RPC_RTO_INIT: Final = HZ // 5
RPC_RTO_MIN: Final = HZ // 10
_KINDS: Final = 5
_MAX_NTIMEO: Final = 8


class RpcRtt:
    """``struct rpc_rtt``."""

    __slots__ = ("ntimeouts", "sdrtt", "srtt", "timeo")

    def __init__(self, timeo: int) -> None:
        self.rpc_init_rtt(timeo)

    def rpc_init_rtt(self, timeo: int) -> None:
        """Begin with the mount's timeout as the first estimate; after a major timeout begin so again."""
        self.timeo = timeo
        self.srtt = [max(0, timeo - RPC_RTO_INIT) << 3] * _KINDS
        self.sdrtt = [RPC_RTO_INIT] * _KINDS
        self.ntimeouts = [0] * _KINDS

    def rpc_update_rtt(self, timer: int, measured: int) -> None:
        """Learn from a call that took ``measured`` jiffies."""
        if not timer:
            return
        kind = timer - 1
        error = max(measured, 1) - (self.srtt[kind] >> 3)
        self.srtt[kind] += error
        self.sdrtt[kind] = max(self.sdrtt[kind] + abs(error) - (self.sdrtt[kind] >> 2), RPC_RTO_MIN)

    def rpc_calc_rto(self, timer: int) -> int:
        """Return how long to wait for a reply."""
        if not timer:
            return self.timeo
        return min((self.srtt[timer - 1] + 7 >> 3) + self.sdrtt[timer - 1], RPC_RTO_MAX)

    def rpc_set_timeo(self, timer: int, ntimeo: int) -> None:
        """Remember that a call timed out ``ntimeo`` times."""
        if not timer:
            return
        last = self.ntimeouts[timer - 1]
        self.ntimeouts[timer - 1] = max(last - 1, 0) if ntimeo < last else min(ntimeo, _MAX_NTIMEO)

    def rpc_ntimeo(self, timer: int) -> int:
        """Return how often the last calls timed out."""
        return self.ntimeouts[timer - 1] if timer else 0
