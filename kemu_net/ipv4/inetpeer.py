"""What is remembered of other hosts apart from routes (2.6.23 net/ipv4/inetpeer.c).

Interface: ``InetPeers.inet_getpeer(addr)``, ``inet_putpeer(peer)``, ``close()``.

Rules
    * A peer is an object of ``inet_peer_cache``, allocated with GFP_ATOMIC by the first fragment of a sender; without memory the
      fragments of that sender are just not counted.
    * Who is not referred to any more is forgotten after 600 s, sooner (down to 120 s) when there are many: every 120 s to 10 s a
      timer looks, while there is such a peer.
    * A dict stands for the AVL tree. Left out: the identities of packets that are sent, and TCP's time stamps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.timer import HZ, Timer
from kemu.mm.gfp import GFP_ATOMIC
from kemu.mm.slub import SLAB_HWCACHE_ALIGN

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub

SIZEOF_INET_PEER = 72  # struct inet_peer, x86_64; 128 with the alignment
THRESHOLD = 65536 + 128
MINTTL = 120 * HZ
MAXTTL = 600 * HZ
GC_MINTIME = 10 * HZ
GC_MAXTIME = 120 * HZ


class InetPeer:
    """``struct inet_peer``.

    :ivar rid: how many fragments came from it.
    :ivar dtime: since when nobody refers to it.
    """

    __slots__ = ("addr", "dtime", "refcnt", "rid", "v4daddr")

    def __init__(self, addr: int, v4daddr: int) -> None:
        self.addr = addr
        self.v4daddr = v4daddr
        self.refcnt = 1
        self.rid = 0
        self.dtime = 0


class InetPeers:
    """The peers of one machine."""

    def __init__(self, kernel: Kernel, slub: Slub) -> None:
        self.sched = kernel.sched
        self.timers = kernel.timers
        self.slub = slub
        self.cache = slub.kmem_cache_create("inet_peer_cache", SIZEOF_INET_PEER, 0, SLAB_HWCACHE_ALIGN)
        self.peers: dict[int, InetPeer] = {}
        self.unused: dict[int, InetPeer] = {}
        self._timer = Timer("inet_peer", self._check_expire)

    def inet_getpeer(self, addr: int) -> InetPeer | None:
        """Give the peer of an address with a reference, made if need be; None without memory."""
        peer = self.peers.get(addr)
        if peer is not None:
            peer.refcnt += 1
            self.unused.pop(addr, None)
            return peer
        obj = self.slub.kmem_cache_alloc(self.cache, GFP_ATOMIC)
        if obj is None:
            return None
        peer = self.peers[addr] = InetPeer(obj, addr)
        self._cleanup_once(0 if len(self.peers) >= THRESHOLD else MAXTTL)
        return peer

    def inet_putpeer(self, peer: InetPeer) -> None:
        """Drop a reference."""
        peer.refcnt -= 1
        if not peer.refcnt:
            peer.dtime = self.sched.jiffies
            self.unused[peer.v4daddr] = peer
            if not self._timer.pending:
                self.timers.mod_timer(self._timer, self.sched.jiffies + GC_MAXTIME)

    def _cleanup_once(self, ttl: int) -> bool:
        """Forget the one that was unused longest, if it was for ``ttl`` (``cleanup_once()``)."""
        peer = next(iter(self.unused.values()), None)
        if peer is None or self.sched.jiffies < peer.dtime + ttl:
            return False
        self._forget(peer)
        return True

    def _forget(self, peer: InetPeer) -> None:
        del self.peers[peer.v4daddr]
        self.unused.pop(peer.v4daddr, None)
        self.slub.kmem_cache_free(self.cache, peer.addr)

    def _check_expire(self, _data: object) -> None:
        """Forget who was unused for long (``peer_check_expire()``)."""
        total = len(self.peers)
        crowded = total >= THRESHOLD
        ttl = MINTTL if crowded else MAXTTL - (MAXTTL - MINTTL) // HZ * total // THRESHOLD * HZ
        while self._cleanup_once(ttl):
            pass
        if self.unused:
            wait = GC_MINTIME if crowded else GC_MAXTIME - (GC_MAXTIME - GC_MINTIME) // HZ * total // THRESHOLD * HZ
            self.timers.mod_timer(self._timer, self.sched.jiffies + wait)

    def close(self) -> None:
        """Forget all to whom nobody refers."""
        for peer in list(self.unused.values()):
            self._forget(peer)
        self.timers.del_timer(self._timer)
