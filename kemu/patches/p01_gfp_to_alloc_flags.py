"""mm: gfp_to_alloc_flags()."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=1,
    name="gfp_to_alloc_flags",
    subject="mm: gfp_to_alloc_flags()",
    part=1,
    message_id="20071030160910.248346000@chello.nl",
    needs=(),
    wants=(),
)
