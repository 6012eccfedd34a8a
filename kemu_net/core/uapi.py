"""Numbers that programs and the network share (2.6.23 include/linux/socket.h, in.h, asm-i386/socket.h, poll.h, fcntl.h, sockios.h).

Interface: constants; Linger, Timeval, SockaddrIn, SockaddrLl, Msg.

Rules
    * Values are those of x86.
    * Addresses are ints in host order, ports are ints in host order.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import attrs

AF_UNSPEC: Final = 0
AF_INET: Final = 2
AF_PACKET: Final = 17
NPROTO: Final = 34

SOCK_STREAM: Final = 1
SOCK_DGRAM: Final = 2
SOCK_RAW: Final = 3
SOCK_SEQPACKET: Final = 5
SOCK_PACKET: Final = 10
SOCK_MAX: Final = 11

IPPROTO_IP: Final = 0
IPPROTO_RAW: Final = 255

SOL_IP: Final = 0
SOL_SOCKET: Final = 1
SOL_TCP: Final = 6
SOL_UDP: Final = 17
SOL_RAW: Final = 255
SOL_PACKET: Final = 263

SO_DEBUG: Final = 1
SO_REUSEADDR: Final = 2
SO_TYPE: Final = 3
SO_ERROR: Final = 4
SO_DONTROUTE: Final = 5
SO_BROADCAST: Final = 6
SO_SNDBUF: Final = 7
SO_RCVBUF: Final = 8
SO_KEEPALIVE: Final = 9
SO_OOBINLINE: Final = 10
SO_NO_CHECK: Final = 11
SO_PRIORITY: Final = 12
SO_LINGER: Final = 13
SO_RCVLOWAT: Final = 18
SO_SNDLOWAT: Final = 19
SO_RCVTIMEO: Final = 20
SO_SNDTIMEO: Final = 21
SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27
SO_ACCEPTCONN: Final = 30
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

IP_TOS: Final = 1
IP_TTL: Final = 2
IP_HDRINCL: Final = 3
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_RECVERR: Final = 11
IP_RECVTTL: Final = 12
IP_RECVTOS: Final = 13
IP_MTU: Final = 14
IP_FREEBIND: Final = 15

TCP_NODELAY: Final = 1
TCP_MAXSEG: Final = 2
TCP_CORK: Final = 3
TCP_KEEPIDLE: Final = 4
TCP_KEEPINTVL: Final = 5
TCP_KEEPCNT: Final = 6
TCP_SYNCNT: Final = 7
TCP_LINGER2: Final = 8
TCP_DEFER_ACCEPT: Final = 9
TCP_WINDOW_CLAMP: Final = 10
TCP_INFO: Final = 11
TCP_QUICKACK: Final = 12
TCP_CONGESTION: Final = 13

UDP_CORK: Final = 1
ICMP_FILTER: Final = 1

IP_PMTUDISC_DONT: Final = 0
IP_PMTUDISC_WANT: Final = 1
IP_PMTUDISC_DO: Final = 2
IP_PMTUDISC_PROBE: Final = 3

MSG_OOB: Final = 0x1
MSG_PEEK: Final = 0x2
MSG_DONTROUTE: Final = 0x4
MSG_CTRUNC: Final = 0x8
MSG_TRUNC: Final = 0x20
MSG_DONTWAIT: Final = 0x40
MSG_WAITALL: Final = 0x100
MSG_ERRQUEUE: Final = 0x2000
MSG_NOSIGNAL: Final = 0x4000
MSG_MORE: Final = 0x8000

POLLIN: Final = 0x1
POLLPRI: Final = 0x2
POLLOUT: Final = 0x4
POLLERR: Final = 0x8
POLLHUP: Final = 0x10
POLLNVAL: Final = 0x20
POLLRDNORM: Final = 0x40
POLLWRNORM: Final = 0x100
POLLWRBAND: Final = 0x200
POLLRDHUP: Final = 0x2000

SHUT_RD: Final = 0
SHUT_WR: Final = 1
SHUT_RDWR: Final = 2

F_GETFD: Final = 1
F_SETFD: Final = 2
F_GETFL: Final = 3
F_SETFL: Final = 4
O_RDWR: Final = 0o2
O_APPEND: Final = 0o2000
O_NONBLOCK: Final = 0o4000

SIOCINQ: Final = 0x541B
FIONREAD: Final = 0x541B
SIOCOUTQ: Final = 0x5411
FIONBIO: Final = 0x5421

INADDR_ANY: Final = 0
INADDR_LOOPBACK: Final = 0x7F000001
INADDR_BROADCAST: Final = 0xFFFFFFFF


class SockaddrIn(NamedTuple):
    """``struct sockaddr_in``. With family AF_UNSPEC it takes a connection off a socket."""

    addr: int
    port: int
    family: int = AF_INET


class SockaddrLl(NamedTuple):
    """``struct sockaddr_ll``: a link layer address.

    :ivar protocol: an EtherType, host order; ``ifindex`` 0 is every device.
    """

    protocol: int
    ifindex: int = 0
    hatype: int = 0
    pkttype: int = 0
    addr: bytes = b""
    family: int = AF_PACKET


class Linger(NamedTuple):
    """``struct linger``."""

    onoff: int
    linger: int


class Timeval(NamedTuple):
    """``struct timeval``."""

    sec: int
    usec: int


@attrs.define(eq=False)
class Msg:
    """``struct msghdr`` after recvmsg(): what was received.

    :ivar name: the sender's address, None from a stream.
    :ivar length: what the call returns: bytes in ``data``, or with MSG_TRUNC the whole datagram.
    :ivar flags: MSG_TRUNC when a datagram was cut.
    :ivar control: (level, type, value) of each control message.
    """

    data: bytes
    name: SockaddrIn | SockaddrLl | None = None
    length: int = 0
    flags: int = 0
    control: list[tuple[int, int, Any]] = attrs.Factory(list)
