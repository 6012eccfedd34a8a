"""netvm: network reserve infrastructure."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=16,
    name="netvm_reserve",
    subject="netvm: network reserve infrastructure",
    part=3,
    message_id="20071030160913.811204000@chello.nl",
    needs=(),
    wants=("gfp_memalloc", "mem_reserve", "sk_allocation"),
)
