"""What IP tells a socket beside the data: errors and control messages (2.6.23 net/ipv4/ip_sockglue.c).

Interface
    ExtendedErr                         struct sock_extended_err
    ip_icmp_error(skbs, sk, ...)        queue an ICMP error for a socket that said IP_RECVERR
    ip_local_error(skbs, sk, ...)       the same for an error that this host found itself
    ip_recv_error(skbs, sk, size)       read the queue (MSG_ERRQUEUE)
    ip_cmsg_recv(sk, skb)               the control messages of a datagram
    icmp_error_of(kind, code)           (errno, is it fatal) of an ICMP error (icmp_err_convert[])

Rules
    * The error queue holds packets with what was quoted; their truesize counts in sk_rmem_alloc. (The kernel queues a clone of the
      ICMP packet.)
    * Left out: IP_RETOPTS and IP_RECVOPTS as control messages.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from kemu.kernel.errno import (
    EAGAIN,
    ECONNREFUSED,
    EHOSTDOWN,
    EHOSTUNREACH,
    EMSGSIZE,
    ENETUNREACH,
    ENONET,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
)
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import skb_bytes, skb_put_bytes
from kemu_net.core.sock import skb_set_owner_r
from kemu_net.core.uapi import (
    IP_PKTINFO,
    IP_RECVERR,
    IP_TOS,
    IP_TTL,
    MSG_ERRQUEUE,
    MSG_TRUNC,
    SOL_IP,
    Msg,
    SockaddrIn,
)

if TYPE_CHECKING:
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.sock import Sock

SO_EE_ORIGIN_LOCAL = 1
SO_EE_ORIGIN_ICMP = 2

ICMP_DEST_UNREACH = 3
ICMP_SOURCE_QUENCH = 4
ICMP_TIME_EXCEEDED = 11
ICMP_PARAMETERPROB = 12
ICMP_FRAG_NEEDED = 4

#: icmp_err_convert[]: errno and whether it is fatal, by the code of a "destination unreachable".
_UNREACH = (
    (ENETUNREACH, False),
    (EHOSTUNREACH, False),
    (ENOPROTOOPT, True),
    (ECONNREFUSED, True),
    (EMSGSIZE, False),
    (EOPNOTSUPP, False),
    (ENETUNREACH, True),
    (EHOSTDOWN, True),
    (ENONET, True),
    (ENETUNREACH, True),
    (EHOSTUNREACH, True),
    (ENETUNREACH, False),
    (EHOSTUNREACH, False),
    (EHOSTUNREACH, True),
    (EHOSTUNREACH, True),
    (EHOSTUNREACH, True),
)

IP_CMSG_PKTINFO = 1
IP_CMSG_TTL = 2
IP_CMSG_TOS = 4


class ExtendedErr(NamedTuple):
    """``struct sock_extended_err``; ``offender`` is who sent the ICMP packet (SO_EE_OFFENDER())."""

    errno: int
    origin: int
    type: int
    code: int
    info: int
    offender: int


def icmp_error_of(kind: int, code: int) -> tuple[int, bool] | None:
    """Give the errno of an ICMP error and whether it ends a connected datagram socket's call; None: it is none."""
    if kind == ICMP_SOURCE_QUENCH:
        return None
    if kind == ICMP_PARAMETERPROB:
        return EPROTO, True
    if kind == ICMP_DEST_UNREACH and code < len(_UNREACH):
        return _UNREACH[code]
    return EHOSTUNREACH, False


def ip_icmp_error(skbs: SkbAlloc, sk: Sock, err: ExtendedErr, name: SockaddrIn, payload: bytes) -> None:
    """Queue what is known of an ICMP error (``ip_icmp_error()``).

    :param payload: what it quotes of the data that the program had sent; :param name: whom it had sent them to.
    """
    if not sk.recverr:
        return
    skb = skbs.alloc_skb(len(payload), GFP_ATOMIC)
    if skb is not None:
        skb_put_bytes(skb, payload)
        _sock_queue_err_skb(skbs, sk, skb, err, name)


def ip_local_error(skbs: SkbAlloc, sk: Sock, errno: int, name: SockaddrIn, info: int) -> None:
    """Queue an error that this host found when it sent (``ip_local_error()``): a packet without data."""
    if not sk.recverr:
        return
    skb = skbs.alloc_skb(20 + 8, GFP_ATOMIC)
    if skb is not None:
        _sock_queue_err_skb(skbs, sk, skb, ExtendedErr(errno, SO_EE_ORIGIN_LOCAL, 0, 0, info, 0), name)


def _sock_queue_err_skb(skbs: SkbAlloc, sk: Sock, skb: SkBuff, err: ExtendedErr, name: SockaddrIn) -> None:
    if sk.sk_rmem_alloc + skb.truesize >= sk.sk_rcvbuf:
        skbs.kfree_skb(skb, "error queue full")
        return
    skb_set_owner_r(skb, sk)
    if sk.sk_error_queue is None:
        sk.sk_error_queue = deque()
    sk.sk_error_queue.append((skb, err, name))
    sk.sk_data_ready(sk)


def ip_recv_error(skbs: SkbAlloc, sk: Sock, size: int) -> Msg | int:
    """Take the oldest error (``ip_recv_error()``): what was sent, whom to, and IP_RECVERR; or -EAGAIN."""
    if not sk.sk_error_queue:
        return -EAGAIN
    skb, err, name = sk.sk_error_queue.popleft()
    data = skb_bytes(skb)
    msg = Msg(data[:size], name, min(len(data), size), MSG_ERRQUEUE | (MSG_TRUNC if len(data) > size else 0))
    msg.control.append((SOL_IP, IP_RECVERR, err))
    skbs.kfree_skb(skb)
    sk.sk_err = sk.sk_error_queue[0][1].errno if sk.sk_error_queue else 0
    return msg


def purge_error_queue(skbs: SkbAlloc, sk: Sock) -> None:
    """Free unread errors."""
    while sk.sk_error_queue:
        skbs.kfree_skb(sk.sk_error_queue.popleft()[0])
    sk.sk_error_queue = None


def ip_cmsg_recv(sk: Sock, skb: SkBuff) -> list[tuple[int, int, Any]]:
    """Give the control messages that the socket asked for (``ip_cmsg_recv()``); the IP header is at ``skb.nh``."""
    control: list[tuple[int, int, Any]] = []
    flags = sk.cmsg_flags
    if flags & IP_CMSG_PKTINFO:
        control.append((SOL_IP, IP_PKTINFO, (skb.daddr, skb.daddr)))
    if flags & IP_CMSG_TTL:
        control.append((SOL_IP, IP_TTL, skb.buf[skb.nh + 8]))
    if flags & IP_CMSG_TOS:
        control.append((SOL_IP, IP_TOS, skb.buf[skb.nh + 1]))
    return control
