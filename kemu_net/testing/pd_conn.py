"""A connection of a script: from the script's numbers to those on the wire and back.

Interface: :class:`Conn`: ``to_wire(spec)`` for what the peer sends, ``to_script(seen)`` for what it got, ``learn(seen)``.

Rules of this file
    * The script's sequence numbers count from each side's first SYN. The machine's own is learned from the wire; the peer's is the
      script's plus ``remote_offset``.
    * Timestamps of the machine are learned from the packets that match: TS val N of the script stands for what was sent there. A TS
      ecr that names no such value is as far from the first pair as in the script. The peer's are sent as they are written.
    * SACK edges that the peer sends are of the machine's numbers, those of the machine of the peer's.
    * Payload is fill() of its position behind the SYN, so that both directions can be compared with what belongs there.
"""

from __future__ import annotations

import attrs

from kemu_net.testing.pd_ast import ACK, SYN, Option, TcpSpec
from kemu_net.testing.pd_wire import Seen, fill, pack_options, tcp_segment

M32 = 0xFFFFFFFF


@attrs.define(eq=False)
class Conn:
    """One connection, listener or datagram socket of the script.

    :ivar local_isn: the machine's first number on the wire, None before its SYN; ``script_isn`` is the script's for it.
    :ivar ts: TS val of the script -> on the wire.
    :ivar compares: its bytes are fill()'s, and are compared.
    :ivar received: the next position of the stream that read() will give; ``written``: that write() will take.
    """

    proto: int
    local_ip: int
    remote_ip: int
    local_port: int = 0
    remote_port: int = 0
    listening: bool = False
    remote_offset: int = 0
    remote_isn: int = 0
    local_isn: int | None = None
    script_isn: int = 0
    ts: dict[int, int] = attrs.Factory(dict)
    ts_first: tuple[int, int] | None = None
    ts_last: int | None = None
    received: int = 0
    written: int = 0
    parent: Conn | None = None
    compares: bool = True

    @property
    def ends(self) -> tuple[int, int, int]:
        """The connection as its packets name it: protocol, own port, the peer's port."""
        return (self.proto, self.local_port, self.remote_port)

    def _out(self, number: int) -> int:
        """Give a number of the machine's stream as it is on the wire."""
        return number - self.script_isn + (self.script_isn if self.local_isn is None else self.local_isn) & M32

    def _out_script(self, number: int) -> int:
        """Give a number of the machine's stream from the wire as the script would write it."""
        return number - (self.script_isn if self.local_isn is None else self.local_isn) + self.script_isn & M32

    # the peer sends

    def to_wire(self, spec: TcpSpec, ports: tuple[int, int]) -> bytes:
        """Make the segment that the script says the peer sends."""
        if spec.flags & SYN:
            self.remote_isn = spec.seq
        seq = spec.seq + self.remote_offset & M32
        ack = self._out(spec.ack or 0) if spec.flags & ACK or spec.ack else 0
        options = tuple(map(self._option_to_wire, spec.options or ()))
        start = spec.seq - self.remote_isn - (0 if spec.flags & SYN else 1)
        data = fill(start, spec.length)
        return tcp_segment(
            self.remote_ip,
            self.local_ip,
            ports,
            (seq, ack),
            spec.flags,
            spec.win or 0,
            spec.urg,
            pack_options(options)[:40],
            data,
        )

    def _option_to_wire(self, option: Option) -> Option:
        if option.name == "sack":
            return Option("sack", tuple(map(self._out, option.values)))
        if option.name == "TS":
            return Option("TS", (option.values[0], self._echo(option.values[1])))
        return option

    def _echo(self, ecr: int) -> int:
        """Give the timestamp of the machine that the script's ecr stands for."""
        known = self.ts.get(ecr)
        if known is not None:
            return known
        if self.ts_first is None or not ecr:
            return ecr if self.ts_last is None or not ecr else self.ts_last
        script, wire = self.ts_first
        return wire + ecr - script & M32

    # the machine sends

    def learn(self, seen: Seen) -> None:
        """Take what every packet tells of the machine's numbers."""
        if seen.flags & SYN:
            self.local_isn = seen.seq
        stamp = next((option.values for option in seen.options if option.name == "TS" and len(option.values) == 2), None)
        if stamp is not None:
            self.ts_last = stamp[0]

    def expect(self, spec: TcpSpec) -> None:
        """Take what the script says of the machine's numbers."""
        if spec.flags & SYN:
            self.script_isn = spec.seq

    def pair(self, spec: TcpSpec, seen: Seen) -> None:
        """Connect the timestamps of an expected packet and the one that came."""
        written = next((option.values for option in spec.options or () if option.name == "TS"), None)
        found = next((option.values for option in seen.options if option.name == "TS" and len(option.values) == 2), None)
        if written is not None and found is not None:
            self.ts[written[0]] = found[0]
            if self.ts_first is None:
                self.ts_first = (written[0], found[0])

    def to_script(self, seen: Seen, spec: TcpSpec | None = None) -> Seen:
        """Give a packet of the machine in the script's numbers; TS val is that of ``spec``, where there is one."""
        options = tuple(self._option_to_script(option, spec) for option in seen.options)
        ack = seen.ack - self.remote_offset & M32 if seen.flags & ACK else seen.ack
        return attrs.evolve(seen, seq=self._out_script(seen.seq), ack=ack, options=options)

    def _option_to_script(self, option: Option, spec: TcpSpec | None) -> Option:
        if option.name == "sack":
            return Option("sack", tuple(edge - self.remote_offset & M32 for edge in option.values))
        if option.name == "TS" and len(option.values) == 2:
            written = next((each.values for each in (spec.options if spec else None) or () if each.name == "TS"), None)
            return Option("TS", (written[0] if written else option.values[0], option.values[1]))
        return option

    def right_data(self, seen: Seen) -> bool:
        """Tell whether a segment's payload is what was written at its position."""
        if self.local_isn is None:
            return True
        return seen.payload == fill(seen.seq - self.local_isn - 1 & M32, len(seen.payload))
