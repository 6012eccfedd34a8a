"""Sockets below the protocols: memory accounting, lock and backlog, the filter (2.6.23 net/core/sock.c, include/net/sock.h).

Interface
    Proto            one protocol: its slab cache and its global memory limit (struct proto)
    Sock             one socket (struct sock); TcpSock and UdpSock add their own fields
    Socks(kernel, page_alloc, slub, net_reserves, skbs, stats)
        sk_alloc, sock_init_data, sk_free, sock_put        life: what holds a socket counts in sk_refcnt
        lock_sock, release_sock, sk_add_backlog            process context owns the socket; packets wait in the backlog
        sock_queue_rcv_skb, sk_filter                      datagram receive; the socket gate (patch 20)
        sk_set_memalloc, sk_clear_memalloc, sk_allocation  a socket that carries swap (patches 15, 16)
        sk_backlog_rcv                                     the one place that runs a backlog packet (patches 13, 23)
    skb_set_owner_r, sock_rfree, skb_set_owner_w, sock_wfree   free functions, destructors of skbs

Rules
    * Callbacks of a socket take the socket alone: sk_data_ready(sk), sk_state_change(sk), sk_write_space(sk), sk_error_report(sk);
      sk_backlog_rcv(sk, skb) also takes the packet. They run in softirq or with bottom halves disabled, and must not sleep.
    * The gates count what they refuse (NetStats.drops); their caller frees it without a reason.
    * ``sk_slock`` (sk_lock.slock) is held by a softirq that works on the socket. Softirqs do not nest, so only another CPU can find
      it taken, while its holder spends time: a packet then goes to the backlog, which the holder works off; a task spins.
    * The backlog has no limit, as in 2.6.23.
    * Not built: the prequeue. Its overflow is the one direct call of sk->sk_backlog_rcv() that patch 13 missed (b13); it takes a
      reader task in tcp_recvmsg() and a socket of user space, which an RPC socket never is.
    * Left out: socket filters (BPF), time stamps, linger, filter charges, the security hook.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kemu.errors import KernelBug
from kemu.kernel.costs import SPIN
from kemu.kernel.errno import EINVAL, ENOMEM, ENONET, EPERM
from kemu.kernel.task import PF_MEMALLOC, tsk_restore_flags
from kemu.kernel.timer import MAX_SCHEDULE_TIMEOUT
from kemu.kernel.wait import WaitQueue
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_KERNEL, gfp_t
from kemu_net.core.skbuff import skb_trim
from kemu_net.core.uapi import IP_PMTUDISC_WANT

if TYPE_CHECKING:
    from collections.abc import Callable

    from kemu.kernel.core import Kernel
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.slub import KmemCache, Slub
    from kemu_net.core.net_reserve import NetReserves
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.stats import NetStats

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

_SK_MEM_PACKETS = 256
_SIZEOF_SOCK_INODE = 640


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


SockT = TypeVar("SockT", bound=Sock)


class SecurityHooks(Protocol):
    """What a security module says about packets (``security_sock_rcv_skb()``)."""

    def security_sock_rcv_skb(self, sk: Any, skb: Any) -> int:
        """Tell whether the socket may receive the packet: 0 or a negative errno."""


class Socks:
    """All sockets of one machine.

    :param net_reserves: patch 16's tree and count.
    :param skbs: frees what is dropped.
    :param stats: counts what is dropped.
    :param security: the security module that sk_filter() asks; None: there is none, and sk_filter() has no line about it.
    """

    def __init__(
        self,
        kernel: Kernel,
        page_alloc: PageAllocator,
        slub: Slub,
        net_reserves: NetReserves,
        skbs: SkbAlloc,
        stats: NetStats,
        security: SecurityHooks | None = None,
    ) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.softirq = kernel.softirq
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.slub = slub
        self.net_reserves = net_reserves
        self.skbs = skbs
        self.stats = stats
        self.total_pages = page_alloc.total_pages
        default = (256 + 232) * _SK_MEM_PACKETS  # (sizeof(struct sk_buff) + 256) * 256
        self.sysctl_rmem_default = self.sysctl_wmem_default = default
        self.sysctl_rmem_max = self.sysctl_wmem_max = default
        self._sk_init(self.total_pages)
        for name in ("rmem_default", "wmem_default", "rmem_max", "wmem_max"):
            variable = f"sysctl_{name}"
            kernel.sysctl.register(f"net.core.{name}", partial(getattr, self, variable), partial(setattr, self, variable))
        self.live: dict[Sock, None] = {}
        self._tp_kfree_skb = kernel.trace.point("skb:kfree_skb", ("skbaddr", "protocol", "location"))
        self.sock_inode_cache = slub.kmem_cache_create("sock_inode_cache", _SIZEOF_SOCK_INODE)
        kernel.judge.explainers["socket"] = self.explain
        if security is not None:
            self._security_sock_rcv_skb = security.security_sock_rcv_skb
            self.sk_filter = self._sk_filter_security  # type: ignore[method-assign]  # chosen once, at boot
        self._sk_filter_without: Callable[[Any, SkBuff], int] = self.sk_filter

    def _sk_init(self, pages: int) -> None:
        """Fit the default buffers to the machine (``sk_init()``)."""
        if pages <= 4096:
            self.sysctl_rmem_default = self.sysctl_wmem_default = 32767
            self.sysctl_rmem_max = self.sysctl_wmem_max = 32767
        elif pages >= 131072:
            self.sysctl_rmem_max = self.sysctl_wmem_max = 131071

    # life

    def sk_alloc(self, prot: Proto, priority: gfp_t, kind: type[SockT]) -> SockT | None:
        """Make a socket of class ``kind``, or give None (``sk_alloc()`` and ``sock_init_data()``)."""
        addr = self.slub.kmem_cache_alloc(prot.cache, priority)
        if addr is None:
            return None
        sk = kind(self, prot, addr)
        self.live[sk] = None
        return sk

    def sock_alloc_inode(self, sk: Sock) -> int:
        """Give the socket its ``struct socket`` and inode (``sock_alloc_inode()``): 0 or -ENOMEM."""
        sk.inode_addr = self.slub.kmem_cache_alloc(self.sock_inode_cache, GFP_KERNEL)
        return 0 if sk.inode_addr is not None else -ENOMEM

    def sock_release_inode(self, sk: Sock) -> None:
        """Free the ``struct socket`` (the end of ``sock_release()``)."""
        if sk.inode_addr is not None:
            self.slub.kmem_cache_free(self.sock_inode_cache, sk.inode_addr)
            sk.inode_addr = None

    def sk_free(self, sk: Sock) -> None:
        """Free a socket that nobody holds (``sk_free()``). One that carried swap gives its share back, which may sleep (b31c)."""
        if self.patched.netvm_reserve:  # [p16]
            self.sk_clear_memalloc(sk)
        if sk.sk_rmem_alloc or sk.sk_wmem_alloc or sk.sk_receive_queue or sk.sk_backlog:
            raise KernelBug("a socket with packets is freed", state=sk)
        sk.sk_dst = None
        del self.live[sk]
        self.sock_release_inode(sk)
        self.slub.kmem_cache_free(sk.sk_prot.cache, sk.addr)

    # callbacks

    def sock_def_readable(self, sk: Sock) -> None:
        """Wake a reader (``sock_def_readable()``)."""
        self.sched.wake_up(sk.sk_sleep)

    def sock_def_wakeup(self, sk: Sock) -> None:
        """Wake everybody who sleeps on the socket (``sock_def_wakeup()``, ``sock_def_error_report()``)."""
        self.sched.wake_up_all(sk.sk_sleep)

    def sock_def_write_space(self, sk: Sock) -> None:
        """Wake a writer when half of the send buffer is free (``sock_def_write_space()``)."""
        if sk.sk_wmem_alloc << 1 <= sk.sk_sndbuf:
            self.sched.wake_up(sk.sk_sleep)

    def sock_no_backlog(self, sk: Sock, skb: SkBuff) -> int:
        """Refuse a backlog packet of a protocol that never uses the backlog."""
        raise KernelBug("a packet in the backlog of a socket without sk_backlog_rcv", state=sk)

    # the lock

    def lock_sock(self, sk: Sock) -> None:
        """Own the socket (``lock_sock()``); may sleep."""
        if self.sched.cpu.preempt_count:
            self.sched.might_sleep()
        while sk.sk_lock_owned or sk.sk_slock:
            if sk.sk_slock:
                self.sched.spend(SPIN)
            else:
                self.sched.wait_event(sk.sk_lock_wq, lambda: not sk.sk_lock_owned, ("socket", sk))
        sk.sk_lock_owned = True

    def bh_unlock_sock(self, sk: Sock) -> None:
        """End a softirq's work on the socket (``bh_unlock_sock()``), and do what other CPUs left meanwhile."""
        while sk.sk_backlog and not sk.sk_lock_owned:
            self._release_sock(sk)
        sk.sk_slock = False

    def sk_add_backlog(self, sk: Sock, skb: SkBuff) -> None:
        """Leave a packet to the socket's owner (``sk_add_backlog()``)."""
        sk.sk_backlog.append(skb)

    def release_sock(self, sk: Sock) -> None:
        """Process the backlog and give the socket up (``release_sock()``)."""
        if sk.sk_backlog:
            self.softirq.local_bh_disable()
            self._release_sock(sk)
            sk.sk_lock_owned = False
            self.sched.wake_up(sk.sk_lock_wq)
            self.softirq.local_bh_enable()
            return
        sk.sk_lock_owned = False
        if sk.sk_lock_wq.waiters:
            self.sched.wake_up(sk.sk_lock_wq)

    def _release_sock(self, sk: Sock) -> None:
        """Run the backlog in order, with bottom halves disabled (``__release_sock()``); more may arrive meanwhile."""
        backlog = sk.sk_backlog
        while backlog:
            skb = backlog.popleft()
            if self.patched.sk_backlog_rcv:  # [p13]
                self.sk_backlog_rcv(sk, skb)
            else:
                sk.sk_backlog_rcv(sk, skb)

    def sk_backlog_rcv(self, sk: Sock, skb: SkBuff) -> object:
        """Run one backlog packet: the seam that patch 13 adds (``sk_backlog_rcv()``), entitled since patch 23."""
        if self.patched.skb_processing and skb.emergency:  # [p23]
            return self._sk_backlog_rcv(sk, skb)
        return sk.sk_backlog_rcv(sk, skb)

    def _sk_backlog_rcv(self, sk: Sock, skb: SkBuff) -> object:
        """Run an emergency packet with PF_MEMALLOC (v14 net/core/sock.c: ``__sk_backlog_rcv()``).

        Patch 20 lets no such packet in unless the socket carries swap. v14 forgot that the flag may be cleared while the packet
        waits (swapoff): BUG (b23). Mended, the packet is dropped, as it would be if it came now.
        """
        if not sk.sk_flags & SOCK_MEMALLOC:
            if self.fixed.b23:  # [b23]
                self.skbs.kfree_skb(skb, "socket")
                return 0
            raise KernelBug("__sk_backlog_rcv: an emergency skb in the backlog of a socket that carries no swap", state=sk)
        current = self.sched.current
        pflags = current.flags
        current.flags = pflags | PF_MEMALLOC
        ret = sk.sk_backlog_rcv(sk, skb)
        tsk_restore_flags(current, pflags, PF_MEMALLOC)
        return ret

    # receive

    def sk_filter(self, sk: Sock, skb: SkBuff) -> int:
        """Tell whether the socket takes the packet (``sk_filter()``): 0 or -ENOMEM. The caller frees what is refused.

        An ordinary socket would keep an emergency skb until its reader runs, and the reader may wait for swap (patch 20).
        """
        if self.patched.sk_filter_emergency and skb.emergency and not sk.sk_flags & SOCK_MEMALLOC:  # [p20]
            self._refuse(skb, "socket")
            return -ENOMEM
        return 0

    def _refuse(self, skb: SkBuff, gate: str) -> None:
        """Count a packet that a gate refuses, and trace it here: its caller frees it, and does not know why."""
        self.stats.drops[gate] += 1
        if self._tp_kfree_skb.enabled:
            self._tp_kfree_skb(skb.addr, skb.protocol, gate)

    def _sk_filter_security(self, sk: Sock, skb: SkBuff) -> int:
        """Be sk_filter() of a machine with a security module: patch 20's test comes first, in v14 as in 3.6."""
        error = type(self).sk_filter(self, sk, skb)
        if not error:
            error = self._security_sock_rcv_skb(sk, skb)
            if error:
                self.stats.ignore("security")
        return error

    def _sk_filter_program(self, sk: Sock, skb: SkBuff) -> int:
        """Be sk_filter() of a machine on which somebody attached a filter to a socket: it is asked last, and may cut the packet."""
        error = self._sk_filter_without(sk, skb)
        if not error and sk.sk_program is not None:
            keep = sk.sk_program(skb)
            if not keep:
                self.stats.ignore("socket filter")
                return -EPERM
            if keep < skb.len:
                skb_trim(skb, keep)
        return error

    def sk_attach_filter(self, sk: Sock, program: Any) -> int:
        """Let ``program(skb)`` say how many bytes of each packet the socket gets, 0 for none (``sk_attach_filter()``)."""
        if not callable(program):
            return -EINVAL
        self.sk_filter = self._sk_filter_program  # type: ignore[method-assign]  # a machine without filters pays nothing
        sk.sk_program = program
        return 0

    def sk_detach_filter(self, sk: Sock) -> int:
        """Take the filter off (SO_DETACH_FILTER): 0, or -ENONET when there is none."""
        if sk.sk_program is None:
            return -ENONET
        sk.sk_program = None
        return 0

    def sock_queue_rcv_skb(self, sk: Sock, skb: SkBuff) -> int:
        """Queue a datagram (``sock_queue_rcv_skb()``): 0 or a negative errno, and then the caller still owns the skb."""
        truesize = skb.truesize
        if sk.sk_rmem_alloc + truesize >= sk.sk_rcvbuf:
            self._refuse(skb, "rmem")
            return -ENOMEM
        error = self.sk_filter(sk, skb)
        if error:
            return error
        skb.dev = None
        skb.sk = sk
        skb.destructor = sock_rfree
        sk.sk_rmem_alloc += truesize
        sk.sk_receive_queue.append(skb)
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_data_ready(sk)
        return 0

    def skb_queue_purge(self, queue: deque[SkBuff]) -> None:
        """Free all packets of a queue (``skb_queue_purge()``)."""
        kfree_skb = self.skbs.kfree_skb
        while queue:
            kfree_skb(queue.popleft())

    # sockets that carry swap

    def sk_allocation(self, sk: Sock, gfp: gfp_t) -> gfp_t:
        """Give the flags of an allocation for this socket (patch 15 ``sk_allocation()``); 16 adds the socket's MEMALLOC bit."""
        if self.patched.netvm_reserve:  # [p16]
            return gfp | (sk.sk_allocation & _GFP_MEMALLOC)
        return gfp

    def sk_set_memalloc(self, sk: Sock) -> int:
        """Make the socket one that carries swap (v14 ``sk_set_memalloc()``): 1 if it is new, 0 if it was one, or -ENOMEM."""
        if self.patched.netvm_reserve:  # [p16]
            if sk.sk_flags & SOCK_MEMALLOC:
                return 0
            error = self.net_reserves.sk_adjust_memalloc(1, 0)
            if error:
                return error
            sk.sk_flags |= SOCK_MEMALLOC
            sk.sk_allocation |= _GFP_MEMALLOC
            return 1
        return 0

    def sk_clear_memalloc(self, sk: Sock) -> int:
        """Undo :meth:`sk_set_memalloc` (v14 ``sk_clear_memalloc()``): 1 if the socket carried swap, else 0."""
        if self.patched.netvm_reserve:  # [p16]
            if not sk.sk_flags & SOCK_MEMALLOC:
                return 0
            self.net_reserves.sk_adjust_memalloc(-1, 0)
            sk.sk_flags &= ~SOCK_MEMALLOC
            sk.sk_allocation &= ~_GFP_MEMALLOC
            return 1
        return 0

    # for people

    def explain(self, sk: Sock) -> tuple[str, None]:
        """Tell the judge what a task that waits for a socket waits for."""
        if sk.sk_lock_owned:
            return f"{sk!r} is owned by another task", None
        return f"{sk!r}: a packet from the peer", None

    def check(self) -> None:
        """Assert the accounting of every socket; on failure raise :exc:`KernelBug`."""
        for sk in self.live:
            if sk.sk_rmem_alloc < 0 or sk.sk_wmem_alloc < 0 or sk.sk_wmem_queued < 0 or sk.sk_refcnt < 1:
                raise KernelBug("a socket's accounting went below zero", state=sk)
            if sk.sk_flags & SOCK_MEMALLOC and not sk.sk_allocation & _GFP_MEMALLOC:
                raise KernelBug("a socket carries swap, but its sk_allocation lost __GFP_MEMALLOC", state=sk)
            queued = sum(skb.truesize for skb in sk.sk_receive_queue)
            if queued > sk.sk_rmem_alloc:
                raise KernelBug(f"the receive queue holds {queued} bytes, more than are charged", state=sk)
        carrying = sum(1 for sk in self.live if sk.sk_flags & SOCK_MEMALLOC)
        if carrying > self.net_reserves.memalloc_socks:
            raise KernelBug(f"{carrying} sockets carry swap, {self.net_reserves.memalloc_socks} are counted")
