"""Allocating and copying socket buffers (2.6.23 net/core/skbuff.c), with patch 19's way into the reserve.

Interface
    SkbAlloc.alloc_skb(size, gfp, flags=0)      flags SKB_ALLOC_FCLONE, SKB_ALLOC_RX
    SkbAlloc.netdev_alloc_skb(dev, size)        a receive buffer
    SkbAlloc.skb_clone, skb_copy, pskb_copy, pskb_expand_head, skb_unclone
    freeing: see SkbFree; pages of received packets: see SkbFrags

Rules
    * Two slab objects per packet: head (``skbuff_head_cache``, 256 bytes; ``skbuff_fclone_cache``, 512 bytes for a pair) and data
      (kmalloc of the aligned size plus the shared info). None when either fails.
    * Only receive allocations become emergency; the head object is never charged; the data area is charged once, before it is
      allocated, and uncharged when the last dataref drops.
    * Left out: references to the route: an skb, like a socket, merely knows it (route.py).
"""

from __future__ import annotations

from typing import Any

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM
from kemu.mm.gfp import _GFP_DMA, _GFP_MEMALLOC, _GFP_NOMEMALLOC, _GFP_NOWARN, GFP_ATOMIC
from kemu_net.core.skb_free import SkbFree
from kemu_net.core.skbuff import (
    NET_SKB_PAD,
    SIZEOF_SHARED_INFO,
    SIZEOF_SK_BUFF,
    SKB_ALLOC_FCLONE,
    SKB_ALLOC_RX,
    SKB_FCLONE_CLONE,
    SKB_FCLONE_ORIG,
    SKB_FCLONE_UNAVAILABLE,
    SharedInfo,
    SkBuff,
    skb_bytes,
    skb_linear,
)


