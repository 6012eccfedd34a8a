"""Stream sockets of a process: connections of TCP (2.6.23 net/ipv4/af_inet.c: inet_stream_ops, net/ipv4/tcp.c: tcp_poll()).

Interface: InetStream(kernel, socks, tcp), a ProtoOps; ``inet_getname()`` is every internet socket's.

Rules
    * The socket's state (SS_*) is the program's view and changes in these calls only; TCP's state changes by itself. A connection
      that fails while nobody waits is told by the next connect(), poll() or SO_ERROR.
    * An address given with a send or a receive is ignored, as TCP does.
    * Left out: signals that interrupt a call; SIGPIPE; SIOCATMARK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import (
    EAFNOSUPPORT,
    EAGAIN,
    EALREADY,
    ECONNABORTED,
    EINPROGRESS,
    EINVAL,
    EISCONN,
    ENETUNREACH,
    ENOIOCTLCMD,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
)
from kemu_net.core import uapi
from kemu_net.core.sock import (
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_ASYNC_NOSPACE,
    SOCK_LINGER,
    SOCK_NOSPACE,
    SOCK_URGINLINE,
    sock_error,
    sock_rcvtimeo,
    sock_sndtimeo,
)
from kemu_net.core.stream import sk_stream_min_wspace, sk_stream_wspace
from kemu_net.core.uapi import Msg, SockaddrIn
from kemu_net.ipv4.tcp_queues import TCP_URG_VALID
from kemu_net.ipv4.tcp_sock import MASK
from kemu_net.ipv4.tcp_states import (
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)
from kemu_net.socket.ops import (
    SS_CONNECTED,
    SS_CONNECTING,
    SS_DISCONNECTING,
    SS_UNCONNECTED,
    Address,
    ProtoOps,
    Socket,
    as_int,
)
from kemu_net.socket.sockopt import ip_getsockopt, ip_setsockopt

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.sock import Sock, Socks
    from kemu_net.ipv4.tcp import Tcp
    from kemu_net.ipv4.tcp_sock import TcpSock

_CONNECTING = frozenset((TCP_SYN_SENT, TCP_SYN_RECV))


def inet_getname(sock: Socket, peer: int) -> Address | int:
    """Give an end of the connection (``inet_getname()``)."""
    sk: Sock = sock.sk
    if not peer:
        return SockaddrIn(sk.saddr, sk.sport)
    if not sk.dport or (peer == 1 and sk.sk_state in (TCP_CLOSE, TCP_SYN_SENT)):
        return -ENOTCONN
    return SockaddrIn(sk.daddr, sk.dport)


class InetStream(ProtoOps):
    """``inet_stream_ops`` over TCP."""

    def __init__(self, kernel: Kernel, socks: Socks, tcp: Tcp) -> None:
        self.sched = kernel.sched
        self.socks = socks
        self.tcp = tcp

    def release(self, sock: Socket) -> None:
        """Close, waiting for the peer's last word if SO_LINGER says so (``inet_release()``)."""
        sk: TcpSock = sock.sk
        sk.sk_socket = None
        self.tcp.close(sk, sk.sk_lingertime if sk.sk_flags & SOCK_LINGER else 0)

    def bind(self, sock: Socket, addr: Address) -> int:
        """Choose the own address and port (``inet_bind()``)."""
        if not isinstance(addr, SockaddrIn):
            return -EINVAL
        return self.tcp.bind(sock.sk, addr.addr, addr.port)

    def listen(self, sock: Socket, backlog: int) -> int:
        """Let others connect (``inet_listen()``)."""
        if sock.state != SS_UNCONNECTED:
            return -EINVAL
        return self.tcp.listen(sock.sk, backlog)

    # connecting

    def connect(self, sock: Socket, addr: Address, nonblock: bool) -> int:
        """Connect, or ask how far it got (``inet_stream_connect()``)."""
        sk: TcpSock = sock.sk
        if not isinstance(addr, SockaddrIn):
            return -EINVAL
        if addr.family == uapi.AF_UNSPEC:
            self.tcp.disconnect(sk)
            sock.state = SS_UNCONNECTED
            return 0
        if sock.state == SS_CONNECTED:
            return -EISCONN
        if sock.state == SS_CONNECTING:
            err = -EALREADY
        elif sock.state == SS_UNCONNECTED:
            if sk.sk_state != TCP_CLOSE:
                return -EISCONN
            if addr.family != uapi.AF_INET:
                return -EAFNOSUPPORT
            if addr.addr >= 0xE0000000:
                return -ENETUNREACH  # a group or everybody
            err = self.tcp.connect_nonblock(sk, addr.addr or uapi.INADDR_LOOPBACK, addr.port)
            if err != -EINPROGRESS:
                return err
            sock.state = SS_CONNECTING
        else:
            return -EINVAL
        return self._finish_connect(sock, err, nonblock)

    def _finish_connect(self, sock: Socket, err: int, nonblock: bool) -> int:
        """Wait for the end of the handshake as long as the program wants, and say how it ended."""
        sk: TcpSock = sock.sk
        timeo = sock_sndtimeo(sk, nonblock)
        if sk.sk_state in _CONNECTING and (
            not timeo
            or not self.sched.wait_event_timeout(sk.sk_sleep, lambda: sk.sk_state not in _CONNECTING, timeo, ("socket", sk))
        ):
            return err
        if sk.sk_state != TCP_CLOSE:
            sock.state = SS_CONNECTED
            return 0
        err = sock_error(sk) or -ECONNABORTED
        sock.state = SS_UNCONNECTED
        self.tcp.disconnect(sk)
        return err

    def accept(self, sock: Socket, nonblock: bool) -> Socket | int:
        """Take a connection (``inet_accept()``, ``inet_csk_accept()``)."""
        sk: TcpSock = sock.sk
        if sk.sk_state != TCP_LISTEN:
            return -EINVAL
        child = self.tcp.accept(sk, nonblock=True)
        timeo = sock_rcvtimeo(sk, nonblock)
        while child is None:
            if not timeo:
                return -EAGAIN
            timeo = self.sched.wait_event_timeout(
                sk.sk_sleep, lambda: self.listen_ready(sk) or sk.sk_state != TCP_LISTEN, timeo, ("socket", sk), exclusive=True
            )
            if sk.sk_state != TCP_LISTEN:
                return -EINVAL
            child = self.tcp.accept(sk, nonblock=True)
        new = Socket(sock.type, self, child)
        new.state = SS_CONNECTED
        return new

    def listen_ready(self, sk: TcpSock) -> bool:
        """Tell whether a connection waits to be accepted."""
        return any(child.sk_state != TCP_SYN_RECV for child in sk.accept_queue)

    def getname(self, sock: Socket, peer: int) -> Address | int:
        """Give an end of the connection."""
        return inet_getname(sock, peer)

    # data

    def sendmsg(self, sock: Socket, data: bytes, name: Address | None, flags: int, nonblock: bool) -> int:
        """Send (``tcp_sendmsg()``)."""
        sk: TcpSock = sock.sk
        if flags & uapi.MSG_OOB:
            return -EOPNOTSUPP
        return self.tcp.sendmsg(sk, data, bool(flags & uapi.MSG_MORE), nonblock)

    def recvmsg(self, sock: Socket, size: int, flags: int, nonblock: bool) -> Msg | int:
        """Receive (``tcp_recvmsg()``)."""
        data = self.tcp.recvmsg(sock.sk, size, nonblock, flags)
        return data if isinstance(data, int) else Msg(data, length=len(data))

    # the end

    def shutdown(self, sock: Socket, how: int) -> int:
        """Close one direction or both (``inet_shutdown()``)."""
        sk: TcpSock = sock.sk
        how += 1
        if not 1 <= how <= SHUTDOWN_MASK:
            return -EINVAL
        if sock.state == SS_CONNECTING:
            half = sk.sk_state in _CONNECTING or sk.sk_state == TCP_CLOSE
            sock.state = SS_DISCONNECTING if half else SS_CONNECTED
        err = 0
        if sk.sk_state == TCP_LISTEN and not how & RCV_SHUTDOWN:
            pass
        elif sk.sk_state in (TCP_LISTEN, TCP_SYN_SENT):
            self.tcp.disconnect(sk)
            sock.state = SS_UNCONNECTED
        else:
            if sk.sk_state == TCP_CLOSE:
                err = -ENOTCONN
            sk.sk_shutdown |= how
            if how & SEND_SHUTDOWN and not err:
                self.tcp.shutdown(sk)
        sk.sk_state_change(sk)
        return err

    # questions

    def poll(self, sock: Socket) -> int:
        """Tell what the socket is ready for (``tcp_poll()``)."""
        sk: TcpSock = sock.sk
        if sk.sk_state == TCP_LISTEN:
            return uapi.POLLIN | uapi.POLLRDNORM if self.listen_ready(sk) else 0
        mask = uapi.POLLERR if sk.sk_err else 0
        if sk.sk_shutdown == SHUTDOWN_MASK or sk.sk_state == TCP_CLOSE:
            mask |= uapi.POLLHUP
        if sk.sk_shutdown & RCV_SHUTDOWN:
            mask |= uapi.POLLIN | uapi.POLLRDNORM | uapi.POLLRDHUP
        if sk.sk_state not in _CONNECTING:
            if sk.rcv_nxt != sk.copied_seq and not _only_urgent(sk):
                mask |= uapi.POLLIN | uapi.POLLRDNORM
            if sk.urg_data & TCP_URG_VALID:
                mask |= uapi.POLLPRI
            if not sk.sk_shutdown & SEND_SHUTDOWN:
                if sk_stream_wspace(sk) >= sk_stream_min_wspace(sk):
                    mask |= uapi.POLLOUT | uapi.POLLWRNORM
                else:
                    sk.sk_socket_flags |= SOCK_ASYNC_NOSPACE | SOCK_NOSPACE
        return mask

    def ioctl(self, sock: Socket, cmd: int) -> int:
        """Give the unread or the unacknowledged bytes (``tcp_ioctl()``)."""
        sk: TcpSock = sock.sk
        if cmd not in (uapi.SIOCINQ, uapi.SIOCOUTQ):
            return -ENOIOCTLCMD
        if sk.sk_state == TCP_LISTEN:
            return -EINVAL
        if sk.sk_state in _CONNECTING:
            return 0
        return sk.write_seq - sk.snd_una & MASK if cmd == uapi.SIOCOUTQ else self.tcp.tcp_inq(sk)

    def keepalive(self, sock: Socket, on: bool) -> None:
        """Begin or end probing a silent peer (``tcp_set_keepalive()``)."""
        self.tcp.tcp_set_keepalive(sock.sk, on)

    def setsockopt(self, sock: Socket, level: int, optname: int, value: Any) -> int:
        """Set an option of TCP or IP (``tcp_setsockopt()``)."""
        if level == uapi.SOL_IP:
            return ip_setsockopt(sock.sk, optname, value)
        if level != uapi.SOL_TCP:
            return -ENOPROTOOPT
        if optname != uapi.TCP_CONGESTION:
            value = as_int(value)
            if value is None:
                return -EINVAL
        return self.tcp.tcp_setsockopt(sock.sk, optname, value)

    def getsockopt(self, sock: Socket, level: int, optname: int) -> tuple[int, Any]:
        """Give the value of an option of TCP or IP (``tcp_getsockopt()``)."""
        if level == uapi.SOL_IP:
            return ip_getsockopt(sock.sk, optname)
        return self.tcp.tcp_getsockopt(sock.sk, optname) if level == uapi.SOL_TCP else (-ENOPROTOOPT, None)


def _only_urgent(sk: TcpSock) -> bool:
    """Tell whether all that could be read is the urgent byte, which a read would jump over."""
    waiting = sk.rcv_nxt - sk.copied_seq & MASK
    return bool(sk.urg_data) and sk.urg_seq == sk.copied_seq and waiting == 1 and not sk.sk_flags & SOCK_URGINLINE
