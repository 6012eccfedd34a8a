"""Cutting a packet into segments (2.6.23 net/core/skbuff.c: skb_segment()), what a driver without TSO would need.

Interface: skb_segment(skbs, skb, header, size) -> the segments, or None without memory.

Rules
    * Each segment has the first ``header`` bytes of the packet, then up to ``size`` bytes of its payload. Headers are copied as
      they are: lengths, sequence numbers and checksums are the protocol's business.
    * Payload in pages is shared, not copied; payload in the linear part or in a fragment list is copied.
    * Segments of an emergency packet are allocated as receive buffers are: normal memory first, then charged (patch 19).
    * Without memory for one segment there is none: those made before are freed. The packet stays the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.errors import KernelBug
from kemu.mm.gfp import GFP_ATOMIC
from kemu_net.core.skbuff import SkBuff, skb_bytes, skb_put_bytes

if TYPE_CHECKING:
    from kemu.mm.page import Page
    from kemu_net.core.skb_alloc import SkbAlloc


def skb_segment(skbs: SkbAlloc, skb: SkBuff, header: int, size: int) -> list[SkBuff] | None:
    """Cut ``skb`` (``skb_segment()``)."""
    headlen = skb.len - skb.data_len
    if header > headlen or size < 1:
        raise KernelBug(f"skb_segment: a header of {header} bytes, {size} bytes a segment", state=skb)
    linear_from = header
    data = skb_bytes(skb)
    share = skb.frag_list is None
    segments: list[SkBuff] = []
    while linear_from < skb.len:
        until = min(linear_from + size, skb.len)
        copied = min(until, headlen) if share else until
        piece = skbs.alloc_copy(skb, header + max(copied - linear_from, 0), GFP_ATOMIC)
        if piece is None:
            for made in segments:
                skbs.kfree_skb(made)
            return None
        _fill(skb, piece, data[:header] + data[linear_from:copied])
        if share and until > max(linear_from, headlen):
            _share_pages(skbs, skb, piece, max(linear_from, headlen) - headlen, until - headlen)
        segments.append(piece)
        linear_from = until
    return segments


def _fill(skb: SkBuff, piece: SkBuff, linear: bytes) -> None:
    """Give a segment its own bytes, at the start of its area."""
    back = skb.data
    piece.data = 0
    piece.reserved = -1
    piece.mac, piece.nh, piece.h = skb.mac - back, skb.nh - back, skb.h - back
    skb_put_bytes(piece, linear)


def _share_pages(skbs: SkbAlloc, skb: SkBuff, piece: SkBuff, start: int, end: int) -> None:
    """Make the bytes from ``start`` to ``end`` of the packet's pages a segment's, with a reference to each page."""
    frags: list[tuple[Page, int, int]] = []
    at = 0
    for page, offset, length in skb.frags or ():
        first, last = max(start, at), min(end, at + length)
        if first < last:
            skbs.skb_get_page(piece, page)
            frags.append((page, offset + first - at, last - first))
        at += length
    piece.frags = frags
    shared = sum(length for _page, _offset, length in frags)
    piece.len += shared
    piece.data_len += shared
    piece.truesize += shared
