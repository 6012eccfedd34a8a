"""Who may work on a socket: its lock and its backlog (2.6.23 net/core/sock.c, include/net/sock.h).

Interface (methods of Socks)
    lock_sock, release_sock          process context owns the socket; packets wait in the backlog meanwhile
    bh_unlock_sock, sk_add_backlog   a softirq's side of it
    sk_backlog_rcv                   the one place that runs a backlog packet (patches 13, 23)

Rules
    * ``sk_slock`` (sk_lock.slock) is held by a softirq that works on the socket. Softirqs do not nest, so only another CPU can find
      it taken, while its holder spends time: a packet then goes to the backlog, which the holder works off; a task spins.
    * The backlog has no limit, as in 2.6.23.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.kernel.costs import SPIN
from kemu.kernel.task import PF_MEMALLOC, tsk_restore_flags
from kemu_net.core.sock_memalloc import SockMemalloc
from kemu_net.core.sock_struct import SOCK_MEMALLOC, Sock

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.net_reserve import NetReserves
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff
    from kemu_net.core.stats import NetStats


class SockLock(SockMemalloc):
    """Lock and backlog of the sockets of one machine."""

    def __init__(self, kernel: Kernel, net_reserves: NetReserves, skbs: SkbAlloc, stats: NetStats) -> None:
        super().__init__(kernel, net_reserves)
        self.sched = kernel.sched
        self.softirq = kernel.softirq
        self.skbs = skbs
        self.stats = stats
        self._tp_kfree_skb = kernel.trace.point("skb:kfree_skb", ("skbaddr", "protocol", "location"))

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
