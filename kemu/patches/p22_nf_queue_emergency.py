"""netfilter: NF_QUEUE vs emergency skbs."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=22,
    name="nf_queue_emergency",
    subject="netfilter: NF_QUEUE vs emergency skbs",
    part=3,
    message_id="20071030160914.593270000@chello.nl",
    needs=(),
    wants=("skb_alloc_reserve",),
    built=False,
)
