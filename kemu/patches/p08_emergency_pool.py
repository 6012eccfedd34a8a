"""mm: emergency pool."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=8,
    name="emergency_pool",
    subject="mm: emergency pool",
    part=1,
    message_id=None,
    needs=(),
    wants=("serialize_min_free", "mem_reserve"),
)
