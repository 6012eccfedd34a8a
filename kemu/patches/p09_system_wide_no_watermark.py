"""mm: system wide ALLOC_NO_WATERMARK."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=9,
    name="system_wide_no_watermark",
    subject="mm: system wide ALLOC_NO_WATERMARK",
    part=1,
    message_id="20071030160912.283002000@chello.nl",
    needs=(),
    wants=("emergency_pool",),
    built=False,
)
