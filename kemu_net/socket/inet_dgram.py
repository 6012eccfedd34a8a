"""Datagram sockets of a process: UDP (2.6.23 net/ipv4/af_inet.c: inet_dgram_ops, net/core/datagram.c: datagram_poll()).

Interface: InetDgram(kernel, socks, udp), a ProtoOps.

Rules
    * A socket without a port gets one before it sends or connects (``inet_autobind()``), not before it receives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import EINVAL, ENOIOCTLCMD, ENOPROTOOPT, ENOTCONN
from kemu_net.core import uapi
from kemu_net.core.sock import RCV_SHUTDOWN, SHUTDOWN_MASK, SOCK_ASYNC_NOSPACE, Sock
from kemu_net.core.uapi import Msg, SockaddrIn
from kemu_net.ipv4.tcp_states import TCP_CLOSE
from kemu_net.socket.inet_stream import inet_getname
from kemu_net.socket.ops import Address, ProtoOps, Socket
from kemu_net.socket.sockopt import ip_getsockopt, ip_setsockopt

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.sock import Socks
    from kemu_net.ipv4.udp import Udp


def datagram_poll(sk: Sock) -> int:
    """Tell what a datagram socket is ready for (``datagram_poll()``)."""
    mask = 0
    if sk.sk_err or sk.sk_error_queue:
        mask |= uapi.POLLERR
    if sk.sk_shutdown & RCV_SHUTDOWN:
        mask |= uapi.POLLRDHUP
    if sk.sk_shutdown == SHUTDOWN_MASK:
        mask |= uapi.POLLHUP
    if sk.sk_receive_queue or sk.sk_shutdown & RCV_SHUTDOWN:
        mask |= uapi.POLLIN | uapi.POLLRDNORM
    if sk.sk_wmem_alloc < sk.sk_sndbuf >> 1:  # sock_writeable()
        mask |= uapi.POLLOUT | uapi.POLLWRNORM | uapi.POLLWRBAND
    else:
        sk.sk_socket_flags |= SOCK_ASYNC_NOSPACE
    return mask


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

    def getname(self, sock: Socket, peer: bool) -> Address | int:
        """Give the own or the peer's address."""
        return inet_getname(sock, peer)

    def sendmsg(self, sock: Socket, data: bytes, name: Address | None, flags: int, nonblock: bool) -> int:
        """Send one datagram (``udp_sendmsg()``)."""
        if not isinstance(name, SockaddrIn):
            return -EINVAL
        return self.udp.sendto(sock.sk, data, name.addr, name.port)

    def recvmsg(self, sock: Socket, size: int, flags: int, nonblock: bool) -> Msg | int:
        """Receive one datagram (``udp_recvmsg()``)."""
        got = self.udp.recvfrom(sock.sk, nonblock=nonblock)
        if isinstance(got, int):
            return got
        data, addr, port = got
        return Msg(data[:size], SockaddrIn(addr, port), min(len(data), size), uapi.MSG_TRUNC if len(data) > size else 0)

    def shutdown(self, sock: Socket, how: int) -> int:
        """Close one direction or both."""
        return datagram_shutdown(sock.sk, how)

    def poll(self, sock: Socket) -> int:
        """Tell what the socket is ready for."""
        return datagram_poll(sock.sk)

    def ioctl(self, sock: Socket, cmd: int) -> int:
        """Give the length of the next datagram, or the bytes that are not sent yet (``udp_ioctl()``)."""
        sk: Sock = sock.sk
        if cmd == uapi.SIOCOUTQ:
            return sk.sk_wmem_alloc
        if cmd == uapi.SIOCINQ:
            return sk.sk_receive_queue[0].len - 8 if sk.sk_receive_queue else 0
        return -ENOIOCTLCMD

    def setsockopt(self, sock: Socket, level: int, optname: int, value: Any) -> int:
        """Set an option of IP."""
        return ip_setsockopt(sock.sk, optname, value) if level == uapi.SOL_IP else -ENOPROTOOPT

    def getsockopt(self, sock: Socket, level: int, optname: int) -> tuple[int, Any]:
        """Give the value of an option of IP."""
        return ip_getsockopt(sock.sk, optname) if level == uapi.SOL_IP else (-ENOPROTOOPT, None)
