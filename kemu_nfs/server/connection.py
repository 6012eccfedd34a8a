"""Where calls come from and replies go to: a TCP connection, or a UDP datagram's sender.

Interface: ``Connection``, ``UdpPeer``; nfsd.py's threads use them.
"""

from __future__ import annotations

from kemu.kernel.wait import WaitQueue
from kemu_net.ipv4.tcp_sock import TcpSock
from kemu_net.ipv4.udp import UdpSock
from kemu_nfs.server.record_marking import RecordReader

MAX_QUEUED = 64  # calls of one connection that wait for a thread; more stay in its socket


class Connection:
    """One client's connection.

    :param sk: its socket; the reading task closes it.
    :param peer: the client's IPv4 address, by which the reply cache knows him.
    """

    __slots__ = ("closed", "peer", "queue", "queued", "reader", "reset", "sending", "sk")

    def __init__(self, sk: TcpSock, peer: int, limit: int) -> None:
        self.sk = sk
        self.peer = peer
        self.reader = RecordReader(limit)
        self.queued = 0
        self.sending = False
        self.closed = False
        self.reset = False
        self.queue = WaitQueue("nfsd connection")

    def may_send(self) -> bool:
        """Tell whether no other thread is sending."""
        return not self.sending or self.closed

    def may_read(self) -> bool:
        """Tell whether there is room for more calls."""
        return self.queued < MAX_QUEUED or self.closed


class UdpPeer:
    """Who sent one datagram: the reply goes there by the socket that it came from."""

    __slots__ = ("peer", "port", "sk")

    def __init__(self, sk: UdpSock, peer: int, port: int) -> None:
        self.sk = sk
        self.peer = peer
        self.port = port
