"""Raw sockets of a process (2.6.23 net/ipv4/af_inet.c: inet_sockraw_ops, net/ipv4/raw.c: raw_setsockopt(), raw_ioctl()).

Interface: InetRaw(raw), a ProtoOps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import EAFNOSUPPORT, EINVAL, ENOIOCTLCMD, ENOPROTOOPT, EOPNOTSUPP
from kemu_net.core import uapi
from kemu_net.core.datagram import datagram_poll
from kemu_net.core.uapi import Msg, SockaddrIn
from kemu_net.ipv4.icmp import IPPROTO_ICMP
from kemu_net.socket.inet_dgram import datagram_shutdown
from kemu_net.socket.inet_stream import inet_getname
from kemu_net.socket.ops import Address, ProtoOps, Socket, as_int
from kemu_net.socket.sockopt import ip_getsockopt, ip_setsockopt

if TYPE_CHECKING:
    from kemu_net.ipv4.raw import Raw, RawSock


class InetRaw(ProtoOps):
    """``inet_sockraw_ops``."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw

    def release(self, sock: Socket) -> None:
        """Close."""
        sock.sk.sk_socket = None
        self.raw.close(sock.sk)

    def bind(self, sock: Socket, addr: Address) -> int:
        """Choose the own address; the port means nothing."""
        return self.raw.bind(sock.sk, addr.addr) if isinstance(addr, SockaddrIn) else -EINVAL

    def connect(self, sock: Socket, addr: Address, nonblock: bool) -> int:
        """Choose the peer, or with AF_UNSPEC none."""
        if not isinstance(addr, SockaddrIn):
            return -EINVAL
        if addr.family == uapi.AF_UNSPEC:
            self.raw.disconnect(sock.sk)
            return 0
        return self.raw.connect(sock.sk, addr.addr) if addr.family == uapi.AF_INET else -EAFNOSUPPORT

    def getname(self, sock: Socket, peer: int) -> Address | int:
        """Give the own or the peer's address; the own port is the protocol."""
        return inet_getname(sock, peer)

    def sendmsg(self, sock: Socket, data: bytes, name: Address | None, flags: int, nonblock: bool) -> int:
        """Send one packet."""
        return self.raw.sendmsg(sock.sk, data, name, flags, nonblock)

    def recvmsg(self, sock: Socket, size: int, flags: int, nonblock: bool) -> Msg | int:
        """Receive one packet."""
        return self.raw.recvmsg(sock.sk, size, flags, nonblock)

    def shutdown(self, sock: Socket, how: int) -> int:
        """Close one direction or both."""
        return datagram_shutdown(sock.sk, how)

    def poll(self, sock: Socket) -> int:
        """Tell what the socket is ready for."""
        return datagram_poll(sock.sk)

    def ioctl(self, sock: Socket, cmd: int) -> int:
        """Give the length of the next packet, or the bytes that are not sent yet (``raw_ioctl()``)."""
        sk: RawSock = sock.sk
        if cmd == uapi.SIOCOUTQ:
            return sk.sk_wmem_alloc
        if cmd == uapi.SIOCINQ:
            return sk.sk_receive_queue[0].len if sk.sk_receive_queue else 0
        return -ENOIOCTLCMD

    def setsockopt(self, sock: Socket, level: int, optname: int, value: Any) -> int:
        """Set an option of IP, or the filter of an ICMP socket (``raw_setsockopt()``)."""
        sk: RawSock = sock.sk
        if level != uapi.SOL_RAW:
            return ip_setsockopt(sk, optname, value) if level == uapi.SOL_IP else -ENOPROTOOPT
        if optname != uapi.ICMP_FILTER:
            return -ENOPROTOOPT
        if sk.sk_protocol != IPPROTO_ICMP:
            return -EOPNOTSUPP
        val = as_int(value)
        if val is None:
            return -EINVAL
        sk.filter = val & 0xFFFFFFFF
        return 0

    def getsockopt(self, sock: Socket, level: int, optname: int) -> tuple[int, Any]:
        """Give the value of an option (``raw_getsockopt()``)."""
        sk: RawSock = sock.sk
        if level != uapi.SOL_RAW:
            return ip_getsockopt(sk, optname) if level == uapi.SOL_IP else (-ENOPROTOOPT, None)
        if optname != uapi.ICMP_FILTER:
            return -ENOPROTOOPT, None
        return (0, sk.filter) if sk.sk_protocol == IPPROTO_ICMP else (-EOPNOTSUPP, None)
