"""netvm: filter emergency skbs.."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=20,
    name="sk_filter_emergency",
    subject="netvm: filter emergency skbs.",
    part=3,
    message_id="20071030160914.329519000@chello.nl",
    needs=(),
    wants=("netvm_reserve", "skb_alloc_reserve"),
)
