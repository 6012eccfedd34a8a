"""Other ways to get receive memory, as the review of v14 proposed them: one fixed size from a slab cache of its own, and recycling.

Interface
    skb_alloc_class(rx_buffers, recycle)   the class of a stack's allocator: SkbAlloc itself, or with one or both of
    FixedBuffers                           receive buffers of RX_BUFFER_SIZE bytes from ``skbuff_rx_cache``
    Recycling                              data areas of some sizes wait for their next packet: ``pools``, ``recycled``, ``drain()``

Rules
    * Both are switches of a machine, chosen when it boots. The allocator that v14 has does not know of them.
    * Fixed: what fits into RX_BUFFER_SIZE comes from the cache, normal first and then charged, as patch 19 does it; larger buffers
      (MTU 9000) come from kmalloc. Only receive buffers live in these slabs: they are not mixed with what lives long.
    * Recycling: a plain packet (one user, its data nobody else's, nothing in pages) goes to the pool instead of the slab if keep()
      named the size of its data. Its next user may be a received packet or a sent one.
    * An emergency buffer in the pool stays charged, for that is what it is: memory of the reserve. It serves receive requests only,
      and only when no normal memory can be had: after the normal pool and the allocator, before a new charge. As soon as ordinary
      memory is there again, each receive buffer that gets some frees one of them.
    * A pool holds POOL_SIZE buffers of a size; drain() frees them all, in any context. Left out: a shrinker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kemu.errors import ConfigError
from kemu.mm.gfp import _GFP_DMA, _GFP_MEMALLOC, _GFP_NOMEMALLOC, _GFP_NOWARN, GFP_ATOMIC
from kemu.mm.slub import SLAB_HWCACHE_ALIGN
from kemu_net.core.skb_alloc import SkbAlloc
from kemu_net.core.skbuff import NET_SKB_PAD, SIZEOF_SHARED_INFO, SKB_ALLOC_FCLONE, SKB_DATA_ALIGN, SkBuff

if TYPE_CHECKING:
    from kemu.mm.slub import KmemCache

RX_BUFFER_SIZE: Final = 1538  # bytes: a full frame with its pad, as most drivers of the time asked for
POOL_SIZE: Final = 64

RX_BUFFERS: Final = ("kmalloc", "fixed")


class _Receive(SkbAlloc):
    """What both variants ask for."""

    def normal_buffer(self, size: int) -> SkBuff | None:
        """Give a receive buffer of ordinary memory, or None: nothing is charged, and no reserve touched."""
        return self.alloc_skb(size + NET_SKB_PAD, GFP_ATOMIC | _GFP_NOMEMALLOC | _GFP_NOWARN)


class FixedBuffers(_Receive):
    """Receive buffers of one size from one cache."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fixed_end = SKB_DATA_ALIGN(RX_BUFFER_SIZE)
        size = self._fixed_end + SIZEOF_SHARED_INFO
        self.skbuff_rx_cache: KmemCache = self.slub.kmem_cache_create("skbuff_rx_cache", size, 0, SLAB_HWCACHE_ALIGN)

    def netdev_alloc_skb(self, dev: object, size: int) -> SkBuff | None:
        """Allocate a receive buffer: normal memory first, then the charged reserve (``netdev_alloc_skb()``)."""
        if size + NET_SKB_PAD > self._fixed_end:
            return super().netdev_alloc_skb(dev, size)
        gfp = GFP_ATOMIC
        if self.patched.skb_alloc_reserve:  # [p19]
            gfp |= _GFP_NOMEMALLOC | _GFP_NOWARN
        skb = self._fixed(gfp, 0)
        if self.patched.skb_alloc_reserve and skb is None:  # [p19]
            skb = self._fixed_reserve(gfp)
        if skb is not None:
            skb.dev = dev
        return skb

    def normal_buffer(self, size: int) -> SkBuff | None:
        """Give one of the cache, if the size fits."""
        if size + NET_SKB_PAD > self._fixed_end:
            return super().normal_buffer(size)
        return self._fixed(GFP_ATOMIC | _GFP_NOMEMALLOC | _GFP_NOWARN, 0)

    def _fixed(self, gfp: int, emergency: int) -> SkBuff | None:
        """Make a head and a buffer of the cache, or neither."""
        slub = self.slub
        addr = slub.kmem_cache_alloc(self.skbuff_head_cache, gfp & ~_GFP_DMA)
        if addr is None:
            return None
        head = slub.kmem_cache_alloc(self.skbuff_rx_cache, gfp)
        if head is None:
            slub.kmem_cache_free(self.skbuff_head_cache, addr)
            return None
        self.live += 1
        return SkBuff(addr, head, self._fixed_end, emergency)

    def _fixed_reserve(self, gfp: int) -> SkBuff | None:
        """Charge, and take the buffer from the reserve; on failure usage is what it was."""
        reserves = self.net_reserves
        if not reserves.sk_memalloc_socks():
            return None
        charge = self._charge_of(self._fixed_end)
        if not reserves.rx_emergency_get(charge):
            self.charge_refused = True
            return None
        skb = self._fixed(gfp & ~(_GFP_NOMEMALLOC | _GFP_NOWARN) | _GFP_MEMALLOC, 1)
        if skb is None:
            reserves.rx_emergency_put(charge)
            return None
        self.emergency_live += 1
        self.stats.emergency_skbs += 1
        return skb


