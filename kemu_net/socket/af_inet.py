"""Which internet sockets there are (2.6.23 net/ipv4/af_inet.c: inetsw_array, inet_create()).

Interface: InetFamily(stream, dgram, raw), the Family of AF_INET.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import ENOBUFS, EPROTONOSUPPORT, ESOCKTNOSUPPORT
from kemu_net.core.uapi import IPPROTO_IP, IPPROTO_RAW, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM
from kemu_net.ipv4.inet import IPPROTO_TCP, IPPROTO_UDP
from kemu_net.socket.ops import Socket

if TYPE_CHECKING:
    from kemu_net.socket.inet_dgram import InetDgram
    from kemu_net.socket.inet_raw import InetRaw
    from kemu_net.socket.inet_stream import InetStream


class InetFamily:
    """AF_INET."""

    def __init__(self, stream: InetStream, dgram: InetDgram, raw: InetRaw) -> None:
        self.stream = stream
        self.dgram = dgram
        self.raw = raw

    def create(self, kind: int, protocol: int) -> Socket | int:
        """Make a socket (``inet_create()``): each type knows one protocol, which 0 stands for; raw sockets take any but 0."""
        sk: Any
        if kind == SOCK_STREAM:
            if protocol not in (IPPROTO_IP, IPPROTO_TCP):
                return -EPROTONOSUPPORT
            sk = self.stream.tcp.sock_create()
            return -ENOBUFS if sk is None else Socket(kind, self.stream, sk)
        if kind == SOCK_DGRAM:
            if protocol not in (IPPROTO_IP, IPPROTO_UDP):
                return -EPROTONOSUPPORT
            sk = self.dgram.udp.sock_create()
            return -ENOBUFS if sk is None else Socket(kind, self.dgram, sk)
        if kind == SOCK_RAW:
            if protocol == IPPROTO_IP or not 0 <= protocol <= IPPROTO_RAW:
                return -EPROTONOSUPPORT
            sk = self.raw.raw.sock_create(protocol)
            return -ENOBUFS if sk is None else Socket(kind, self.raw, sk)
        return -ESOCKTNOSUPPORT
