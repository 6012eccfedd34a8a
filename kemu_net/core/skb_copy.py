"""Copies with more room, and private copies of what others look at (2.6.23 net/core/skbuff.c, include/linux/skbuff.h).

Interface (``skbs`` is the stack's allocator)
    skb_copy_expand(skbs, skb, headroom, tailroom, gfp)   a linear copy with so much room before and behind; None without memory
    skb_realloc_headroom(skbs, skb, headroom)             a private packet with so much room in front; None without memory
    skb_cow(skbs, skb, headroom)                          the same for the packet itself: True, or False without memory
    skb_share_check(skbs, skb, gfp)                       the packet, or a clone if others hold it, too; None without memory
    skb_get(skb)                                          one more reference

Rules
    * A copy of an emergency packet may come from the charged reserve, as skb_copy() has it (patch 19).
    * skb_share_check() drops the caller's reference to a shared packet, also when it finds no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skb_alloc import skb_cloned
from kemu_net.core.skbuff import SKB_DATA_ALIGN, SkBuff, skb_bytes, skb_headroom

if TYPE_CHECKING:
    from kemu_net.core.skb_alloc import SkbAlloc


def skb_get(skb: SkBuff) -> SkBuff:
    """Take a reference (``skb_get()``)."""
    skb.users += 1
    return skb


def skb_share_check(skbs: SkbAlloc, skb: SkBuff, gfp: int) -> SkBuff | None:
    """Give a packet head that is the caller's own (``skb_share_check()``)."""
    if skb.users == 1:
        return skb
    clone = skbs.skb_clone(skb, gfp)
    skbs.kfree_skb(skb)
    return clone


def skb_copy_expand(skbs: SkbAlloc, skb: SkBuff, headroom: int, tailroom: int, gfp: int) -> SkBuff | None:
    """Copy a packet with room before and behind it (``skb_copy_expand()``); what lay before its data is not copied."""
    copy = skbs.alloc_copy(skb, headroom + skb.len + tailroom, gfp)
    if copy is None:
        return None
    copy.buf = skb_bytes(skb)
    copy.len = skb.len
    back = skb.data
    copy.data = 0
    copy.reserved = headroom
    copy.mac, copy.nh, copy.h = skb.mac - back, skb.nh - back, skb.h - back
    return copy


def skb_realloc_headroom(skbs: SkbAlloc, skb: SkBuff, headroom: int) -> SkBuff | None:
    """Give another packet of the same data with room in front (``skb_realloc_headroom()``): a clone's, or a copy of its head."""
    delta = headroom - skb_headroom(skb)
    if delta <= 0:
        return skbs.pskb_copy(skb, GFP_ATOMIC)
    other = skbs.skb_clone(skb, GFP_ATOMIC)
    if other is not None and skbs.pskb_expand_head(other, SKB_DATA_ALIGN(delta), 0, GFP_ATOMIC):
        skbs.kfree_skb(other)
        return None
    return other


def skb_cow(skbs: SkbAlloc, skb: SkBuff, headroom: int) -> bool:
    """Have data of one's own and room in front before changing a header (``skb_cow()``)."""
    delta = max(headroom - skb_headroom(skb), 0)
    if not delta and not skb_cloned(skb):
        return True
    return not skbs.pskb_expand_head(skb, SKB_DATA_ALIGN(delta), 0, GFP_ATOMIC)
