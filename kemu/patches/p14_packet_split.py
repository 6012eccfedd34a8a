"""net: packet split receive api."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=14,
    name="packet_split",
    subject="net: packet split receive api",
    part=2,
    message_id="20071030160913.541974000@chello.nl",
    needs=(),
    wants=("skb_alloc_reserve",),
)