class SkbAlloc(SkbFree):
    """The skb allocator of one stack."""

    def alloc_skb(self, size: int, gfp: int, flags: int = 0) -> SkBuff | None:
        """Allocate an skb with room for ``size`` bytes (``__alloc_skb()``)."""
        end = (size + 63) & ~63
        if flags:
            if self.patched.skb_alloc_reserve and flags & SKB_ALLOC_RX:  # [p19]
                gfp |= _GFP_NOMEMALLOC | _GFP_NOWARN
            if flags & SKB_ALLOC_FCLONE:
                return self._alloc_fclone(end, gfp, flags)
        slub = self.slub
        addr = slub.kmem_cache_alloc(self.skbuff_head_cache, gfp & ~_GFP_DMA)
        if addr is not None:
            head = slub.kmalloc(end + SIZEOF_SHARED_INFO, gfp)
            if head is not None:
                self.live += 1
                return SkBuff(addr, head, end, 0)
            slub.kmem_cache_free(self.skbuff_head_cache, addr)
        if self.patched.skb_alloc_reserve and flags & SKB_ALLOC_RX:  # [p19]
            return self._alloc_skb_reserve(end, gfp)
        return None

    def _alloc_fclone(self, end: int, gfp: int, flags: int) -> SkBuff | None:
        """Allocate the first of a pair of heads; the second serves the next skb_clone() without an allocation."""
        if flags & SKB_ALLOC_RX:
            raise KernelBug("alloc_skb: a receive buffer is never an fclone")
        slub = self.slub
        addr = slub.kmem_cache_alloc(self.skbuff_fclone_cache, gfp & ~_GFP_DMA)
        if addr is None:
            return None
        head = slub.kmalloc(end + SIZEOF_SHARED_INFO, gfp)
        if head is None:
            slub.kmem_cache_free(self.skbuff_fclone_cache, addr)
            return None
        self.live += 1
        skb = SkBuff(addr, head, end, 0)
        skb.fclone = SKB_FCLONE_ORIG
        return skb

    def _alloc_skb_reserve(self, end: int, gfp: int) -> SkBuff | None:
        """Second try of a receive buffer: charge first, then take it from the reserve; on failure usage is what it was."""
        reserves = self.net_reserves
        if not reserves.sk_memalloc_socks():
            return None
        charge = self._charge_of(end)
        if not reserves.rx_emergency_get(charge):
            self.charge_refused = True
            return None
        gfp = gfp & ~(_GFP_NOMEMALLOC | _GFP_NOWARN) | _GFP_MEMALLOC
        slub = self.slub
        addr = slub.kmem_cache_alloc(self.skbuff_head_cache, gfp & ~_GFP_DMA)
        if addr is not None:
            head = slub.kmalloc(end + SIZEOF_SHARED_INFO, gfp)
            if head is not None:
                self.live += 1
                self.emergency_live += 1
                self.stats.emergency_skbs += 1
                return SkBuff(addr, head, end, 1)
            slub.kmem_cache_free(self.skbuff_head_cache, addr)
        reserves.rx_emergency_put(charge)
        return None

    def netdev_alloc_skb(self, dev: object, size: int) -> SkBuff | None:
        """Allocate a receive buffer for ``dev`` (``netdev_alloc_skb()``)."""
        skb = self.alloc_skb(size + NET_SKB_PAD, GFP_ATOMIC, SKB_ALLOC_RX)
        if skb is not None:
            skb.dev = dev
        return skb

    # -- clones and copies ---------------------------------------------------------------------------------------------------------

    def skb_clone(self, skb: SkBuff, gfp: int) -> SkBuff | None:
        """Make a second view of the same data (``skb_clone()``); the sibling of an fclone original costs no memory."""
        clone: SkBuff | None
        if skb.fclone == SKB_FCLONE_ORIG and ((clone := skb.companion) is None or clone.fclone == SKB_FCLONE_UNAVAILABLE):
            if clone is None:
                clone = skb.companion = SkBuff.__new__(SkBuff)
            clone.addr = skb.addr + SIZEOF_SK_BUFF
            clone.fclone = SKB_FCLONE_CLONE
            clone.companion = skb
        else:
            if self.patched.skb_alloc_reserve and skb.emergency:  # [p19]
                gfp |= _GFP_MEMALLOC
            addr = self.slub.kmem_cache_alloc(self.skbuff_head_cache, gfp)
            if addr is None:
                return None
            clone = SkBuff.__new__(SkBuff)
            clone.addr = addr
            clone.fclone = SKB_FCLONE_UNAVAILABLE
            clone.companion = None
        self.live += 1
        _copy_header(clone, skb)
        clone.buf = skb.buf
        clone.head = skb.head
        clone.end = skb.end
        clone.truesize = skb.truesize
        clone.len = skb.len
        clone.data_len = skb.data_len
        clone.frags = skb.frags
        clone.frag_list = skb.frag_list
        clone.emergency = skb.emergency
        shinfo = clone.shinfo = skb.shinfo
        shinfo.dataref += 1
        skb.cloned = clone.cloned = 1
        return clone

    def skb_copy(self, skb: SkBuff, gfp: int) -> SkBuff | None:
        """Copy a packet, fragments made linear (``skb_copy()``)."""
        copy = self.alloc_copy(skb, skb.end + skb.data_len, gfp)
        if copy is not None:
            copy.buf = skb_bytes(skb) if not skb.data else skb.buf[: skb.data] + skb_bytes(skb)
            copy.len = skb.len
        return copy

    def pskb_copy(self, skb: SkBuff, gfp: int) -> SkBuff | None:
        """Copy the linear part and share the fragments (``pskb_copy()``)."""
        copy = self.alloc_copy(skb, skb.end, gfp)
        if copy is not None:
            copy.buf = skb.buf[: skb.data] + skb_linear(skb)
            copy.len = skb.len
            copy.data_len = skb.data_len
            copy.truesize += skb.data_len
            copy.frags = self._share_frags(copy, skb)
            copy.frag_list = skb.frag_list
            _share_frag_list(skb)
        return copy

    def alloc_copy(self, skb: SkBuff, size: int, gfp: int) -> SkBuff | None:
        """Allocate for a copy of ``skb``: the copy of an emergency skb may come from the charged reserve too."""
        flags = 0
        if self.patched.skb_alloc_reserve and skb.emergency:  # [p19]
            flags = SKB_ALLOC_RX
        copy = self.alloc_skb(size, gfp, flags)
        if copy is not None:
            _copy_header(copy, skb)
        return copy

    def _share_frags(self, skb: SkBuff, donor: SkBuff) -> list[Any] | None:
        """Give ``skb`` its own list of the donor's fragments, with a reference to each page."""
        if donor.frags is None:
            return None
        for page, _off, _size in donor.frags:
            self.skb_get_page(skb, page)
        return list(donor.frags)

    def pskb_expand_head(self, skb: SkBuff, nhead: int, ntail: int, gfp: int) -> int:
        """Give ``skb`` a data area of its own, with more room (``pskb_expand_head()``); 0 or -ENOMEM."""
        end = (nhead + skb.end + ntail + 63) & ~63
        if self.patched.skb_alloc_reserve:  # [p19]
            if skb.emergency:
                if not self.net_reserves.rx_emergency_get(self._charge_of(end)):
                    return -ENOMEM
                gfp |= _GFP_MEMALLOC
            else:
                gfp |= _GFP_NOMEMALLOC
        head = self.slub.kmalloc(end + SIZEOF_SHARED_INFO, gfp)
        if head is None:
            if self.patched.skb_alloc_reserve and skb.emergency:  # [p19]
                self.net_reserves.rx_emergency_put(self._charge_of(end))
            return -ENOMEM
        frags = self._share_frags(skb, skb)
        _share_frag_list(skb)
        shinfo = skb.shinfo
        shinfo.dataref -= 1
        if not shinfo.dataref:
            self._release_data(skb)
        self.emergency_live += skb.emergency
        skb.shinfo = SharedInfo()
        skb.head = head
        skb.end = end
        if skb.reserved >= 0:
            skb.reserved += nhead
        skb.frags = frags
        skb.cloned = skb.nohdr = 0
        return 0

    def skb_unclone(self, skb: SkBuff, gfp: int) -> int:
        """Give ``skb`` its own data area if others look at this one (``skb_cloned()`` and pskb_expand_head()); 0 or -ENOMEM."""
        if skb.cloned and skb.shinfo.dataref > 1:
            return self.pskb_expand_head(skb, 0, 0, gfp)
        return 0


