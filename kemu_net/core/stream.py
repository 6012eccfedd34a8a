"""Memory of stream sockets: pages charged to a protocol, and waiting for them (2.6.23 net/core/stream.c, include/net/sock.h).

A stream socket charges whole pages to its protocol (``memory_allocated``, limited by tcp_mem) and spends them byte by byte on skbs
(``sk_forward_alloc``). What is left goes back by sk_stream_mem_reclaim().

Interface
    Streams(kernel, socks, skbs)
        sk_stream_mem_schedule, sk_stream_rmem_schedule, sk_stream_wmem_schedule, sk_stream_mem_reclaim
        sk_stream_alloc_pskb, sk_stream_free_skb, sk_stream_kill_queues
        sk_stream_wait_memory, sk_stream_write_space
    sk_stream_rfree, sk_stream_set_owner_r, sk_stream_wspace, sk_stream_min_wspace, sk_stream_memory_free    free functions
    tcp_mem_limits(pages)    tcp_mem, tcp_rmem and tcp_wmem of a machine

Rules
    * Patch 21 stands in sk_stream_mem_schedule(): above the hard limit an emergency skb is not refused at once. That is not yet a
      promise: the tests that follow may refuse it (b21).
    * ``kind`` 1 is receive, 0 is send, as in the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel.errno import EAGAIN, EPIPE
from kemu_net.core.skbuff import SKB_ALLOC_FCLONE, SkBuff
from kemu_net.core.sock import (
    SEND_SHUTDOWN,
    SOCK_ASYNC_NOSPACE,
    SOCK_MIN_SNDBUF,
    SOCK_NOSPACE,
    SOCK_QUEUE_SHRUNK,
    SOCK_SNDBUF_LOCK,
    Sock,
    sock_sndtimeo,
)

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.gfp import gfp_t
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.sock import Proto, Socks

SK_STREAM_MEM_QUANTUM = 4096
MAX_TCP_HEADER = 128 + 32  # LL_MAX_HEADER of a kernel without wireless or tunnels
_HEADER_ROOM = (MAX_TCP_HEADER + 63) & ~63


def tcp_mem_limits(pages: int) -> tuple[list[int], list[int], list[int]]:
    """Give tcp_mem (pages), tcp_rmem and tcp_wmem (bytes) of a machine with ``pages`` of RAM (net/ipv4/tcp.c: tcp_init())."""
    limit = max((min(pages, 1 << 16) >> 8) * (pages >> 8) >> 1, 128)
    mem = [limit // 4 * 3, limit, limit // 4 * 3 * 2]
    share = min(4 << 20, mem[1] * 32)
    return mem, [4096, 87380, max(87380, share)], [4096, 16384, max(65536, share)]


def sk_stream_pages(amount: int) -> int:
    """Round bytes up to pages (``sk_stream_pages()``)."""
    return (amount + SK_STREAM_MEM_QUANTUM - 1) // SK_STREAM_MEM_QUANTUM


def sk_stream_min_wspace(sk: Sock) -> int:
    """Give the room that a writer is woken for: half of what is queued (``sk_stream_min_wspace()``)."""
    return sk.sk_wmem_queued >> 1


def sk_stream_wspace(sk: Sock) -> int:
    """Give the room in the send buffer (``sk_stream_wspace()``)."""
    return sk.sk_sndbuf - sk.sk_wmem_queued


def sk_stream_memory_free(sk: Sock) -> bool:
    """Tell whether the send buffer has any room (``sk_stream_memory_free()``)."""
    return sk.sk_wmem_queued < sk.sk_sndbuf


def sk_stream_rfree(skb: SkBuff) -> None:
    """Destructor of a received segment: its bytes are the socket's to spend again (``sk_stream_rfree()``)."""
    sk: Sock = skb.sk
    sk.sk_rmem_alloc -= skb.truesize
    sk.sk_forward_alloc += skb.truesize


def sk_stream_set_owner_r(skb: SkBuff, sk: Sock) -> None:
    """Account a received segment to its socket (``sk_stream_set_owner_r()``)."""
    skb.sk = sk
    skb.destructor = sk_stream_rfree
    sk.sk_rmem_alloc += skb.truesize
    sk.sk_forward_alloc -= skb.truesize


