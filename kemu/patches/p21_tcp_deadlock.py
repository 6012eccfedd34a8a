"""netvm: prevent a TCP specific deadlock."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=21,
    name="tcp_deadlock",
    subject="netvm: prevent a TCP specific deadlock",
    part=3,
    message_id="20071030160914.457853000@chello.nl",
    needs=(),
    wants=("skb_alloc_reserve", "sk_filter_emergency"),
)
