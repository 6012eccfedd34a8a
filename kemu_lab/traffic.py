"""Foreign hosts of a scenario: a background that never ends, floods of UDP, floods of fragments that never become a packet.

Interface: :class:`ForeignHosts` with ``begin()``, ``flood(phase)``, ``flooding``, ``end()``; :class:`FragmentGenerator`.

Rules of this file
    * Sockets that are full take nothing more, and what they do not take presses nobody: each flood of UDP has sockets of its own,
      and so has the background.
    * Fragments are first ones of datagrams whose rest never comes; no two within the life of a queue belong together.
"""

from __future__ import annotations

import struct

from kemu_lab.hosts import CLIENT_IP, Pair
from kemu_net.core.checksum import csum_fold, csum_partial
from kemu_net.drivers.generator import FrameGenerator

BACKGROUND_RATE = 20  # frames per second
FLOOD_RATE = 5000
FLOOD_NS = 2_000_000_000
FRAGMENT_BYTES = 1472
FRAGMENT_IDS = 2048  # far more than queues fit into the reassembly limits
_HEADER = struct.Struct("!BBHHHBBHII")
_MORE_FRAGMENTS = 0x2000
_UDP = 17


class FragmentGenerator(FrameGenerator):
    """Bursts of first fragments; a target is (address, identification)."""

    def _frame(self, target_mac: bytes, daddr: int, ident: int, payload: bytes) -> bytes:
        """Make one frame."""
        header = _HEADER.pack(0x45, 0, 20 + len(payload), ident, _MORE_FRAGMENTS, 64, _UDP, 0, self.ip, daddr)
        header = header[:10] + csum_fold(csum_partial(header)).to_bytes(2, "big") + header[12:]
        return target_mac + self.mac + b"\x08\x00" + header + payload


class ForeignHosts:
    """The hosts that nobody asked.

    :param kinds: the kinds of floods, taken in turn: "udp-flood", "fragments"; none if empty.
    :param background: ports of sockets for the background; ``groups``: ports for the floods, a group each, taken in turn.
    """

    def __init__(self, pair: Pair, kinds: list[str], background: list[int], groups: list[list[int]]) -> None:
        self.pair = pair
        self.kinds = kinds
        self.floods = 0
        targets = [(CLIENT_IP, port) for port in background]
        self.background = pair.frame_generator(targets, BACKGROUND_RATE, 10**9, period_ns=10**9, bursts=0)
        self.udp = [pair.frame_generator([(CLIENT_IP, port) for port in group], FLOOD_RATE, FLOOD_NS) for group in groups]
        idents = [(CLIENT_IP, ident) for ident in range(1, FRAGMENT_IDS + 1)]
        self.fragments = pair.frame_generator(idents, FLOOD_RATE, FLOOD_NS, kind=FragmentGenerator, payload=FRAGMENT_BYTES)
        self._udp_floods = 0
        self._now: FrameGenerator | None = None

    @property
    def flooding(self) -> bool:
        """Tell whether a flood goes on."""
        return self._now is not None and self._now.running

    @property
    def sent(self) -> int:
        """Count the frames of all hosts."""
        return self.background.sent + self.fragments.sent + sum(host.sent for host in self.udp)

    def begin(self) -> None:
        """Begin the background."""
        self.background.start(self.pair.world.now)

    def flood(self) -> None:
        """Begin the next flood."""
        if not self.kinds:
            return
        if self._now is not None:
            self._now.stop()
        kind = self.kinds[self.floods % len(self.kinds)]
        self.floods += 1
        if kind == "fragments":
            self._now = self.fragments
        else:
            self._now = self.udp[self._udp_floods % len(self.udp)]
            self._udp_floods += 1
        self._now.start(self.pair.world.now)

    def end(self) -> None:
        """End everything."""
        self.background.stop()
        if self._now is not None:
            self._now.stop()