def skb_cloned(skb: SkBuff) -> bool:
    """Tell whether somebody else looks at the data (``skb_cloned()``)."""
    return bool(skb.cloned) and skb.shinfo.dataref > 1


def _share_frag_list(skb: SkBuff) -> None:
    """Take a reference to every packet of the fragment list (``skb_clone_fraglist()``)."""
    child = skb.frag_list
    while child is not None:
        child.users += 1
        child = child.next


def _copy_header(new: SkBuff, old: SkBuff) -> None:
    """Copy what describes the packet, not the memory (``copy_skb_header()``); a new skb has no owner."""
    new.sk = None
    new.destructor = None
    new.next = None
    new.users = 1
    new.nohdr = 0
    new.cloned = 0
    new.data = old.data
    new.reserved = old.reserved
    new.dev = old.dev
    new.dst = old.dst
    new.protocol = old.protocol
    new.pkt_type = old.pkt_type
    new.priority = old.priority
    new.mac = old.mac
    new.nh = old.nh
    new.h = old.h
    new.ip_summed = old.ip_summed
    new.csum = old.csum
    new.saddr = old.saddr
    new.daddr = old.daddr
    new.seq = old.seq
    new.end_seq = old.end_seq
    new.when = old.when
    new.flags = old.flags
    new.sacked = old.sacked
    new.ack_seq = old.ack_seq
