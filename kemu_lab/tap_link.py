"""A TAP device at the far end of an emulated wire: real Linux answers there, and virtual time goes with real time.

Interface: :class:`TapLink` (world, wire, name, ip, prefix): ``port``, ``check_served(ports, text)``, ``close()``.

Rules of this file
    * Virtual time is never further ahead of real time than ``PUMP_NS``. When emulation is slower than the computer, it falls behind
      and goes on from where it is. Nothing of such a run can be repeated.
    * A network that this machine uses already is not taken from it: a namespace of one's own has none (``unshare -n``).
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kemu.errors import ConfigError
from kemu_lab.tap import TapPort, configure, open_tap

if TYPE_CHECKING:
    from kemu.kernel.world import World
    from kemu_net.drivers.wire import Wire

PUMP_NS = 500_000  # virtual time between two looks at the device, at most
LEAST_NS = 10_000  # and at least, while frames keep coming
LAG_NS = 50_000_000  # further behind than this, virtual time gives up catching up with real time
CONNECT_S = 5.0
ROUTES = Path("/proc/net/route")


class TapLink:
    """The device, with real Linux at ``ip``.

    :ivar port: what the wire ends in.
    """

    def __init__(self, world: World, wire: Wire, name: str, ip: int, prefix: int) -> None:
        self.world = world
        self.ip = str(ipaddress.IPv4Address(ip))
        self.fd = open_tap(name)
        try:
            check_free(ipaddress.IPv4Network((ip, prefix), strict=False))
            mac = configure(name, self.ip, prefix)
        except ConfigError:
            os.close(self.fd)
            raise
        self.port = TapPort(world, wire, self.fd, mac)
        self._offset = time.monotonic_ns() - world.now
        world.post(world.now, self._pump)

    def check_served(self, ports: tuple[int, ...], text: str) -> None:
        """Find that the server listens on the device's address too: the emulated machine can reach no other."""
        for port in ports:
            try:
                socket.create_connection((self.ip, port), CONNECT_S).close()
            except OSError:
                raise ConfigError(
                    f"--server {text}: nothing listens on {self.ip}:{port}, the TAP device's address;"
                    " --via tap needs a server that listens on all addresses"
                ) from None

    def _ahead(self) -> int:
        """Tell how far virtual time is ahead of real time."""
        return self.world.now - (time.monotonic_ns() - self._offset)

    def _pump(self, _: object) -> None:
        """Let real time catch up, take what the device has, and come again."""
        ahead = self._ahead()
        if ahead > 0:
            select.select([self.fd], [], [], ahead / 1e9)
        elif ahead < -LAG_NS:
            self._offset -= ahead
        self.port.take()
        # a frame may have come before real time caught up: what is left of the lead is not given twice
        self.world.post(self.world.now + max(LEAST_NS, PUMP_NS - max(0, self._ahead())), self._pump)

    def close(self) -> None:
        """Let the device go."""
        os.close(self.fd)


def check_free(network: ipaddress.IPv4Network) -> None:
    """Refuse a network that has a route here."""
    try:
        lines = ROUTES.read_text().splitlines()[1:]
    except OSError:  # then nobody knows better than the kernel, which is asked next
        return
    for line in lines:
        device, destination, _, _, _, _, _, mask, *_ = line.split()
        length = int(mask, 16).bit_count()
        address = int(destination, 16).to_bytes(4, sys.byteorder)
        if length and ipaddress.IPv4Network((address, length)).overlaps(network):
            raise ConfigError(f"--via tap needs the network {network}, and {device} has it here; use a namespace: unshare -n")
