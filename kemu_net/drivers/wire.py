"""A switch with its cables: what happens to a frame between two NICs.

Interface
    Wire(world, ...)                 attach(port), transmit(port, frame, now) -> when the sender's cable is free
    Wire.cut(), mend(), change(...)  lose everything; end that; another latency, bandwidth, queue or chance, while it runs
    Wire.unplug(port), plug(port)    lose what one port sends and what is for it, and nothing else; end that
    Port                             what can be attached: ``mac`` and ``deliver(time, frame)``
    Watcher                          told of every frame's fate, the lost ones too: ``Wire.watcher``, for a capture

Rules
    * Each port has a cable of its own, full duplex. A frame first occupies the sender's cable, then, ``latency_ns`` later, the
      receiver's. The switch keeps at most ``queue`` frames for a receiver and drops what comes on top.
    * A frame goes to the port that owns its destination address; broadcasts and unknown addresses go to all others. Ports filter.
    * Nothing arrives earlier than ``latency_ns`` after it was sent: that is how far CPUs may run ahead of each other
      (``world.lookahead_ns``).
    * Chances are in 0..1 and drawn from one ``random.Random(seed)`` in the order of transmission; a chance of 0 draws nothing.
    * ``taps`` see every frame that leaves the switch, with the time of its arrival, in the order of transmission.
    * A frame is given to the receiver's cable when it is sent, not when it gets there: behind a long burst of one sender, one of
      another sender that would have come in between waits for the burst's end.
    * Left out: collisions, flow control, VLANs.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Protocol

import attrs

from kemu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kemu.kernel.world import World

FRAME_OVERHEAD = 24  # preamble, CRC and the gap between frames, in bytes on the cable
BROADCAST = b"\xff" * 6
CHANCES = ("loss", "reorder", "duplicate", "corrupt")


class Port(Protocol):
    """What a cable ends in."""

    mac: bytes

    def deliver(self, time: int, frame: bytes) -> None:
        """Take a frame whose last bit arrives at ``time``, which may still lie ahead."""


class Watcher(Protocol):
    """Who is told what becomes of frames; it must change nothing."""

    def arriving(self, sender: Port, port: Port, time: int, frame: bytes, late: int) -> None:
        """Take note that a frame will arrive at ``port`` at ``time``, ``late`` ns of it because it was held up to be reordered."""

    def lost(self, sender: Port, time: int, frame: bytes, why: str) -> None:
        """Take note that a frame, or the copy for one receiver, is lost: ``why`` is a key of ``Wire.dropped``."""

    def flipped(self, frame: bytes, bit: int) -> None:
        """Take note that ``frame`` has one wrong bit; it arrives next, or is lost."""


@attrs.define
class Faults:
    """What the cable does to the frames of one sender.

    :ivar loss: chance that a frame is lost; ``duplicate``, ``corrupt`` (one bit flips) and ``reorder`` (it arrives ``reorder_ns``
        later) likewise.
    """

    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder_ns: int = 300_000

    def changed(self, options: Mapping[str, float]) -> Faults:
        """Give these faults with some of them changed; a person's mistake is a :exc:`ConfigError`."""
        for name, value in options.items():
            if name == "reorder_ns":
                if value < 0:
                    raise ConfigError(f"wire: reorder_ns is at least 0, not {value}")
            elif name not in CHANCES:
                raise ConfigError(f"wire: there is no {name}; its faults are {', '.join(CHANCES)} and reorder_ns")
            elif not 0 <= value <= 1:
                raise ConfigError(f"wire: {name} is a chance from 0 to 1, not {value}")
        return attrs.evolve(self, **options)  # type: ignore[arg-type]  # reorder_ns is a whole number of ns

    def none(self) -> bool:
        """Tell whether frames pass unharmed."""
        return not (self.loss or self.reorder or self.duplicate or self.corrupt)


