"""Freeing socket buffers, and what the allocator of a stack owns (2.6.23 net/core/skbuff.c: kfree_skb() and below).

Interface
    SkbFree.kfree_skb(skb, reason=None)    drop a reference; ``reason`` counts a drop (see NetStats)
    live, emergency_live, stats            counters; the two slab caches of heads

Rules
    * The data area goes with the last dataref, and with it its fragments and its charge; the head goes with the last user.
    * A pair of heads (fclone) is one slab object: it goes when both halves are free.
    * v14 charges the aligned size without the shared info (``b19a`` mends: what kmalloc really takes). The reserve rounds to powers
      of two, so end + 312 and ksize() come to one charge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.mm.slub import SLAB_HWCACHE_ALIGN
from kemu_net.core.skb_frags import SkbFrags
from kemu_net.core.skbuff import (
    SIZEOF_FCLONE,
    SIZEOF_SHARED_INFO,
    SIZEOF_SK_BUFF,
    SKB_FCLONE_CLONE,
    SKB_FCLONE_ORIG,
    SKB_FCLONE_UNAVAILABLE,
    SkBuff,
)
from kemu_net.core.stats import NetStats

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.slub import Slub
    from kemu_net.core.net_reserve import NetReserves


class SkbFree(SkbFrags):
    """The freeing half; :class:`~kemu_net.core.skb_alloc.SkbAlloc` is the whole.

    :param stats: counts emergency buffers and drops; made here if none is given.
    :ivar live: skb heads that exist (pairs count per member in use).
    :ivar emergency_live: emergency data areas that exist.
    """

    def __init__(
        self, kernel: Kernel, page_alloc: PageAllocator, slub: Slub, net_reserves: NetReserves, stats: NetStats | None = None
    ) -> None:
        super().__init__(kernel, page_alloc, net_reserves)
        self.slub = slub
        self.stats = NetStats() if stats is None else stats
        self.skbuff_head_cache = slub.kmem_cache_create("skbuff_head_cache", SIZEOF_SK_BUFF, 0, SLAB_HWCACHE_ALIGN)
        self.skbuff_fclone_cache = slub.kmem_cache_create("skbuff_fclone_cache", SIZEOF_FCLONE, 0, SLAB_HWCACHE_ALIGN)
        self.live = 0
        self.emergency_live = 0
        self._tp_kfree_skb = kernel.trace.point("skb:kfree_skb", ("skbaddr", "protocol", "location"))
        self._tp_consume_skb = kernel.trace.point("skb:consume_skb", ("skbaddr",))

    def _charge_of(self, end: int) -> int:
        """Give what an emergency data area of aligned size ``end`` is charged with."""
        charge = end
        if self.patched.skb_alloc_reserve:  # [p19]
            charge = end
            if self.fixed.b19a:  # [b19a]
                charge = end + SIZEOF_SHARED_INFO
        return charge

    def charged(self, skb: SkBuff) -> int:
        """Give what the reserve counts for the data area of an emergency skb: a power of two."""
        return 1 << (self._charge_of(skb.end) - 1).bit_length()

    def kfree_skb(self, skb: SkBuff, reason: str | None = None) -> None:
        """Drop a reference; the last one frees (``kfree_skb()``).

        :param reason: why it was dropped: a gate of NetStats.drops, or any word for NetStats.ignored; None when it was used.
        """
        skb.users -= 1
        if skb.users:
            if skb.users < 0:
                raise KernelBug("kfree_skb: freed twice", state=skb)
            return
        if reason is not None:
            self._note_drop(skb, reason)
        elif self._tp_consume_skb.enabled:
            self._tp_consume_skb(skb.addr)
        destructor = skb.destructor
        if destructor is not None:
            skb.destructor = None
            destructor(skb)
        shinfo = skb.shinfo
        shinfo.dataref -= 1
        if not shinfo.dataref:
            self._release_data(skb)
        self.live -= 1
        if skb.fclone:
            self._free_fclone(skb)
        else:
            self.slub.kmem_cache_free(self.skbuff_head_cache, skb.addr)

    def _note_drop(self, skb: SkBuff, reason: str) -> None:
        """Count a packet that is lost, and say why."""
        drops = self.stats.drops
        if reason in drops:
            drops[reason] += 1
        else:
            self.stats.ignore(reason)
        if skb.emergency:
            self.stats.lose_emergency(reason, self.charged(skb))
        if self._tp_kfree_skb.enabled:
            self._tp_kfree_skb(skb.addr, skb.protocol, reason)

    def _release_data(self, skb: SkBuff) -> None:
        """Free the data area and drop the fragments (``skb_release_data()`` after the last dataref)."""
        frags = skb.frags
        if frags is not None:
            skb.frags = None
            for page, _off, _size in frags:
                self.skb_put_page(skb, page)
        child = skb.frag_list
        while child is not None:
            following = child.next
            self.kfree_skb(child)
            child = following
        self.slub.kfree(skb.head)
        if self.patched.skb_alloc_reserve and skb.emergency:  # [p19]
            self.emergency_live -= 1
            self.net_reserves.rx_emergency_put(self._charge_of(skb.end))

    def _free_fclone(self, skb: SkBuff) -> None:
        """Free one half of a pair; the slab object goes with the second (``kfree_skbmem()``).

        The two then forget each other: a circle of them would keep their bytes until the garbage collector comes.
        """
        if skb.fclone == SKB_FCLONE_ORIG:
            clone = skb.companion
            if clone is None or clone.fclone != SKB_FCLONE_CLONE:
                skb.companion = None
                self.slub.kmem_cache_free(self.skbuff_fclone_cache, skb.addr)
            return
        original = skb.companion
        assert original is not None
        skb.fclone = SKB_FCLONE_UNAVAILABLE
        if not original.users:
            original.companion = None
            self.slub.kmem_cache_free(self.skbuff_fclone_cache, original.addr)
