"""Datagram sockets of a process: UDP (2.6.23 net/ipv4/af_inet.c: inet_dgram_ops, udp.c: udp_poll()).

Interface: InetDgram(kernel, socks, udp), a ProtoOps.

Rules
    * A socket without a port gets one before it sends or connects (``inet_autobind()``), not before it receives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import EAFNOSUPPORT, EINVAL, ENOIOCTLCMD, ENOPROTOOPT, ENOTCONN
from kemu_net.core import uapi
from kemu_net.core.datagram import datagram_poll
from kemu_net.core.sock import RCV_SHUTDOWN, SHUTDOWN_MASK, Sock
from kemu_net.core.uapi import Msg, SockaddrIn
from kemu_net.ipv4.tcp_states import TCP_CLOSE
from kemu_net.socket.inet_stream import inet_getname
from kemu_net.socket.ops import Address, ProtoOps, Socket, as_int
from kemu_net.socket.sockopt import ip_getsockopt, ip_setsockopt

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.sock import Socks
    from kemu_net.ipv4.udp import Udp, UdpSock


def datagram_shutdown(sk: Sock, how: int) -> int:
    """Close one direction or both (``inet_shutdown()`` of a socket without a connection): -ENOTCONN unless it is connected."""
    how += 1
    if not 1 <= how <= SHUTDOWN_MASK:
        return -EINVAL
    err = -ENOTCONN if sk.sk_state == TCP_CLOSE else 0
    sk.sk_shutdown |= how
    sk.sk_state_change(sk)
    return err


class InetDgram(ProtoOps):
    """``inet_dgram_ops`` over UDP."""

    def __init__(self, kernel: Kernel, socks: Socks, udp: Udp) -> None:
        self.sched = kernel.sched
        self.socks = socks
        self.udp = udp

    def release(self, sock: Socket) -> None:
        """Close (``inet_release()``)."""
        sock.sk.sk_socket = None
        self.udp.close(sock.sk)

    def bind(self, sock: Socket, addr: Address) -> int:
        """Choose the own address and port (``inet_bind()``)."""
        if not isinstance(addr, SockaddrIn) or sock.sk.sport:
            return -EINVAL
        return self.udp.bind(sock.sk, addr.addr, addr.port)

    def getname(self, sock: Socket, peer: int) -> Address | int:
        """Give the own or the peer's address."""
        return inet_getname(sock, peer)

    def connect(self, sock: Socket, addr: Address, nonblock: bool) -> int:
        """Choose the peer, or with AF_UNSPEC none (``inet_dgram_connect()``)."""
        if not isinstance(addr, SockaddrIn):
            return -EINVAL
        if addr.family == uapi.AF_UNSPEC:
            self.udp.disconnect(sock.sk)
            return 0
        if addr.family != uapi.AF_INET:
            return -EAFNOSUPPORT
        return self.udp.connect(sock.sk, addr.addr, addr.port)

    def sendmsg(self, sock: Socket, data: bytes, name: Address | None, flags: int, nonblock: bool) -> int:
        """Send one datagram (``udp_sendmsg()``)."""
        if isinstance(name, SockaddrIn) and name.family not in (uapi.AF_INET, uapi.AF_UNSPEC):
            return -EAFNOSUPPORT
        return self.udp.sendmsg(sock.sk, data, name, flags, nonblock)

    def recvmsg(self, sock: Socket, size: int, flags: int, nonblock: bool) -> Msg | int:
        """Receive one datagram (``udp_recvmsg()``)."""
        return self.udp.recvmsg(sock.sk, size, flags, nonblock)

    def shutdown(self, sock: Socket, how: int) -> int:
        """Close one direction or both."""
        return datagram_shutdown(sock.sk, how)

    def poll(self, sock: Socket) -> int:
        """Tell what the socket is ready for (``udp_poll()``): a broken datagram is not worth a call that would wait."""
        sk: UdpSock = sock.sk
        if sk.sk_receive_queue and not sock.f_flags & uapi.O_NONBLOCK and not sk.sk_shutdown & RCV_SHUTDOWN:
            self.udp.first_packet_length(sk)
        return datagram_poll(sk)

    def ioctl(self, sock: Socket, cmd: int) -> int:
        """Give the length of the next datagram, or the bytes that are not sent yet (``udp_ioctl()``)."""
        sk: UdpSock = sock.sk
        if cmd == uapi.SIOCOUTQ:
            return sk.sk_wmem_alloc
        if cmd == uapi.SIOCINQ:
            return self.udp.first_packet_length(sk)
        return -ENOIOCTLCMD

    def setsockopt(self, sock: Socket, level: int, optname: int, value: Any) -> int:
        """Set an option of UDP or IP (``udp_setsockopt()``)."""
        sk: UdpSock = sock.sk
        if level == uapi.SOL_IP:
            return ip_setsockopt(sk, optname, value)
        if level != uapi.SOL_UDP or optname != uapi.UDP_CORK:
            return -ENOPROTOOPT
        val = as_int(value)
        if val is None:
            return -EINVAL
        sk.corkflag = bool(val)
        if not val:
            self.udp.push_pending(sk)
        return 0

    def getsockopt(self, sock: Socket, level: int, optname: int) -> tuple[int, Any]:
        """Give the value of an option of UDP or IP (``udp_getsockopt()``)."""
        if level == uapi.SOL_IP:
            return ip_getsockopt(sock.sk, optname)
        if level != uapi.SOL_UDP or optname != uapi.UDP_CORK:
            return -ENOPROTOOPT, None
        return 0, int(sock.sk.corkflag)
