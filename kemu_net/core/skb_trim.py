"""Cutting packets whose data lie partly in pages (2.6.23 net/core/skbuff.c: __pskb_pull_tail(), ___pskb_trim()).

Interface
    pskb_may_pull(skbs, skb, count)    have so many bytes in the linear part; False when there are not so many, or no memory
    pskb_pull(skbs, skb, count)    step over bytes at the front; False when there are not so many
    pskb_trim(skbs, skb, length)   cut the end off; False without memory

Rules
    * Pages that nothing is left of are put back. The list of pages is common to all clones: a packet that has clones gets its own
      data area first.
    * A packet with a fragment list is made linear before anything is fetched from behind its first fragment; it is not trimmed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import CHECKSUM_COMPLETE, CHECKSUM_NONE, skb_bytes

if TYPE_CHECKING:
    from kemu_net.core.skb_alloc import SkbAlloc
    from kemu_net.core.skbuff import SkBuff


def pskb_pull(skbs: SkbAlloc, skb: SkBuff, count: int) -> bool:
    """Step over ``count`` bytes, fetching them from the pages if need be (``pskb_pull()``)."""
    headlen = skb.len - skb.data_len
    if count > skb.len:
        return False
    if count > headlen and not _pull_tail(skbs, skb, count - headlen):
        return False
    skb.data += count
    skb.len -= count
    return True


def pskb_may_pull(skbs: SkbAlloc, skb: SkBuff, count: int) -> bool:
    """Have ``count`` bytes in the linear part (``pskb_may_pull()``)."""
    headlen = skb.len - skb.data_len
    return count <= headlen or (count <= skb.len and _pull_tail(skbs, skb, count - headlen))


def skb_linearize(skbs: SkbAlloc, skb: SkBuff) -> bool:
    """Copy everything into one data area (``skb_linearize()``); False without memory."""
    data = skb.buf[: skb.data] + skb_bytes(skb)
    if skbs.pskb_expand_head(skb, 0, max(len(data) - skb.end, 0), GFP_ATOMIC):
        return False
    child, skb.frag_list = skb.frag_list, None
    while child is not None:
        following = child.next
        skbs.kfree_skb(child)
        child = following
    for page, _offset, _size in skb.frags or ():
        skbs.skb_put_page(skb, page)
    skb.frags = None
    skb.buf = data
    skb.data_len = 0
    return True


def _pull_tail(skbs: SkbAlloc, skb: SkBuff, delta: int) -> bool:
    """Move the first ``delta`` bytes of the pages to the linear part (``__pskb_pull_tail()``)."""
    if skb.frag_list is not None:
        return skb_linearize(skbs, skb)
    if skbs.skb_unclone(skb, GFP_ATOMIC):
        return False
    headlen = skb.len - skb.data_len
    end = skb.data + headlen
    skb.buf = skb.buf[:end] + skb_bytes(skb, headlen)[:delta]
    skb.data_len -= delta
    kept = []
    for page, offset, size in skb.frags or ():
        gone = min(size, delta)
        delta -= gone
        if gone == size:
            skbs.skb_put_page(skb, page)
        else:
            kept.append((page, offset + gone, size - gone))
    skb.frags = kept or None
    return True


def pskb_trim(skbs: SkbAlloc, skb: SkBuff, length: int) -> bool:
    """Cut a packet to ``length`` bytes (``pskb_trim()``)."""
    if length >= skb.len:
        return True
    if skb.ip_summed == CHECKSUM_COMPLETE:  # the sum is that of the whole
        skb.ip_summed = CHECKSUM_NONE
    if not skb.data_len:
        skb.len = length
        return True
    if skb.frag_list is not None or skbs.skb_unclone(skb, GFP_ATOMIC):
        return False
    left = max(length - (skb.len - skb.data_len), 0)
    skb.data_len = left
    skb.len = length
    kept = []
    for page, offset, size in skb.frags or ():
        keep = min(size, left)
        left -= keep
        if keep:
            kept.append((page, offset, keep))
        else:
            skbs.skb_put_page(skb, page)
    skb.frags = kept or None
    return True
