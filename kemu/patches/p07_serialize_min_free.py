"""mm: serialize access to min_free_kbytes."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=7,
    name="serialize_min_free",
    subject="mm: serialize access to min_free_kbytes",
    part=1,
    message_id=None,
    needs=(),
    wants=("emergency_pool",),
)
