"""mm: add support for non block device backed swap files."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=25,
    name="swap_file_aops",
    subject="mm: add support for non block device backed swap files",
    part=4,
    message_id="20071030160914.987987000@chello.nl",
    needs=(),
    wants=("swap_entry_methods",),
)
