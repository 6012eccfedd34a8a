"""nfs: disable data cache revalidation for swapfiles."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=29,
    name="nfs_no_revalidate",
    subject="nfs: disable data cache revalidation for swapfiles",
    part=5,
    message_id=None,
    needs=(),
    wants=("page_file_methods", "nfs_swapcache"),
)
