"""Foreign traffic: a host on the wire that is only a source of frames.

Interface
    FrameGenerator(world, wire, mac, ip, target_mac, targets, ...)
        start(at_ns)         begin with the first burst
        stop()               send no more
        sent                 frames handed to the wire

Rules
    * Frames are UDP with right checksums, round robin over ``targets``: an even load fills all sockets alike. Payload bytes and the
      gaps inside a burst come from the seed.
    * It answers ARP requests for its address, so that replies to it (ICMP) end somewhere; everything else it receives it forgets.
    * One event of the world per frame: a frame that was given to the wire ahead of its time would hold up others' frames.
"""

from __future__ import annotations

import struct
from random import Random
from typing import TYPE_CHECKING

from kemu.errors import ConfigError
from kemu_net.core.checksum import csum_fold, csum_partial, csum_tcpudp_magic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kemu.kernel.cpu import Event
    from kemu.kernel.world import World
    from kemu_net.drivers.wire import Wire

_IP = struct.Struct("!BBHHHBBHII")
_UDP = struct.Struct("!HHHH")
_ARP = struct.Struct("!HHBBH6sI6sI")
_NSEC_PER_SEC = 1_000_000_000


class FrameGenerator:
    """Bursts of UDP frames.

    :param target_mac: whose NIC the frames are for.
    :param targets: (address, port) of the sockets.
    :param rate: frames per second inside a burst.
    :param burst_ns: length of a burst; ``period_ns`` from one begin to the next, 0 for a single burst.
    :param bursts: how many; 0 goes on for ever.
    :param payload: bytes of UDP payload.
    """

    def __init__(
        self,
        world: World,
        wire: Wire,
        mac: bytes,
        ip: int,
        target_mac: bytes,
        targets: Sequence[tuple[int, int]],
        *,
        rate: int = 5000,
        burst_ns: int = 300_000_000,
        period_ns: int = 0,
        bursts: int = 1,
        payload: int = 1024,
        seed: int = 0,
    ) -> None:
        if not targets or rate < 1 or burst_ns < 1 or not 0 <= payload <= 1472:
            raise ConfigError("generator: needs targets, a rate and a burst of at least 1, and a payload of 0 to 1472 bytes")
        if bursts != 1 and period_ns < burst_ns:
            raise ConfigError("generator: several bursts need a period that is not shorter than a burst")
        self.world = world
        self.wire = wire
        self.mac = mac
        self.ip = ip
        self.gap_ns = max(1, _NSEC_PER_SEC // rate)
        self.frames_per_burst = max(1, burst_ns // self.gap_ns)
        self.period_ns = period_ns
        self.bursts = bursts
        self.sent = 0
        self.received = 0
        rng = Random(seed)
        self._frames = [self._frame(target_mac, ip, port, rng.randbytes(payload)) for ip, port in targets]
        self._next = 0
        self._burst = 0
        self._in_burst = 0
        self._burst_start = 0
        self._event: Event | None = None
        wire.attach(self)

    def _frame(self, target_mac: bytes, daddr: int, port: int, payload: bytes) -> bytes:
        """Make one frame."""
        udp = _UDP.pack(9, port, 8 + len(payload), 0) + payload
        check = csum_tcpudp_magic(self.ip, daddr, 17, udp) or 0xFFFF
        udp = udp[:6] + check.to_bytes(2, "big") + payload
        header = _IP.pack(0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0, self.ip, daddr)
        header = header[:10] + csum_fold(csum_partial(header)).to_bytes(2, "big") + header[12:]
        return (target_mac + self.mac + b"\x08\x00" + header + udp).ljust(60, b"\0")

    def start(self, at_ns: int) -> None:
        """Begin the first burst at ``at_ns``, or at once if that has passed."""
        self._burst = self._in_burst = 0
        self._burst_start = at_ns
        self._post(at_ns)

    def stop(self) -> None:
        """End the traffic."""
        if self._event is not None:
            self._event.cancel()
            self._event = None

    @property
    def running(self) -> bool:
        """Tell whether more frames will come."""
        return self._event is not None

    def _post(self, at_ns: int) -> None:
        self._event = self.world.post(at_ns, self._send, at_ns)

    def _send(self, at_ns: int) -> None:
        """Give the next frame to the wire."""
        self.wire.transmit(self, self._frames[self._next], at_ns)
        self._next = (self._next + 1) % len(self._frames)
        self.sent += 1
        self._in_burst += 1
        if self._in_burst < self.frames_per_burst:
            self._post(self._burst_start + self._in_burst * self.gap_ns)
            return
        self._burst += 1
        self._in_burst = 0
        self._event = None
        if self.bursts == 0 or self._burst < self.bursts:
            self._burst_start += self.period_ns
            self._post(self._burst_start)

    def deliver(self, time: int, frame: bytes) -> None:
        """Answer ARP requests for the own address; called from the sender's context."""
        self.received += 1
        if len(frame) < 42 or frame[12:14] != b"\x08\x06":
            return
        _hw, _proto, _hlen, _plen, op, sha, sip, _tha, tip = _ARP.unpack_from(frame, 14)
        if op == 1 and tip == self.ip:
            reply = _ARP.pack(1, 0x0800, 6, 4, 2, self.mac, self.ip, sha, sip)
            self.wire.transmit(self, (sha + self.mac + b"\x08\x06" + reply).ljust(60, b"\0"), time)
