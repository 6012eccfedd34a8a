"""One socket as data, and what is done to it without its machine (2.6.23 include/net/sock.h, net/core/sock.c).

Interface
    Proto            one protocol: its slab cache and its global memory limit (struct proto)
    Sock             one socket (struct sock); TcpSock and UdpSock add their own fields
    sock_hold, sock_put                              references
    skb_set_owner_r, sock_rfree, skb_set_owner_w, sock_wfree   destructors of skbs
    sock_rcvtimeo, sock_sndtimeo, sock_error         what a call may wait for, and how it ends

Rules
    * Callbacks of a socket take the socket alone: sk_data_ready(sk), sk_state_change(sk), sk_write_space(sk), sk_error_report(sk);
      sk_backlog_rcv(sk, skb) also takes the packet. They run in softirq or with bottom halves disabled, and must not sleep.
    * Others import these names from sock.py.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from kemu.kernel.timer import MAX_SCHEDULE_TIMEOUT
from kemu.kernel.wait import WaitQueue
from kemu.mm.gfp import GFP_KERNEL, gfp_t
from kemu_net.core.uapi import IP_PMTUDISC_WANT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.mm.slub import KmemCache
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.sock import Socks

# enum sock_flags, as masks (sk_flags)
SOCK_DEAD = 1 << 0
SOCK_DONE = 1 << 1
SOCK_URGINLINE = 1 << 2
SOCK_KEEPOPEN = 1 << 3
SOCK_LINGER = 1 << 4
SOCK_BROADCAST = 1 << 6
SOCK_ZAPPED = 1 << 8
SOCK_USE_WRITE_QUEUE = 1 << 9
SOCK_DBG = 1 << 10
SOCK_LOCALROUTE = 1 << 13
SOCK_QUEUE_SHRUNK = 1 << 14
SOCK_MEMALLOC = 1 << 15  # [p16] added

# struct socket flags, as masks (sk_socket_flags)
SOCK_ASYNC_NOSPACE = 1 << 0  # a sender found no room or no memory
SOCK_NOSPACE = 1 << 2  # a sender waits until sk_write_space() reports room

SOCK_SNDBUF_LOCK = 1
SOCK_RCVBUF_LOCK = 2

RCV_SHUTDOWN = 1
SEND_SHUTDOWN = 2
SHUTDOWN_MASK = 3

SOCK_MIN_SNDBUF = 2048
SOCK_MIN_RCVBUF = 256
TCP_CLOSE = 7  # every socket is born in this state


class Proto:
    """``struct proto``: what all sockets of one protocol of one machine share.

    :param size: bytes of a socket of this protocol on x86_64.
    :ivar sysctl_mem: {low, pressure, hard limit} in pages; [0, 0, 0] for a protocol without a global limit.
    :ivar memory_allocated: pages charged by all sockets together.
    """

    __slots__ = (
        "cache",
        "memory_allocated",
        "memory_pressure",
        "name",
        "sockets_allocated",
        "sysctl_mem",
        "sysctl_rmem",
        "sysctl_wmem",
    )

    def __init__(self, name: str, cache: KmemCache) -> None:
        self.name = name
        self.cache = cache
        self.sysctl_mem = [0, 0, 0]
        self.sysctl_rmem = [4096, 87380, 87380 * 2]
        self.sysctl_wmem = [4096, 16384, 131072]
        self.memory_allocated = 0
        self.sockets_allocated = 0
        self.memory_pressure = 0

    def __repr__(self) -> str:
        """Name the protocol and its memory."""
        return f"<proto {self.name} sockets {self.sockets_allocated} memory_allocated {self.memory_allocated} of {self.sysctl_mem}>"


class Sock:
    """``struct sock`` with the addresses of ``struct inet_sock``. Made by :meth:`Socks.sk_alloc` only.

    :ivar addr: the slab object.
    :ivar sk_allocation: the flags of allocations for this socket; 0x2020 while it carries swap.
    :ivar sk_rmem_alloc: truesize of all skbs in its receive queues.
    :ivar sk_forward_alloc: bytes of charged pages that no skb uses yet (streams only).
    :ivar sk_lock_owned: a task is inside the socket; packets go to the backlog. ``sk_slock``: a softirq is.
    :ivar saddr: own address, host order (``inet->saddr``); ``sport`` own port, ``daddr`` and ``dport`` the peer's.
    :ivar sk_dst: the route's cache entry, kept by IP.
    :ivar sk_socket: the ``struct socket`` of a process; None of a socket of the kernel's own.
    :ivar sk_rcvtimeo: jiffies that a reader waits at most; ``sk_sndtimeo`` a writer, and who connects.
    :ivar sk_program: the attached filter: gives how many bytes of the packet to keep, 0 to refuse it.
    :ivar uc_ttl: time to live of what it sends, -1 for the default; ``tos``, ``pmtudisc``, ``recverr``: as the IP_ options.
    """

    __slots__ = (
        "addr",
        "bind_port",
        "cmsg_flags",
        "daddr",
        "dport",
        "freebind",
        "hdrincl",
        "inode_addr",
        "pmtudisc",
        "recverr",
        "saddr",
        "sk_ack_backlog",
        "sk_allocation",
        "sk_backlog",
        "sk_backlog_rcv",
        "sk_data_ready",
        "sk_dst",
        "sk_err",
        "sk_err_soft",
        "sk_error_queue",
        "sk_error_report",
        "sk_flags",
        "sk_forward_alloc",
        "sk_lingertime",
        "sk_lock_owned",
        "sk_lock_wq",
        "sk_max_ack_backlog",
        "sk_no_check",
        "sk_priority",
        "sk_program",
        "sk_prot",
        "sk_protocol",
        "sk_rcvbuf",
        "sk_rcvlowat",
        "sk_rcvtimeo",
        "sk_receive_queue",
        "sk_refcnt",
        "sk_reuse",
        "sk_rmem_alloc",
        "sk_shutdown",
        "sk_sleep",
        "sk_slock",
        "sk_sndbuf",
        "sk_sndtimeo",
        "sk_socket",
        "sk_socket_flags",
        "sk_state",
        "sk_state_change",
        "sk_type",
        "sk_user_data",
        "sk_userlocks",
        "sk_wmem_alloc",
        "sk_wmem_queued",
        "sk_write_space",
        "socks",
        "sport",
        "tos",
        "uc_ttl",
    )

    def __init__(self, socks: Socks, prot: Proto, addr: int) -> None:
        self.socks = socks
        self.sk_prot = prot
        self.addr = addr
        self.inode_addr: int | None = None
        self.sk_protocol = 0
        self.sk_state = TCP_CLOSE
        self.sk_flags = SOCK_ZAPPED
        self.sk_socket_flags = 0
        self.sk_userlocks = 0
        self.sk_shutdown = 0
        self.sk_err = 0
        self.sk_err_soft = 0
        self.sk_refcnt = 1
        self.sk_allocation: gfp_t = GFP_KERNEL
        self.sk_rcvbuf = socks.sysctl_rmem_default
        self.sk_sndbuf = socks.sysctl_wmem_default
        self.sk_rmem_alloc = 0
        self.sk_wmem_alloc = 0
        self.sk_wmem_queued = 0
        self.sk_forward_alloc = 0
        self.sk_receive_queue: deque[SkBuff] = deque()
        self.sk_backlog: deque[SkBuff] = deque()
        self.sk_ack_backlog = 0
        self.sk_max_ack_backlog = 0
        self.sk_lock_owned = False
        self.sk_slock = False
        self.sk_lock_wq = WaitQueue("sk_lock")
        self.sk_sleep = WaitQueue("sk_sleep")
        self.saddr = self.daddr = self.sport = self.dport = 0
        self.bind_port = 0
        # what socket options set
        self.sk_type = 0
        self.sk_reuse = False
        self.sk_priority = 0
        self.sk_no_check = 0
        self.sk_rcvlowat = 1
        self.sk_rcvtimeo = self.sk_sndtimeo = MAX_SCHEDULE_TIMEOUT
        self.sk_lingertime = 0
        self.sk_program: Callable[[SkBuff], int] | None = None
        self.sk_error_queue: deque[Any] | None = None
        self.sk_socket: Any = None
        self.tos = 0
        self.uc_ttl = -1
        self.pmtudisc = IP_PMTUDISC_WANT
        self.recverr = self.hdrincl = self.freebind = self.cmsg_flags = 0
        self.sk_dst: Any = None
        self.sk_user_data: Any = None
        self.sk_data_ready: Callable[[Any], object] = socks.sock_def_readable
        self.sk_state_change: Callable[[Any], object] = socks.sock_def_wakeup
        self.sk_write_space: Callable[[Any], object] = socks.sock_def_write_space
        self.sk_error_report: Callable[[Any], object] = socks.sock_def_wakeup
        self.sk_backlog_rcv: Callable[[Any, SkBuff], object] = socks.sock_no_backlog

    def __repr__(self) -> str:
        """Say what a person wants to know of a socket."""
        ends = f"{_quad(self.saddr)}:{self.sport} {_quad(self.daddr)}:{self.dport}"
        carries = " memalloc" if self.sk_flags & SOCK_MEMALLOC else ""
        return (
            f"<sock {self.sk_prot.name} {ends} state {self.sk_state}{carries} rmem {self.sk_rmem_alloc} wmem {self.sk_wmem_queued}>"
        )


def _quad(addr: int) -> str:
    """Write an IPv4 address."""
    return f"{addr >> 24}.{addr >> 16 & 255}.{addr >> 8 & 255}.{addr & 255}"


def sk_has_memalloc(sk: Sock) -> bool:
    """Tell whether the socket carries swap (``sk_has_memalloc()``)."""
    return sk.sk_flags & SOCK_MEMALLOC != 0


def sock_rcvtimeo(sk: Sock, nonblock: bool) -> int:
    """Give the jiffies that a reader may wait (``sock_rcvtimeo()``)."""
    return 0 if nonblock else sk.sk_rcvtimeo


def sock_sndtimeo(sk: Sock, nonblock: bool) -> int:
    """Give the jiffies that a writer may wait (``sock_sndtimeo()``)."""
    return 0 if nonblock else sk.sk_sndtimeo


def sock_error(sk: Sock) -> int:
    """Give the socket's error once, negative (``sock_error()``)."""
    err = sk.sk_err
    sk.sk_err = 0
    return -err


