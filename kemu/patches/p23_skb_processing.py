"""netvm: skb processing."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=23,
    name="skb_processing",
    subject="netvm: skb processing",
    part=3,
    message_id="20071030160914.749995000@chello.nl",
    needs=(),
    wants=("softirq_memalloc", "avc_nomemalloc", "sk_backlog_rcv", "skb_alloc_reserve", "sk_filter_emergency"),
)
