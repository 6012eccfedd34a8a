"""The phases of a run: what the counters did between two moments, and what was seen in between.

Interface: :class:`Phase`, what is told of one; :class:`PhaseMeter` with ``begin(name)``, ``sample(position)``, ``end()``, ``done``.

Rules of this file
    * Events are differences of the machine's counters; lows, highs and stalls are what the samples saw.
    * A stall is time in which no process touched a page; one that outlasts a phase counts in each phase as far as it lay in it.
    * Nothing in the machines changes, but that the high-water mark of the SKB data reserve begins anew with each phase.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from kemu_lab.hosts import Pair


@attrs.define
class Phase:
    """What happened in one phase. Times are virtual ns.

    :ivar reserve_peak_bytes: the most of the SKB data reserve that was in use at once.
    :ivar drops: what the gates dropped, as net.drops of the whole run.
    """

    name: str
    begin_ns: int
    virtual_ns: int = 0
    touches: int = 0
    pages_out: int = 0
    pages_in: int = 0
    writes: int = 0
    reads: int = 0
    retransmissions: int = 0
    reconnects: int = 0
    rx_frames: int = 0
    emergency_skbs: int = 0
    free_low: int = 0
    free_high: int = 0
    reserve_peak_bytes: int = 0
    drops: dict[str, int] = attrs.Factory(dict)
    direct_reclaims: int = 0
    longest_stall_ns: int = 0


class PhaseMeter:
    """Measures one phase after the other.

    :ivar done: the phases that have ended.
    :ivar reserve_peak: of the whole run.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.done: list[Phase] = []
        self.reserve_peak = 0
        self._phase: Phase | None = None
        self._at_begin: dict[str, int] = {}
        self._drops_at_begin: dict[str, int] = {}
        self._first_position = self._position = 0
        self._moved_ns = 0

    def _counters(self) -> dict[str, int]:
        """Read what is counted, by the names of Phase."""
        pair = self.pair
        vmstat, nfs, net = pair.client.vmstat, pair.mount.stats, pair.client_net.stats
        return {
            "pages_out": vmstat.pswpout,
            "pages_in": vmstat.pswpin,
            "writes": nfs.writes,
            "reads": nfs.reads,
            "retransmissions": nfs.retransmissions,
            "reconnects": nfs.reconnects,
            "rx_frames": net.rx_frames,
            "emergency_skbs": net.emergency_skbs,
            "direct_reclaims": vmstat.allocstall,
        }

    def begin(self, name: str, position: int) -> None:
        """Begin a phase; the one that went on ends."""
        self.end()
        now = self.pair.world.now
        free = self.pair.client.page_alloc.nr_free_pages()
        self._phase = Phase(name, now, free_low=free, free_high=free)
        self._at_begin = self._counters()
        self._drops_at_begin = dict(self.pair.client_net.stats.drops)
        self._first_position = self._position = position
        self._moved_ns = now
        reserves = self.pair.client_net.net_reserves
        self.reserve_peak = max(self.reserve_peak, reserves.peak_usage)
        reserves.peak_usage = reserves.net_skb_reserve.usage

    def sample(self, position: int) -> None:
        """Look at what goes up and down; ``position`` counts the touches of all processes."""
        phase = self._phase
        if phase is None:
            return
        free = self.pair.client.page_alloc.nr_free_pages()
        if free < phase.free_low:
            phase.free_low = free
        elif free > phase.free_high:
            phase.free_high = free
        if position != self._position:
            self._position = position
            self._look_at_stall(phase)
            self._moved_ns = self.pair.world.now

    def _look_at_stall(self, phase: Phase) -> None:
        phase.longest_stall_ns = max(phase.longest_stall_ns, self.pair.world.now - self._moved_ns)

    def end(self) -> None:
        """End the phase that goes on, if one does."""
        phase = self._phase
        if phase is None:
            return
        self._phase = None
        self._look_at_stall(phase)
        phase.virtual_ns = self.pair.world.now - phase.begin_ns
        phase.touches = self._position - self._first_position
        for name, value in self._counters().items():
            setattr(phase, name, value - self._at_begin[name])
        drops = self.pair.client_net.stats.drops
        phase.drops = {gate: count - self._drops_at_begin.get(gate, 0) for gate, count in drops.items()}
        phase.reserve_peak_bytes = self.pair.client_net.net_reserves.peak_usage
        self.reserve_peak = max(self.reserve_peak, phase.reserve_peak_bytes)
        self.done.append(phase)
