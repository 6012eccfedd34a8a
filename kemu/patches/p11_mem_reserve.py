"""mm: memory reserve management."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=11,
    name="mem_reserve",
    subject="mm: memory reserve management",
    part=1,
    message_id="20071030160912.873260000@chello.nl",
    needs=(),
    wants=("kmem_estimate_pages", "emergency_pool"),
)