class Recycling(_Receive):
    """A pool of packets that have been used, by the size of their data.

    :ivar pools: end -> normal packets, emergency packets, as (head object, data object); only the sizes that :meth:`keep` named.
    :ivar recycled: allocations that the pool served.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pools: dict[int, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
        self.recycled = 0

    def keep(self, *sizes: int) -> None:
        """Keep used packets whose data were asked for with one of these sizes, in bytes."""
        for size in sizes:
            self.pools.setdefault(SKB_DATA_ALIGN(size), ([], []))

    def alloc_skb(self, size: int, gfp: int, flags: int = 0) -> SkBuff | None:
        """Use an ordinary packet again, or allocate one (``alloc_skb()``)."""
        end = SKB_DATA_ALIGN(size)
        pool = self.pools.get(end)
        if pool is None or not pool[0] or flags & SKB_ALLOC_FCLONE:
            return super().alloc_skb(size, gfp, flags)
        return self._again(pool[0], end, 0)

    def netdev_alloc_skb(self, dev: object, size: int) -> SkBuff | None:
        """Use a receive buffer again, or allocate one: in turn ordinary ones, ordinary memory, charged ones, a new charge."""
        end = SKB_DATA_ALIGN(size + NET_SKB_PAD)
        pool = self.pools.get(end)
        skb: SkBuff | None = None
        if pool is not None and pool[0]:
            skb = self._again(pool[0], end, 0)
        elif pool is not None and pool[1]:
            skb = self.normal_buffer(size)
            if skb is None:
                skb = self._again(pool[1], end, 1)
            else:  # the need is over, for one
                self._free_emergency(end, *pool[1].pop())
        else:
            skb = super().netdev_alloc_skb(dev, size)
        if skb is not None:
            skb.dev = dev
        return skb

    def _again(self, pool: list[tuple[int, int]], end: int, emergency: int) -> SkBuff:
        """Take the packet that was used last, as good as new."""
        addr, head = pool.pop()
        self.recycled += 1
        self.live += 1
        return SkBuff(addr, head, end, emergency)

    def kfree_skb(self, skb: SkBuff, reason: str | None = None) -> None:
        """Drop a reference; a packet that can serve again goes to its pool (``skb_recycle_check()`` of later kernels)."""
        pool = self.pools.get(skb.end)
        plain = skb.users == 1 and not skb.fclone and skb.shinfo.dataref == 1 and not skb.frags and skb.frag_list is None
        if pool is None or not plain or len(pool[skb.emergency]) >= POOL_SIZE:
            super().kfree_skb(skb, reason)
            return
        if reason is not None:
            self._note_drop(skb, reason)
        elif self._tp_consume_skb.enabled:
            self._tp_consume_skb(skb.addr)
        if skb.destructor is not None:
            skb.destructor(skb)
        skb.users = 0
        self.live -= 1
        pool[skb.emergency].append((skb.addr, skb.head))

    def _free_emergency(self, end: int, addr: int, head: int) -> None:
        """Give a charged buffer back to the slab, and its charge to the reserve."""
        self.slub.kfree(head)
        self.slub.kmem_cache_free(self.skbuff_head_cache, addr)
        if self.patched.skb_alloc_reserve:  # [p19]
            self.emergency_live -= 1
            self.net_reserves.rx_emergency_put(self._charge_of(end))

    def drain(self) -> None:
        """Free what waits in the pools."""
        for end, (normal, emergency) in self.pools.items():
            for addr, head in normal:
                self.slub.kfree(head)
                self.slub.kmem_cache_free(self.skbuff_head_cache, addr)
            for addr, head in emergency:
                self._free_emergency(end, addr, head)
        self.pools.clear()  # what is freed from now on is freed


def skb_alloc_class(rx_buffers: str, recycle: bool) -> type[SkbAlloc]:
    """Give the allocator's class for two switches: ``rx_buffers`` is one of RX_BUFFERS."""
    if rx_buffers not in RX_BUFFERS:
        raise ConfigError(f"nic: rx_buffers is {' or '.join(RX_BUFFERS)}, not {rx_buffers}")
    parts = ((Recycling,) if recycle else ()) + ((FixedBuffers,) if rx_buffers == "fixed" else ())
    if not parts:
        return SkbAlloc
    return parts[0] if len(parts) == 1 else type("RecyclingFixedBuffers", parts, {})
