"""mm: allow mempool to fall back to memalloc reserves."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=4,
    name="mempool_fallback",
    subject="mm: allow mempool to fall back to memalloc reserves",
    part=1,
    message_id="20071030160911.031845000@chello.nl",
    needs=(),
    wants=("gfp_to_alloc_flags", "emergency_pool"),
)
