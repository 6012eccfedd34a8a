"""The other end of the wire: answers ARP, keeps what the machine sends, and sends what the script says.

Interface: ``Peer(world, wire, mac, target_mac, addresses)``; ``send(packet)``, ``seen`` (a deque of Seen), ``frames`` heard.

Rules of this file
    * ARP requests for its addresses (the gateway and the remote host) are answered at once and never seen by the script.
    * A packet's time is when the machine gave it to its card: the wire's latency is taken off.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

from kemu_net.testing.pd_wire import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kemu.kernel.world import World
    from kemu_net.drivers.wire import Wire

_ARP = struct.Struct("!HHBBH6sI6sI")
_REQUEST, _REPLY = 1, 2
_MIN_FRAME = 60


class Peer:
    """A port of the wire.

    :ivar addresses: the IPv4 addresses that it answers ARP for.
    :ivar seen: IPv4 packets of the machine that nobody has looked at.
    :ivar on_seen: called with each.
    """

    def __init__(self, world: World, wire: Wire, mac: bytes, target_mac: bytes, addresses: Collection[int]) -> None:
        self.mac = mac
        self.addresses = addresses
        self.seen: deque[Seen] = deque()
        self.on_seen: Callable[[Seen], None] | None = None
        self._world = world
        self._wire = wire
        self._target = target_mac
        wire.attach(self)

    def deliver(self, time: int, frame: bytes) -> None:
        """Take a frame of the machine."""
        if frame[12:14] == b"\x08\x06":
            self._answer(time, frame)
            return
        seen = Seen.read(time - self._wire.latency_ns, frame)
        if seen is not None:
            self.seen.append(seen)
            if self.on_seen is not None:
                self.on_seen(seen)

    def _answer(self, time: int, frame: bytes) -> None:
        """Answer an ARP request."""
        if len(frame) < 42:
            return
        _hw, _proto, _hlen, _plen, op, sha, sip, _tha, tip = _ARP.unpack_from(frame, 14)
        if op != _REQUEST or tip not in self.addresses:
            return
        reply = self._target + self.mac + b"\x08\x06" + _ARP.pack(1, 0x0800, 6, 4, _REPLY, self.mac, tip, sha, sip)
        self._world.post(time, self._transmit, reply.ljust(_MIN_FRAME, b"\0"))

    def send(self, packet: bytes) -> None:
        """Send an IPv4 packet to the machine now."""
        self._transmit((self._target + self.mac + b"\x08\x00" + packet).ljust(_MIN_FRAME, b"\0"))

    def _transmit(self, frame: bytes) -> None:
        self._wire.transmit(self, frame, self._world.now)
