"""The connections of a script: which one a call, a packet of the script or a packet of the wire is about.

Interface: :class:`Conns`: ``socket()``, ``bind()``, ``connect()``, ``accept()`` for what calls did; ``sending(spec)`` for a packet
of the script; ``heard(seen)`` for one of the machine.

Rules of this file
    * As in packetdrill a script is about one socket at a time, the newest: that of the last socket(), or, from the first packet to
      a listener on, the connection that this packet is for. Packets that name ports are for the connection that has these.
    * The peer of a listener's connection has the first of EPHEMERAL ports that is free; that of connect() has connect_port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu_net.testing.pd_conn import Conn
from kemu_net.testing.pd_wire import TCP

if TYPE_CHECKING:
    from kemu_net.testing.pd_config import Config
    from kemu_net.testing.pd_wire import Seen

EPHEMERAL: Final = 40_000


class Conns:
    """All connections.

    :ivar current: what the script is about now.
    :ivar by_fd: descriptor of the machine -> connection.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.all: list[Conn] = []
        self.by_fd: dict[int, Conn] = {}
        self.current: Conn | None = None
        self._next_port = EPHEMERAL

    def _new(self, proto: int) -> Conn:
        config = self.config
        conn = Conn(proto, config.local_ip, config.remote_ip, remote_offset=config.remote_isn)
        self.all.append(conn)
        self.current = conn
        return conn

    # what calls did

    def socket(self, fd: int, proto: int) -> None:
        """Take note of a new socket."""
        self.by_fd[fd] = self._new(proto)

    def connecting(self, fd: int, addr: int, port: int) -> None:
        """Take note of where a socket is about to connect."""
        conn = self.by_fd.get(fd)
        if conn is not None and not conn.remote_port:
            conn.remote_ip, conn.remote_port = addr, port
            self.current = conn

    def accepted(self, fd: int, addr: int, port: int) -> None:
        """Take note of an accepted connection."""
        conn = next((each for each in reversed(self.all) if (each.remote_ip, each.remote_port) == (addr, port)), None)
        if conn is not None:
            self.by_fd[fd] = conn

    def closed(self, fd: int) -> None:
        """Take note that a descriptor is gone; the connection may live on."""
        self.by_fd.pop(fd, None)

    def current_fd(self) -> int | None:
        """Give the descriptor of the connection that the script is about; else the newest."""
        for fd, conn in self.by_fd.items():
            if conn is self.current:
                return fd
        return max(self.by_fd, default=None)

    # packets

    def sending(self, ports: tuple[int, int] | None, proto: int) -> tuple[Conn, tuple[int, int]] | None:
        """Find what a packet of the peer is for, and its ports; None if there is no socket."""
        if ports is not None:
            for conn in reversed(self.all):
                if conn.ends == (proto, ports[1], ports[0]):
                    return conn, ports
            conn = self._new(proto)
            conn.remote_port, conn.local_port = ports
            return conn, ports
        current = self.current
        if current is None or current.proto != proto:
            current = next((conn for conn in reversed(self.all) if conn.proto == proto), None)
        if current is None:
            return None
        if current.listening:
            listener = current
            current = self._new(proto)
            current.local_ip, current.local_port, current.parent = listener.local_ip, listener.local_port, listener
            current.remote_port = self._next_port
            self._next_port += 1
        return current, (current.remote_port or self.config.connect_port, current.local_port)

    def heard(self, seen: Seen) -> Conn | None:
        """Find the connection of a packet of the machine, and learn its ports and numbers."""
        if seen.proto != TCP:
            return self._datagram(seen)
        found = None
        for conn in reversed(self.all):
            if conn.proto == TCP and conn.remote_port == seen.dport and conn.local_port in (0, seen.sport) and not conn.listening:
                found = conn
                break
        if found is not None:
            found.local_port = seen.sport
            found.learn(seen)
        return found

    def _datagram(self, seen: Seen) -> Conn | None:
        for conn in reversed(self.all):
            if conn.proto == seen.proto and conn.local_port in (0, seen.sport):
                conn.local_port = seen.sport
                return conn
        return None
