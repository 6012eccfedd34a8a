"""netvm: hook skb allocation to reserves."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=19,
    name="skb_alloc_reserve",
    subject="netvm: hook skb allocation to reserves",
    part=3,
    message_id=None,
    needs=(),
    wants=("tag_reserve_pages", "slub_reserve", "gfp_memalloc", "packet_split", "netvm_reserve", "inet_reserves"),
)
