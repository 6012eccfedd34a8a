"""Wait for what the script expects of the machine, and compare.

Interface: ``Expecting(host, conns, config, stimulus).expect(packet, start, last, base, origin) -> str | None``: what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kemu_net.testing.pd_ast import FIN, PSH, SYN, Packet, TcpSpec
from kemu_net.testing.pd_match import differs
from kemu_net.testing.pd_text import show_seen, show_spec
from kemu_net.testing.pd_wire import TCP, Seen

if TYPE_CHECKING:
    from kemu_net.testing.pd_config import Config
    from kemu_net.testing.pd_conn import Conn
    from kemu_net.testing.pd_host import Host
    from kemu_net.testing.pd_table import Conns

SECOND: Final = 1_000_000_000
_STIMULUS_NS: Final = 1_000_000  # an answer "at once" takes microseconds
_ANY_NS: Final = 1000 * SECOND  # how long '*' waits
_STIMULUS_ANY_NS: Final = 100_000_000


class Expecting:
    """Compares the packets of the machine with the script, in their order.

    :ivar passed_over: packets of other connections and protocols that stood in the way of an expected segment.
    """

    def __init__(self, host: Host, conns: Conns, config: Config, stimulus: bool) -> None:
        self.host = host
        self.conns = conns
        self.config = config
        self.stimulus = stimulus
        self.passed_over: list[str] = []
        self._owners: dict[int, Conn | None] = {}
        self._first_stamp: tuple[int, int] | None = None
        host.peer.on_seen = self._heard

    def _heard(self, seen: Seen) -> None:
        """Learn from every packet at once, so that what the peer sends next has the right numbers."""
        self._owners[id(seen)] = self.conns.heard(seen)

    def _take(self) -> tuple[Seen, Conn | None]:
        seen = self.host.peer.seen.popleft()
        return seen, self._owners.pop(id(seen), None)

    def expect(self, packet: Packet, start: int | None, last: int | None, base: int, origin: int) -> str | None:
        """Wait for a packet between ``start`` and ``last`` (None: any time) and compare it."""
        body = packet.body
        if isinstance(body, TcpSpec) and body.flags & SYN and self.conns.current is not None:
            self.conns.current.expect(body)
        slack = 0
        latest = base + (_STIMULUS_ANY_NS if self.stimulus else _ANY_NS)
        if start is not None and last is not None:
            slack = max(self.config.tolerance, int((start - base) * self.config.tolerance_percent / 100))
            latest = last + slack
        if self.stimulus:
            if start is not None:
                self.host.run(None, start)  # what follows is as far from here as the script says, whenever the packet came
            self._look(packet, latest if last is None else last + max(self.config.tolerance, _STIMULUS_NS))
            return None
        peer = self.host.peer
        self.host.run(lambda: self._candidate(packet), latest)
        if not peer.seen:
            until = (max(latest, self.host.now) - origin) / SECOND
            return f"expected {show_spec(packet)}, but nothing was sent until {until:.6f}"
        seen, conn = self._take()
        seen = self._gather(packet, seen, latest)
        return self._compare(packet, seen, conn, (start, last, slack, origin))

    def _candidate(self, packet: Packet) -> bool:
        """Pass over what another connection sent, as packetdrill does; tell whether something is left to compare."""
        body = packet.body
        seen = self.host.peer.seen
        current = self.conns.current
        while seen and isinstance(body, TcpSpec) and current is not None and current.proto == TCP:
            owner = self._owners.get(id(seen[0]))
            other = owner is not None and owner is not current and body.ports != (seen[0].sport, seen[0].dport)
            if seen[0].proto == TCP and not other:
                break
            self.passed_over.append(show_seen(self._take()[0]))
        return bool(seen)

    def _compare(self, packet: Packet, seen: Seen, conn: Conn | None, times: tuple[int | None, int | None, int, int]) -> str | None:
        """Compare fields, then the time."""
        body = packet.body
        spec = body if isinstance(body, TcpSpec) else None
        start, last, slack, origin = times
        shown = seen if conn is None or seen.proto != TCP else conn.to_script(seen, spec)
        at = f"{(seen.time - origin) / SECOND:.6f}"
        problem = differs(packet, shown)
        if problem is None and conn is not None and seen.proto == TCP:
            if conn.compares and not conn.right_data(seen):
                problem = "the payload is not what was written at its place"
            elif spec is not None:
                problem = self._stamp(spec, seen)
                conn.pair(spec, seen)
        if problem is not None:
            return f"expected {show_spec(packet)}, but {problem}; sent at {at}: {show_seen(shown)}"
        if start is not None and last is not None and not start - slack <= seen.time <= last + slack:
            begin, end = (f"{(time - origin) / SECOND:.6f}" for time in (start, last))
            when = begin if begin == end else f"from {begin} to {end}"
            return f"expected {show_spec(packet)} at {when}, but it was sent at {at} (tolerance {slack / SECOND:.6f})"
        return None

    def _gather(self, packet: Packet, seen: Seen, latest: int) -> Seen:
        """Take segments in a row for one when the script expects more than one holds."""
        body = packet.body
        if not isinstance(body, TcpSpec) or seen.proto != TCP or not 0 < len(seen.payload) < body.length:
            return seen
        peer = self.host.peer
        while len(seen.payload) < body.length and not seen.flags & (SYN | FIN):
            self.host.run(lambda: bool(peer.seen), latest)
            if not peer.seen:
                break
            more = peer.seen[0]
            if more.seq != seen.seq + len(seen.payload) & 0xFFFFFFFF or not more.payload or more.dport != seen.dport:
                break
            if len(seen.payload) + len(more.payload) > body.length:
                break
            self._take()
            flags = seen.flags & ~PSH | more.flags
            seen = attrs.evolve(seen, payload=seen.payload + more.payload, flags=flags, valid=seen.valid and more.valid)
        return seen

    def _stamp(self, spec: TcpSpec, seen: Seen) -> str | None:
        """Compare TS val with the clock, if the script says how long a tick is."""
        tick = self.config.ts_tick
        written = next((option.values[0] for option in spec.options or () if option.name == "TS"), None)
        found = next((option.values[0] for option in seen.options if option.name == "TS" and len(option.values) == 2), None)
        if not tick or written is None or found is None:
            return None
        if self._first_stamp is None:
            self._first_stamp = (written, found)
            return None
        first_written, first_found = self._first_stamp
        wanted, gone = written - first_written, found - first_found & 0xFFFFFFFF
        allowed = self.config.tolerance // tick + 1
        return None if abs(wanted - gone) <= allowed else f"TS val is {gone} ticks after the first, not {wanted}"

    def _look(self, packet: Packet, latest: int) -> None:
        """Wait for a packet of this kind no longer than the script does, and learn from it if it comes."""
        body = packet.body
        peer = self.host.peer
        if not peer.seen:
            self.host.run(lambda: bool(peer.seen), latest)
        for index, seen in enumerate(list(peer.seen)):
            conn = self._owners.get(id(seen))
            if isinstance(body, TcpSpec) and conn is not None and seen.proto == TCP:
                shown = conn.to_script(seen, body)
                if (shown.flags & ~PSH, shown.seq) == (body.flags & ~PSH, body.seq):
                    for _ in range(index + 1):
                        self._take()
                    conn.pair(body, seen)
                    return
        if peer.seen and self.host.now >= latest:
            self._take()  # one for one, so that what is kept does not grow
        elif not peer.seen:
            return
        self.host.run(None, latest)
