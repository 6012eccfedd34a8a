"""Who has which UDP port, and whose a datagram is (2.6.23 net/ipv4/udp.c: udp_v4_get_port(), __udp4_lib_lookup()).

Interface
    UdpSock                             struct udp_sock
    UdpHash.ports                       port to its sockets, the newest first
    udp_v4_get_port(sk, port)           take a port, 0 for any: 0 or -EADDRINUSE
    udp_v4_lookup(saddr, sport, daddr, dport)   the socket that fits best
    udp_v4_mcast(...)                   all that fit, for a broadcast

Rules
    * Two sockets may have one port when their addresses differ (and neither takes all), or both said SO_REUSEADDR.
    * A socket that is more particular wins: two points each for own address, peer's address and peer's port.
    * The search for a free port goes on where the last one ended. (The kernel looks for an empty hash chain; its next port is the
      same one unless two sockets share a chain.)
"""

from __future__ import annotations

from typing import Any

from kemu.kernel.errno import EADDRINUSE
from kemu_net.core.sock import Proto, Sock, Socks

LOCAL_PORT_RANGE = (32768, 61000)


class UdpSock(Sock):
    """``struct udp_sock``.

    :ivar pending: what a corked sender has said so far, with its addresses and port; None when nothing waits.
    :ivar bind_addr: the address that bind() chose, 0 when there was none; ``bind_port`` likewise.
    :ivar corkflag: UDP_CORK is set.
    """

    __slots__ = ("bind_addr", "corkflag", "pending")

    def __init__(self, socks: Socks, prot: Proto, addr: int) -> None:
        super().__init__(socks, prot, addr)
        self.bind_addr = 0
        self.pending: tuple[int, int, int, list[bytes]] | None = None
        self.corkflag = False


def ipv4_rcv_saddr_equal(sk: Sock, other: Sock) -> bool:
    """Tell whether two sockets' own addresses overlap (``ipv4_rcv_saddr_equal()``)."""
    return not sk.saddr or not other.saddr or sk.saddr == other.saddr


class UdpHash:
    """The UDP ports of one machine."""

    def __init__(self) -> None:
        self.ports: dict[int, list[Any]] = {}
        self.port_rover = LOCAL_PORT_RANGE[0]

    def udp_v4_get_port(self, sk: UdpSock, port: int) -> int:
        """Take a port for the socket (``udp_v4_get_port()``)."""
        if not port:
            port = self._free_port()
            if not port:
                return -EADDRINUSE
        chain = self.ports.get(port)
        if chain is None:
            chain = self.ports[port] = []
        for other in chain:
            if other is not sk and not (other.sk_reuse and sk.sk_reuse) and ipv4_rcv_saddr_equal(sk, other):
                return -EADDRINUSE
        chain.insert(0, sk)
        sk.sport = port
        return 0

    def _free_port(self) -> int:
        low, high = LOCAL_PORT_RANGE
        count = high - low + 1
        for step in range(count):
            port = low + (self.port_rover - low + step) % count
            if port not in self.ports:
                self.port_rover = port
                return port
        return 0

    def udp_unhash(self, sk: UdpSock) -> None:
        """Give the port up (``udp_lib_unhash()``)."""
        chain = self.ports.get(sk.sport)
        if chain is not None and sk in chain:
            chain.remove(sk)
            if not chain:
                del self.ports[sk.sport]

    def udp_v4_lookup(self, saddr: int, sport: int, daddr: int, dport: int) -> UdpSock | None:
        """Give the socket that fits a datagram best, or None (``__udp4_lib_lookup()``)."""
        best: UdpSock | None = None
        badness = -1
        for sk in self.ports.get(dport, ()):
            score = 1
            if sk.saddr:
                if sk.saddr != daddr:
                    continue
                score += 2
            if sk.daddr:
                if sk.daddr != saddr:
                    continue
                score += 2
            if sk.dport:
                if sk.dport != sport:
                    continue
                score += 2
            if score > badness:
                best, badness = sk, score
        return best

    def udp_v4_mcast(self, saddr: int, sport: int, daddr: int, dport: int) -> list[UdpSock]:
        """Give all sockets that take a datagram to everybody (``udp_v4_mcast_next()``)."""
        return [
            sk
            for sk in self.ports.get(dport, ())
            if (not sk.daddr or sk.daddr == saddr) and (not sk.dport or sk.dport == sport) and (not sk.saddr or sk.saddr == daddr)
        ]
