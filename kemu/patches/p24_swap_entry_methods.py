"""mm: prepare swap entry methods for use in page methods."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=24,
    name="swap_entry_methods",
    subject="mm: prepare swap entry methods for use in page methods",
    part=4,
    message_id="20071030160914.849009000@chello.nl",
    needs=(),
    wants=(),
)