def sk_stream_moderate_sndbuf(sk: Sock) -> None:
    """Shrink the send buffer of a socket that met a shortage (``sk_stream_moderate_sndbuf()``)."""
    if not sk.sk_userlocks & SOCK_SNDBUF_LOCK:
        sk.sk_sndbuf = max(min(sk.sk_sndbuf, sk.sk_wmem_queued // 2), SOCK_MIN_SNDBUF)


class Streams:
    """What all stream sockets of a machine do with memory."""

    def __init__(self, kernel: Kernel, socks: Socks, skbs: SkbAlloc) -> None:
        self.sched = kernel.sched
        self.rng = kernel.rng
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.socks = socks
        self.skbs = skbs

    def enter_memory_pressure(self, prot: Proto) -> None:
        """Note that the protocol is short of memory (``tcp_enter_memory_pressure()``)."""
        prot.memory_pressure = 1

    def sk_stream_mem_schedule(self, sk: Sock, size: int, kind: int, skb: SkBuff | None) -> bool:
        """Charge pages for ``size`` bytes (``sk_stream_mem_schedule()``); False leaves everything as it was, but for pressure.

        :param skb: what they are for, None for sends (added by patch 21).
        """
        prot = sk.sk_prot
        low, pressure, hard = prot.sysctl_mem
        amount = (size + 4095) >> 12
        sk.sk_forward_alloc += amount << 12
        allocated = prot.memory_allocated = prot.memory_allocated + amount
        if allocated < low:
            prot.memory_pressure = 0
            return True
        if allocated > hard:
            prot.memory_pressure = 1
            refused = True
            if self.patched.tcp_deadlock and skb is not None and skb.emergency:  # [p21]
                refused = self._over_share(sk, kind)
        else:
            if allocated > pressure:
                prot.memory_pressure = 1
            refused = self._over_share(sk, kind)
        if not refused:
            return True
        if not kind:
            sk_stream_moderate_sndbuf(sk)
            if sk.sk_wmem_queued + size >= sk.sk_sndbuf:
                return True  # the write fails softly: the sender will find no room and wait
        sk.sk_forward_alloc -= amount << 12
        prot.memory_allocated -= amount
        return False

    def _over_share(self, sk: Sock, kind: int) -> bool:
        """Tell whether this socket holds too much for its protocol (the last tests of ``sk_stream_mem_schedule()``)."""
        prot = sk.sk_prot
        if kind:
            if sk.sk_rmem_alloc < prot.sysctl_rmem[0]:
                return False
        elif sk.sk_wmem_queued < prot.sysctl_wmem[0]:
            return False
        if not prot.memory_pressure:
            return False
        held = sk.sk_wmem_queued + sk.sk_rmem_alloc + sk.sk_forward_alloc
        return prot.sysctl_mem[2] <= prot.sockets_allocated * ((held + 4095) >> 12)

    def sk_stream_rmem_schedule(self, sk: Sock, skb: SkBuff) -> bool:
        """Tell whether a received segment may be queued (``sk_stream_rmem_schedule()``).

        With b21 mended, as in v16, an emergency skb that carries swap is always taken; it may leave sk_forward_alloc below zero.
        """
        if skb.truesize <= sk.sk_forward_alloc or self.sk_stream_mem_schedule(sk, skb.truesize, 1, skb):
            return True
        if self.patched.tcp_deadlock:  # [p21]
            return bool(skb.emergency) if self.fixed.b21 else False  # [b21]
        return False

    def sk_stream_wmem_schedule(self, sk: Sock, size: int) -> bool:
        """Tell whether a segment may be made (``sk_stream_wmem_schedule()``)."""
        return size <= sk.sk_forward_alloc or self.sk_stream_mem_schedule(sk, size, 0, None)

    def sk_stream_mem_reclaim(self, sk: Sock) -> None:
        """Give whole pages back that no skb uses (``sk_stream_mem_reclaim()``)."""
        if sk.sk_forward_alloc >= SK_STREAM_MEM_QUANTUM:
            prot = sk.sk_prot
            prot.memory_allocated -= sk.sk_forward_alloc >> 12
            sk.sk_forward_alloc &= SK_STREAM_MEM_QUANTUM - 1
            if prot.memory_pressure and prot.memory_allocated < prot.sysctl_mem[0]:
                prot.memory_pressure = 0

    def sk_stream_alloc_pskb(self, sk: Sock, size: int, mem: int, gfp: gfp_t) -> SkBuff | None:
        """Make a segment with room for ``size`` linear bytes (``sk_stream_alloc_pskb()``); its clone is paid for with it."""
        gfp = self.socks.sk_allocation(sk, gfp) if self.patched.sk_allocation else gfp  # [p15]
        skb = self.skbs.alloc_skb(size + _HEADER_ROOM, gfp, SKB_ALLOC_FCLONE)
        if skb is None:
            self.enter_memory_pressure(sk.sk_prot)
            sk_stream_moderate_sndbuf(sk)
            return None
        skb.truesize += mem
        if skb.truesize <= sk.sk_forward_alloc or self.sk_stream_mem_schedule(sk, skb.truesize, 0, None):
            return skb
        self.skbs.kfree_skb(skb)
        return None

    def sk_stream_free_skb(self, sk: Sock, skb: SkBuff) -> None:
        """Free a segment of the write queue (``sk_stream_free_skb()``)."""
        sk.sk_flags |= SOCK_QUEUE_SHRUNK
        sk.sk_wmem_queued -= skb.truesize
        sk.sk_forward_alloc += skb.truesize
        self.skbs.kfree_skb(skb)

    def sk_stream_kill_queues(self, sk: Sock) -> None:
        """Empty a dying socket (``sk_stream_kill_queues()``); its protocol has purged the write queue."""
        self.socks.skb_queue_purge(sk.sk_receive_queue)
        self.sk_stream_mem_reclaim(sk)
        if sk.sk_wmem_queued or sk.sk_forward_alloc:
            raise KernelBug(f"a dying stream socket keeps {sk.sk_wmem_queued} + {sk.sk_forward_alloc} bytes", state=sk)

    def sk_stream_write_space(self, sk: Sock) -> None:
        """Wake writers when there is room (``sk_stream_write_space()``): the default sk_write_space() of a stream socket."""
        if sk.sk_sndbuf - sk.sk_wmem_queued >= sk.sk_wmem_queued >> 1:
            sk.sk_socket_flags &= ~SOCK_NOSPACE
            self.sched.wake_up_all(sk.sk_sleep)

    def sk_stream_wait_memory(self, sk: Sock, nonblock: bool) -> int:
        """Wait for room in the send buffer, or a while for memory (``sk_stream_wait_memory()``): 0, -EAGAIN, -EPIPE or the error.

        The caller owns the socket; it is given up while waiting. When the buffer has room, what failed was an allocation, and only
        time helps: 2 to 51 jiffies. SO_SNDTIMEO bounds each wait; the kernel bounds their sum within one call.
        """
        sk.sk_socket_flags |= SOCK_ASYNC_NOSPACE
        if sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
            return -EPIPE
        timeo = sock_sndtimeo(sk, nonblock)
        if not timeo:
            return -EAGAIN
        sched = self.sched
        socks = self.socks
        left = 1
        if sk_stream_memory_free(sk):
            socks.release_sock(sk)
            sched.schedule_timeout(min(self.rng.randrange(50) + 2, timeo), ("socket", sk))
            socks.lock_sock(sk)
        else:
            sk.sk_socket_flags |= SOCK_NOSPACE
            socks.release_sock(sk)
            left = sched.wait_event_timeout(
                sk.sk_sleep,
                lambda: sk_stream_memory_free(sk) or sk.sk_err != 0 or sk.sk_shutdown & SEND_SHUTDOWN != 0,
                timeo,
                ("socket", sk),
            )
            socks.lock_sock(sk)
        sk.sk_socket_flags &= ~SOCK_ASYNC_NOSPACE
        if sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
            return -EPIPE
        return 0 if left else -EAGAIN
