"""Cutting packets whose data lie partly in pages (2.6.23 net/core/skbuff.c: __pskb_pull_tail(), ___pskb_trim()).

Interface
    pskb_may_pull(skbs, skb, count)    have so many bytes in the linear part; False when there are not so many, or no memory
    pskb_pull(skbs, skb, count)    step over bytes at the front; False when there are not so many
    pskb_trim(skbs, skb, length)   cut the end off; False without memory
    skb_linearize(skbs, skb)       copy everything into one data area; False without memory

Rules
    * Pages that nothing is left of are put back. The list of pages is common to all clones: a packet that has clones gets its own
      data area first.
    * What is fetched must have room in the data area: else there is a new one, 128 bytes larger than needed, charged as
      pskb_expand_head() charges (patch 19).
    * A packet with a fragment list is made linear before anything is fetched. Who trims it clones those of its packets that others
      hold, too: what they see stays whole.
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
    if not skb.data_len:
        return True
    data = skb.buf[: skb.data] + skb_bytes(skb)
    if skbs.pskb_expand_head(skb, 0, max(max(skb.reserved, 0) + len(data) - skb.end, 0), GFP_ATOMIC):
        return False
    child, skb.frag_list = skb.frag_list, None
    _drop_list(skbs, child)
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
    headlen = skb.len - skb.data_len
    end = skb.data + headlen
    eat = max(skb.reserved, 0) + end + delta - skb.end
    if skbs.pskb_expand_head(skb, 0, eat + 128, GFP_ATOMIC) if eat > 0 else skbs.skb_unclone(skb, GFP_ATOMIC):
        return False
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
    if skbs.skb_unclone(skb, GFP_ATOMIC):
        return False
    headlen = skb.len - skb.data_len
    in_pages = sum(size for _page, _offset, size in skb.frags or ())
    if length > headlen + in_pages:
        if not _trim_list(skbs, skb, length - headlen - in_pages):
            return False
    else:
        _trim_pages(skbs, skb, max(length - headlen, 0))
        child, skb.frag_list = skb.frag_list, None
        _drop_list(skbs, child)
    skb.data_len = max(length - headlen, 0)
    skb.len = length
    return True


def _trim_pages(skbs: SkbAlloc, skb: SkBuff, left: int) -> None:
    """Keep ``left`` bytes of the pages, and put back those that nothing is left of."""
    kept = []
    for page, offset, size in skb.frags or ():
        keep = min(size, left)
        left -= keep
        if keep:
            kept.append((page, offset, keep))
        else:
            skbs.skb_put_page(skb, page)
    skb.frags = kept or None


def _trim_list(skbs: SkbAlloc, skb: SkBuff, left: int) -> bool:
    """Keep ``left`` bytes, more than none, of the fragment list; False without memory, and nothing is lost then."""
    before: SkBuff | None = None
    child = skb.frag_list
    while child is not None:
        if child.users > 1:
            clone = skbs.skb_clone(child, GFP_ATOMIC)
            if clone is None:
                return False
            clone.next = child.next
            skbs.kfree_skb(child)
            child = clone
            if before is None:
                skb.frag_list = clone
            else:
                before.next = clone
        if left <= child.len:
            if not pskb_trim(skbs, child, left):
                return False
            following, child.next = child.next, None
            _drop_list(skbs, following)
            return True
        left -= child.len
        before, child = child, child.next
    return True


def _drop_list(skbs: SkbAlloc, child: SkBuff | None) -> None:
    """Drop the references to a chain of packets (``skb_drop_list()``)."""
    while child is not None:
        following = child.next
        skbs.kfree_skb(child)
        child = following
