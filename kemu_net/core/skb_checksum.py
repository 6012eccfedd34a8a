"""Checksums of packets that the hardware did not vouch for (2.6.23 net/core/skbuff.c: skb_checksum(), net/core/datagram.c).

Interface
    skb_checksum(skb, offset=0)         the sum of the packet's 16-bit words from ``offset`` on, fragments included, modulo 65535
    skb_checksum_complete(skb, proto)   whether a TCP or UDP segment is right; then it is CHECKSUM_UNNECESSARY

Rules
    * CHECKSUM_COMPLETE: the card has summed the frame from its network header on, in ``skb.csum``. A right IPv4 header sums up to
      nothing, so that this is the segment's sum. Who cuts such a packet makes it CHECKSUM_NONE. A card that is wrong is not
      believed: the packet is summed once more before it is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu_net.core.skbuff import CHECKSUM_COMPLETE, CHECKSUM_UNNECESSARY, skb_bytes

if TYPE_CHECKING:
    from kemu_net.core.skbuff import SkBuff


def skb_checksum(skb: SkBuff, offset: int = 0) -> int:
    """Sum a packet up (``skb_checksum()``); an odd last byte counts as a high byte."""
    data = skb_bytes(skb, offset)
    return (int.from_bytes(data, "big") << (8 * (len(data) & 1))) % 65535


def skb_checksum_complete(skb: SkBuff, proto: int) -> bool:
    """Tell whether the segment at ``skb.data`` and its pseudo header cancel (``skb_checksum_complete()``)."""
    pseudo = skb.saddr + skb.daddr + proto + skb.len
    if not (skb.ip_summed == CHECKSUM_COMPLETE and not (skb.csum + pseudo) % 65535) and (skb_checksum(skb) + pseudo) % 65535:
        return False
    skb.ip_summed = CHECKSUM_UNNECESSARY
    return True