def sock_hold(sk: Sock) -> None:
    """Take a reference (``sock_hold()``)."""
    sk.sk_refcnt += 1


def sock_put(sk: Sock) -> None:
    """Drop a reference and free the socket with the last one (``sock_put()``)."""
    sk.sk_refcnt -= 1
    if not sk.sk_refcnt:
        sk.socks.sk_free(sk)


def sock_rfree(skb: SkBuff) -> None:
    """Destructor of a received datagram (``sock_rfree()``)."""
    skb.sk.sk_rmem_alloc -= skb.truesize


def skb_set_owner_r(skb: SkBuff, sk: Sock) -> None:
    """Account a received datagram to its socket (``skb_set_owner_r()``)."""
    skb.sk = sk
    skb.destructor = sock_rfree
    sk.sk_rmem_alloc += skb.truesize


def sock_wfree(skb: SkBuff) -> None:
    """Destructor of a packet under transmission (``sock_wfree()``); the packet kept the socket alive."""
    sk: Sock = skb.sk
    sk.sk_wmem_alloc -= skb.truesize
    if not sk.sk_flags & SOCK_USE_WRITE_QUEUE:
        sk.sk_write_space(sk)
    sk.sk_refcnt -= 1
    if not sk.sk_refcnt:
        sk.socks.sk_free(sk)


def skb_set_owner_w(skb: SkBuff, sk: Sock) -> None:
    """Account a packet under transmission to its socket (``skb_set_owner_w()``)."""
    sk.sk_refcnt += 1
    skb.sk = sk
    skb.destructor = sock_wfree
    sk.sk_wmem_alloc += skb.truesize
