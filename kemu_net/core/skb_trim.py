"""Cutting packets whose data lie partly in pages (2.6.23 net/core/skbuff.c: __pskb_pull_tail(), ___pskb_trim()).

Interface
    pskb_pull(skbs, skb, count)    step over bytes at the front; False when there are not so many
    pskb_trim(skbs, skb, length)   cut the end off; False without memory

Rules
    * Pages that nothing is left of are put back. The list of pages is common to all clones: a packet that has clones gets its own
      data area first.
    * Left out: packets with a fragment list (False).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import skb_bytes

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


def _pull_tail(skbs: SkbAlloc, skb: SkBuff, delta: int) -> bool:
    """Move the first ``delta`` bytes of the pages to the linear part (``__pskb_pull_tail()``)."""
    if skb.frag_list is not None or skbs.skb_unclone(skb, GFP_ATOMIC):
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
