"""Options of every socket, and of every internet socket (2.6.23 net/core/sock.c: sock_setsockopt(); net/ipv4/ip_sockglue.c).

Interface
    SockOpts(socks).sock_setsockopt, sock_getsockopt       level SOL_SOCKET
    ip_setsockopt(sk, optname, value), ip_getsockopt       level SOL_IP

Rules
    * A getter gives (0, value) or (-errno, None).
    * The program has all capabilities.
    * SO_SNDBUF and SO_RCVBUF: clamped to the sysctl's maximum, then doubled, at least SOCK_MIN_*; the size is locked from then on.
    * A value is an int, its four bytes, Linger, Timeval, or for SO_ATTACH_FILTER what the filter is.
    * SO_SNDLOWAT is 1 and cannot be set. SO_PROTOCOL and SO_DOMAIN are younger (2.6.32) and unknown here.
    * Left out: SO_BINDTODEVICE (there is one device), credentials, time stamps, multicast, IP options and router alert as options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import EDOM, EINVAL, ENOPROTOOPT, ENOTCONN
from kemu.kernel.timer import HZ, MAX_SCHEDULE_TIMEOUT
from kemu_net.core import uapi
from kemu_net.core.dst import sk_dst_set
from kemu_net.core.sock import (
    SOCK_BROADCAST,
    SOCK_DBG,
    SOCK_KEEPOPEN,
    SOCK_LINGER,
    SOCK_LOCALROUTE,
    SOCK_MIN_RCVBUF,
    SOCK_MIN_SNDBUF,
    SOCK_RCVBUF_LOCK,
    SOCK_SNDBUF_LOCK,
    SOCK_URGINLINE,
    sock_error,
)
from kemu_net.core.uapi import Linger, Timeval
from kemu_net.ipv4.tcp_states import TCP_LISTEN
from kemu_net.socket.ops import Socket, as_int

if TYPE_CHECKING:
    from kemu_net.core.sock import Sock, Socks

INT_MAX = (1 << 31) - 1
_TICK_USEC = 1_000_000 // HZ

_FLAGS = {
    uapi.SO_DEBUG: SOCK_DBG,
    uapi.SO_DONTROUTE: SOCK_LOCALROUTE,
    uapi.SO_BROADCAST: SOCK_BROADCAST,
    uapi.SO_KEEPALIVE: SOCK_KEEPOPEN,
    uapi.SO_OOBINLINE: SOCK_URGINLINE,
}


def sock_set_timeout(value: Any) -> int:
    """Give a time as jiffies, MAX_SCHEDULE_TIMEOUT for 0, or a negative errno (``sock_set_timeout()``)."""
    if not isinstance(value, Timeval):
        return -EINVAL
    if not 0 <= value.usec < 1_000_000:
        return -EDOM
    if value.sec < 0:
        return 0
    if (not value.sec and not value.usec) or value.sec >= MAX_SCHEDULE_TIMEOUT // HZ - 1:
        return MAX_SCHEDULE_TIMEOUT
    return value.sec * HZ + (value.usec + _TICK_USEC - 1) // _TICK_USEC


def _timeval(timeo: int) -> Timeval:
    if timeo == MAX_SCHEDULE_TIMEOUT:
        return Timeval(0, 0)
    return Timeval(timeo // HZ, timeo % HZ * 1_000_000 // HZ)


class SockOpts:
    """Options of level SOL_SOCKET."""

    def __init__(self, socks: Socks) -> None:
        self.socks = socks

    def sock_setsockopt(self, sock: Socket, optname: int, value: Any) -> int:
        """Set one (``sock_setsockopt()``): 0 or a negative errno."""
        self.socks.lock_sock(sock.sk)
        if optname == uapi.SO_KEEPALIVE and as_int(value) is not None:
            sock.ops.keepalive(sock, bool(as_int(value)))
        err = self._set(sock.sk, optname, value)
        self.socks.release_sock(sock.sk)
        return err

    def _set(self, sk: Sock, optname: int, value: Any) -> int:
        if optname == uapi.SO_LINGER:
            return _set_linger(sk, value)
        if optname in (uapi.SO_RCVTIMEO, uapi.SO_SNDTIMEO):
            timeo = sock_set_timeout(value)
            if timeo < 0:
                return timeo
            setattr(sk, "sk_rcvtimeo" if optname == uapi.SO_RCVTIMEO else "sk_sndtimeo", timeo)
            return 0
        if optname == uapi.SO_ATTACH_FILTER:
            return self.socks.sk_attach_filter(sk, value)
        val = as_int(value)
        if val is None:
            return -EINVAL
        if optname == uapi.SO_DETACH_FILTER:
            return self.socks.sk_detach_filter(sk)
        if optname in _FLAGS:
            mask = _FLAGS[optname]
            sk.sk_flags = sk.sk_flags | mask if val else sk.sk_flags & ~mask
            return 0
        if optname in (uapi.SO_SNDBUF, uapi.SO_SNDBUFFORCE):
            return self._set_sndbuf(sk, val, optname == uapi.SO_SNDBUFFORCE)
        if optname in (uapi.SO_RCVBUF, uapi.SO_RCVBUFFORCE):
            return self._set_rcvbuf(sk, val, optname == uapi.SO_RCVBUFFORCE)
        if optname == uapi.SO_REUSEADDR:
            sk.sk_reuse = bool(val)
        elif optname == uapi.SO_NO_CHECK:
            sk.sk_no_check = 1 if val else 0
        elif optname == uapi.SO_PRIORITY:
            sk.sk_priority = val
        elif optname == uapi.SO_RCVLOWAT:
            sk.sk_rcvlowat = INT_MAX if val < 0 else val or 1
        else:
            return -ENOPROTOOPT
        return 0

    def _set_sndbuf(self, sk: Sock, val: int, force: bool) -> int:
        if not force and not 0 <= val <= self.socks.sysctl_wmem_max:
            val = self.socks.sysctl_wmem_max  # compared without sign
        sk.sk_userlocks |= SOCK_SNDBUF_LOCK
        sk.sk_sndbuf = max(val * 2, SOCK_MIN_SNDBUF)
        sk.sk_write_space(sk)  # the writer may have waited for less
        return 0

    def _set_rcvbuf(self, sk: Sock, val: int, force: bool) -> int:
        if not force and not 0 <= val <= self.socks.sysctl_rmem_max:
            val = self.socks.sysctl_rmem_max
        sk.sk_userlocks |= SOCK_RCVBUF_LOCK
        sk.sk_rcvbuf = max(val * 2, SOCK_MIN_RCVBUF)
        return 0

    def sock_getsockopt(self, sock: Socket, optname: int) -> tuple[int, Any]:
        """Give the value of one (``sock_getsockopt()``): (0, value) or (-errno, None)."""
        sk: Sock = sock.sk
        if optname in _FLAGS:
            return 0, 1 if sk.sk_flags & _FLAGS[optname] else 0
        if optname == uapi.SO_ERROR:
            err = -sock_error(sk)
            if not err:
                err, sk.sk_err_soft = sk.sk_err_soft, 0
            return 0, err
        if optname == uapi.SO_LINGER:
            return 0, Linger(1 if sk.sk_flags & SOCK_LINGER else 0, sk.sk_lingertime // HZ)
        if optname == uapi.SO_RCVTIMEO:
            return 0, _timeval(sk.sk_rcvtimeo)
        if optname == uapi.SO_SNDTIMEO:
            return 0, _timeval(sk.sk_sndtimeo)
        answers = {
            uapi.SO_SNDBUF: sk.sk_sndbuf,
            uapi.SO_RCVBUF: sk.sk_rcvbuf,
            uapi.SO_REUSEADDR: int(sk.sk_reuse),
            uapi.SO_TYPE: sock.type,
            uapi.SO_NO_CHECK: sk.sk_no_check,
            uapi.SO_PRIORITY: sk.sk_priority,
            uapi.SO_RCVLOWAT: sk.sk_rcvlowat,
            uapi.SO_SNDLOWAT: 1,
            uapi.SO_ACCEPTCONN: int(sk.sk_state == TCP_LISTEN),
        }
        if optname not in answers:
            return -ENOPROTOOPT, None
        return 0, answers[optname]


def _set_linger(sk: Sock, value: Any) -> int:
    if not isinstance(value, Linger):
        return -EINVAL
    if not value.onoff:
        sk.sk_flags &= ~SOCK_LINGER
        return 0
    seconds = value.linger % (1 << 32)  # compared without sign
    sk.sk_lingertime = min(seconds * HZ, MAX_SCHEDULE_TIMEOUT)
    sk.sk_flags |= SOCK_LINGER
    return 0


_IP_FLAGS = {uapi.IP_PKTINFO: 1, uapi.IP_RECVTTL: 2, uapi.IP_RECVTOS: 4}  # IP_CMSG_*


def ip_setsockopt(sk: Sock, optname: int, value: Any) -> int:
    """Set an option of level SOL_IP (``do_ip_setsockopt()``): 0 or a negative errno. An int may be given as one byte."""
    val = value[0] if isinstance(value, bytes) and 1 <= len(value) < 4 else as_int(value)
    if val is None:
        val = 0
    if optname == uapi.IP_TOS:
        if sk.sk_type == uapi.SOCK_STREAM:
            val = (val & ~3) | (sk.tos & 3)  # the two bits of ECN are TCP's
        sk.tos = val & 0xFF
        sk_dst_set(sk, None)
    elif optname == uapi.IP_TTL:
        if not (val == -1 or 1 <= val <= 255):
            return -EINVAL
        sk.uc_ttl = val
    elif optname == uapi.IP_MTU_DISCOVER:
        if not 0 <= val <= 3:
            return -EINVAL
        sk.pmtudisc = val
    elif optname == uapi.IP_RECVERR:
        sk.recverr = int(val != 0)
        if not val:
            sk.sk_error_queue = None
    elif optname == uapi.IP_FREEBIND:
        sk.freebind = int(val != 0)
    elif optname == uapi.IP_HDRINCL:
        if sk.sk_type != uapi.SOCK_RAW:
            return -ENOPROTOOPT
        sk.hdrincl = int(val != 0)
    elif optname in _IP_FLAGS:
        mask = _IP_FLAGS[optname]
        sk.cmsg_flags = sk.cmsg_flags | mask if val else sk.cmsg_flags & ~mask
    else:
        return -ENOPROTOOPT
    return 0


def ip_getsockopt(sk: Sock, optname: int) -> tuple[int, Any]:
    """Give the value of an option of level SOL_IP (``do_ip_getsockopt()``)."""
    if optname in _IP_FLAGS:
        return 0, int(sk.cmsg_flags & _IP_FLAGS[optname] != 0)
    if optname == uapi.IP_MTU:
        return (0, sk.sk_dst.mtu) if sk.sk_dst is not None else (-ENOTCONN, None)
    answers = {
        uapi.IP_TOS: sk.tos,
        uapi.IP_TTL: 64 if sk.uc_ttl == -1 else sk.uc_ttl,
        uapi.IP_MTU_DISCOVER: sk.pmtudisc,
        uapi.IP_RECVERR: sk.recverr,
        uapi.IP_FREEBIND: sk.freebind,
        uapi.IP_HDRINCL: sk.hdrincl,
    }
    return (0, answers[optname]) if optname in answers else (-ENOPROTOOPT, None)
