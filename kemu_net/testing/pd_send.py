"""Send what the script says the peer sends.

Interface: ``Sender(host, conns).send(packet) -> str | None``: why it cannot be sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from kemu_net.testing.pd_ast import URG, IcmpSpec, Packet, RawSpec, TcpSpec, UdpSpec
from kemu_net.testing.pd_conn import Conn
from kemu_net.testing.pd_wire import (
    ICMP,
    TCP,
    UDP,
    fill,
    icmp_message,
    ip_packet,
    slice_packet,
    tcp_segment,
    udp_datagram,
)

if TYPE_CHECKING:
    from kemu_net.testing.pd_host import Host
    from kemu_net.testing.pd_table import Conns

_ECHO: Final = 8
_M32: Final = 0xFFFFFFFF


class Sender:
    """Makes packets of the peer and sends them.

    :ivar ident: identification of the next datagram that must be cut.
    """

    def __init__(self, host: Host, conns: Conns) -> None:
        self.host = host
        self.conns = conns
        self.ident = 1000

    def send(self, packet: Packet) -> str | None:
        """Send one packet of the script."""
        body = packet.body
        if isinstance(body, RawSpec):
            self.host.peer.send(body.data)
            return None
        if isinstance(body, TcpSpec):
            return self._tcp(packet, body)
        if isinstance(body, UdpSpec):
            return self._udp(packet, body)
        return self._icmp(packet, body)

    def _emit(self, packet: Packet, conn: Conn, proto: int, payload: bytes, *, fragment: int = 0x4000) -> None:
        """Send one IP packet, or the slice of it that the script wants."""
        whole = ip_packet(
            conn.remote_ip,
            conn.local_ip,
            proto,
            payload,
            tos=packet.tos or 0,
            ttl=255 if packet.ttl is None else packet.ttl,
            fragment=fragment,
        )
        if packet.fragment is not None:
            whole = slice_packet(whole, *packet.fragment)
        self.host.peer.send(whole)

    def _emit_whole(self, packet: Packet, conn: Conn, proto: int, payload: bytes, fragment: int) -> None:
        """Send an IP packet, in fragments if no frame holds it."""
        room = self.host.config.mtu - 20 & ~7
        if packet.fragment is not None or len(payload) <= self.host.config.mtu - 20:
            self._emit(packet, conn, proto, payload, fragment=fragment)
            return
        self.ident = self.ident + 1 & 0xFFFF
        for at in range(0, len(payload), room):
            self._emit(attrs.evolve(packet, fragment=(at, room, self.ident)), conn, proto, payload, fragment=0)

    def _tcp(self, packet: Packet, body: TcpSpec) -> str | None:
        found = self.conns.sending(body.ports, TCP)
        if found is None:
            return "there is no TCP socket that this segment could be for"
        conn, ports = found
        if body.flags & URG:
            conn.compares = False
        self._emit_whole(packet, conn, TCP, conn.to_wire(body, ports), 0x4000)
        return None

    def _udp(self, packet: Packet, body: UdpSpec) -> str | None:
        found = self.conns.sending(body.ports, UDP)
        if found is None:
            return "there is no UDP socket that this datagram could be for"
        conn, ports = found
        self._emit_whole(packet, conn, UDP, udp_datagram(conn.remote_ip, conn.local_ip, ports, fill(0, body.length)), 0)
        return None

    def _icmp(self, packet: Packet, body: IcmpSpec) -> str | None:
        proto = UDP if body.about == "udp" else TCP
        current = self.conns.current
        conn = current if current is not None and current.proto == proto else None
        if conn is None:
            conn = next((each for each in reversed(self.conns.all) if each.proto == proto), None)
        if conn is None:
            config = self.host.config
            conn = Conn(proto, config.local_ip, config.remote_ip)
        if body.type in (0, _ECHO):
            message = icmp_message(body.type, body.code, body.id << 16, fill(0, 56))
        else:
            message = icmp_message(body.type, body.code, body.mtu or 0, self._about(conn, body))
        self._emit(packet, conn, ICMP, message, fragment=0)
        return None

    def _about(self, conn: Conn, body: IcmpSpec) -> bytes:
        """Give the packet that an ICMP message is about: of the machine, its IP header and what follows it."""
        ports = (conn.local_port, conn.remote_port or self.host.config.connect_port)
        if body.about == "udp":
            payload = udp_datagram(conn.local_ip, conn.remote_ip, ports, fill(0, body.length))
            proto = UDP
        else:
            isn = conn.script_isn if conn.local_isn is None else conn.local_isn
            seq = body.seq - conn.script_isn + isn & _M32
            payload = tcp_segment(conn.local_ip, conn.remote_ip, ports, (seq, 0), 0x10, 0, 0, b"", fill(0, body.length))
            proto = TCP
        return ip_packet(conn.local_ip, conn.remote_ip, proto, payload)[: 20 + max(20, 8)]