class Wire:
    """Connect ports.

    :param latency_ns: from the end of transmission to the begin of arrival.
    :param bandwidth_bps: of every cable, in each direction.
    :param queue: frames that the switch keeps for one receiver.
    :param faults: chances of :class:`Faults`, for the frames of every sender.
    :ivar dropped: frames lost, by reason: cut, loss, queue.
    """

    latency_ns: int
    bandwidth_bps: int
    queue: int

    def __init__(
        self,
        world: World,
        *,
        latency_ns: int = 50_000,
        bandwidth_bps: int = 1_000_000_000,
        queue: int = 1000,
        seed: int = 0,
        **faults: float,
    ) -> None:
        self._world = world
        self.rng = Random(seed)
        self.taps: list[Callable[[int, bytes], None]] = []
        self.watcher: Watcher | None = None
        self.dropped = {"cut": 0, "loss": 0, "queue": 0}
        self.is_cut = False
        self.ports: list[Port] = []
        self._by_mac: dict[bytes, Port] = {}
        self._uplink_free: dict[bytes, int] = {}
        self._downlink_free: dict[bytes, int] = {}
        self.faults = Faults().changed(faults)
        self.faults_of: dict[bytes, Faults] = {}
        self._unplugged: dict[bytes, Port] = {}
        self.change(latency_ns=latency_ns, bandwidth_bps=bandwidth_bps, queue=queue)

    def change(
        self,
        *,
        latency_ns: int | None = None,
        bandwidth_bps: int | None = None,
        queue: int | None = None,
        sender: bytes | None = None,
        **faults: float,
    ) -> None:
        """Be another wire from now on; what is not named stays. Frames that were sent before keep their times.

        :param sender: a port's address: the faults are those of its frames alone, whatever the others' are.
        """
        for name, value in (("latency_ns", latency_ns), ("bandwidth_bps", bandwidth_bps), ("queue", queue)):
            if value is not None:
                if value < 1:
                    raise ConfigError(f"wire: {name} is at least 1, not {value}")
                setattr(self, name, value)
        if latency_ns is not None:
            self._world.lookahead_ns = min(self._world.lookahead_ns, latency_ns)
        if sender is None:
            self.faults = self.faults.changed(faults)
        else:
            self.faults_of[sender] = self.faults_of.get(sender, self.faults).changed(faults)
        self._note_faults()

    def _note_faults(self) -> None:
        self._perfect = self.faults.none() and all(own.none() for own in self.faults_of.values()) and not self._unplugged

    def attach(self, port: Port) -> None:
        """Plug a port in."""
        if port.mac in self._by_mac:
            raise ConfigError(f"wire: two ports have the address {port.mac.hex(':')}")
        self.ports.append(port)
        self._by_mac[port.mac] = port
        self._uplink_free[port.mac] = 0
        self._downlink_free[port.mac] = 0

    def cut(self) -> None:
        """Lose every frame from now on; what is in flight still arrives."""
        self.is_cut = True

    def mend(self) -> None:
        """End :meth:`cut`."""
        self.is_cut = False

    def unplug(self, port: Port) -> None:
        """Pull one port's cable: its frames and those for it are lost (``dropped["cut"]``); what is in flight still arrives."""
        self._unplugged[port.mac] = port
        self._note_faults()

    def plug(self, port: Port) -> None:
        """End :meth:`unplug`."""
        self._unplugged.pop(port.mac, None)
        self._note_faults()

    def transmit(self, sender: Port, frame: bytes, now: int) -> int:
        """Send ``frame`` from ``sender`` at its local time ``now``; returns when its cable is free again."""
        bits_ns = (len(frame) + FRAME_OVERHEAD) * 8_000_000_000 // self.bandwidth_bps
        uplink = self._uplink_free
        mac = sender.mac
        sent = uplink[mac]
        if sent < now:
            sent = now
        uplink[mac] = sent = sent + bits_ns
        if self.is_cut:
            self._lose(sender, sent, frame, "cut")
        elif self._perfect:
            port = self._by_mac.get(frame[:6])
            if port is None or port is sender:
                self._forward(sender, frame, sent + self.latency_ns, bits_ns, 0)
            else:  # nearly every frame: what _forward() would do
                self._deliver(sender, port, frame, sent + self.latency_ns, bits_ns, 0)
        else:
            self._spoil(sender, frame, sent + self.latency_ns, bits_ns)
        return sent

    def _spoil(self, sender: Port, frame: bytes, arrival: int, bits_ns: int) -> None:
        """Forward a frame over a cable that loses, flips, delays and repeats."""
        if sender.mac in self._unplugged or frame[:6] in self._unplugged:
            self._lose(sender, arrival - self.latency_ns, frame, "cut")
            return
        rng = self.rng
        faults = self.faults_of.get(sender.mac, self.faults)
        if faults.loss and rng.random() < faults.loss:
            self._lose(sender, arrival - self.latency_ns, frame, "loss")
            return
        if faults.corrupt and rng.random() < faults.corrupt:
            bit = rng.randrange(len(frame) * 8)
            flipped = bytearray(frame)
            flipped[bit >> 3] ^= 1 << (bit & 7)
            frame = bytes(flipped)
            if self.watcher is not None:
                self.watcher.flipped(frame, bit)
        late = faults.reorder_ns if faults.reorder and rng.random() < faults.reorder else 0
        self._forward(sender, frame, arrival, bits_ns, late)
        if faults.duplicate and rng.random() < faults.duplicate:
            self._forward(sender, frame, arrival, bits_ns, late)

    def _forward(self, sender: Port, frame: bytes, arrival: int, bits_ns: int, late: int) -> None:
        """Hand a frame to whom it is addressed."""
        port = self._by_mac.get(frame[:6])
        if port is not None:
            if port is not sender:
                self._deliver(sender, port, frame, arrival, bits_ns, late)
            return
        for other in self.ports:
            if other is not sender and other.mac not in self._unplugged:
                self._deliver(sender, other, frame, arrival, bits_ns, late)

    def _lose(self, sender: Port, sent: int, frame: bytes, why: str) -> None:
        """Count a lost frame."""
        self.dropped[why] += 1
        if self.watcher is not None:
            self.watcher.lost(sender, sent, frame, why)

    def _deliver(self, sender: Port, port: Port, frame: bytes, arrival: int, bits_ns: int, late: int) -> None:
        """Queue a frame on the receiver's cable; what comes ``late`` lets others pass."""
        downlink = self._downlink_free
        mac = port.mac
        free = downlink[mac]
        if free > arrival - bits_ns:
            if free - arrival > self.queue * bits_ns:
                self._lose(sender, arrival - self.latency_ns, frame, "queue")
                return
            arrival = free + bits_ns
        downlink[mac] = arrival
        arrival += late
        for tap in self.taps:
            tap(arrival, frame)
        if self.watcher is not None:
            self.watcher.arriving(sender, port, arrival, frame, late)
        port.deliver(arrival, frame)
