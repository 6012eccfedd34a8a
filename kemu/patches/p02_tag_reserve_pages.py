"""mm: tag reseve pages."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=2,
    name="tag_reserve_pages",
    subject="mm: tag reseve pages",
    part=1,
    message_id=None,
    needs=(),
    wants=("emergency_pool",),
)
