"""mm: allow PF_MEMALLOC from softirq context."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=6,
    name="softirq_memalloc",
    subject="mm: allow PF_MEMALLOC from softirq context",
    part=1,
    message_id="20071030160911.540148000@chello.nl",
    needs=(),
    wants=("gfp_to_alloc_flags", "skb_processing"),
)
