"""The sockets of one machine, below the protocols (2.6.23 net/core/sock.c).

Interface
    Socks(kernel, page_alloc, slub, net_reserves, skbs, stats)
        sk_alloc, sk_free                                  life: what holds a socket counts in sk_refcnt
        lock_sock, release_sock, sk_add_backlog            sock_lock.py
        sock_queue_rcv_skb, sk_filter                      sock_receive.py
        sk_set_memalloc, sk_clear_memalloc, sk_allocation  sock_memalloc.py
    Proto, Sock, sock_put ...                              the struct and its functions (sock_struct.py), for everybody

Rules
    * Left out: time stamps.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM
from kemu.mm.gfp import _GFP_MEMALLOC, GFP_KERNEL, gfp_t
from kemu_net.core.dst import sk_dst_set
from kemu_net.core.sock_receive import SecurityHooks, SockReceive
from kemu_net.core.sock_struct import (
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_ASYNC_NOSPACE,
    SOCK_BROADCAST,
    SOCK_DBG,
    SOCK_DEAD,
    SOCK_DONE,
    SOCK_KEEPOPEN,
    SOCK_LINGER,
    SOCK_LOCALROUTE,
    SOCK_MEMALLOC,
    SOCK_MIN_RCVBUF,
    SOCK_MIN_SNDBUF,
    SOCK_NOSPACE,
    SOCK_QUEUE_SHRUNK,
    SOCK_RCVBUF_LOCK,
    SOCK_SNDBUF_LOCK,
    SOCK_URGINLINE,
    SOCK_USE_WRITE_QUEUE,
    SOCK_ZAPPED,
    TCP_CLOSE,
    Proto,
    Sock,
    sk_has_memalloc,
    skb_set_owner_r,
    skb_set_owner_w,
    sock_error,
    sock_hold,
    sock_put,
    sock_rcvtimeo,
    sock_rfree,
    sock_sndtimeo,
    sock_wfree,
)

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.slub import Slub
    from kemu_net.core.net_reserve import NetReserves
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.stats import NetStats

__all__ = [
    "RCV_SHUTDOWN",
    "SEND_SHUTDOWN",
    "SHUTDOWN_MASK",
    "SOCK_ASYNC_NOSPACE",
    "SOCK_BROADCAST",
    "SOCK_DBG",
    "SOCK_DEAD",
    "SOCK_DONE",
    "SOCK_KEEPOPEN",
    "SOCK_LINGER",
    "SOCK_LOCALROUTE",
    "SOCK_MEMALLOC",
    "SOCK_MIN_RCVBUF",
    "SOCK_MIN_SNDBUF",
    "SOCK_NOSPACE",
    "SOCK_QUEUE_SHRUNK",
    "SOCK_RCVBUF_LOCK",
    "SOCK_SNDBUF_LOCK",
    "SOCK_URGINLINE",
    "SOCK_USE_WRITE_QUEUE",
    "SOCK_ZAPPED",
    "TCP_CLOSE",
    "Proto",
    "SecurityHooks",
    "Sock",
    "Socks",
    "sk_has_memalloc",
    "skb_set_owner_r",
    "skb_set_owner_w",
    "sock_error",
    "sock_hold",
    "sock_put",
    "sock_rcvtimeo",
    "sock_rfree",
    "sock_sndtimeo",
    "sock_wfree",
]

_SK_MEM_PACKETS = 256
_SIZEOF_SOCK_INODE = 640

SockT = TypeVar("SockT", bound=Sock)


class Socks(SockReceive):
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
        super().__init__(kernel, net_reserves, skbs, stats, security)
        self.kernel = kernel
        self.slub = slub
        self.total_pages = page_alloc.total_pages
        default = (256 + 232) * _SK_MEM_PACKETS  # (sizeof(struct sk_buff) + 256) * 256
        self.sysctl_rmem_default = self.sysctl_wmem_default = default
        self.sysctl_rmem_max = self.sysctl_wmem_max = default
        self._sk_init(self.total_pages)
        for name in ("rmem_default", "wmem_default", "rmem_max", "wmem_max"):
            variable = f"sysctl_{name}"
            kernel.sysctl.register(f"net.core.{name}", partial(getattr, self, variable), partial(setattr, self, variable))
        self.live: dict[Sock, None] = {}
        self.sock_inode_cache = slub.kmem_cache_create("sock_inode_cache", _SIZEOF_SOCK_INODE)
        kernel.judge.explainers["socket"] = self.explain

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
        sk_dst_set(sk, None)
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
            if sk.sk_flags & SOCK_MEMALLOC and sk.sk_socket is not None:
                raise KernelBug("a socket that carries swap is in the hands of a program", state=sk)
            if sk.sk_flags & SOCK_MEMALLOC and not sk.sk_allocation & _GFP_MEMALLOC:
                raise KernelBug("a socket carries swap, but its sk_allocation lost __GFP_MEMALLOC", state=sk)
            queued = sum(skb.truesize for skb in sk.sk_receive_queue)
            if queued > sk.sk_rmem_alloc:
                raise KernelBug(f"the receive queue holds {queued} bytes, more than are charged", state=sk)
        carrying = sum(1 for sk in self.live if sk.sk_flags & SOCK_MEMALLOC)
        if carrying > self.net_reserves.memalloc_socks:
            raise KernelBug(f"{carrying} sockets carry swap, {self.net_reserves.memalloc_socks} are counted")
