"""mm: methods for teaching filesystems about PG_swapcache pages."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=26,
    name="page_file_methods",
    subject="mm: methods for teaching filesystems about PG_swapcache pages",
    part=4,
    message_id="20071030160915.114257000@chello.nl",
    needs=(),
    wants=("swap_entry_methods",),
)
