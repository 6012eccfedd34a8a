"""nfs: swap vs nfs_writepage."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=30,
    name="nfs_swap_writepage",
    subject="nfs: swap vs nfs_writepage",
    part=5,
    message_id="20071030160915.636328000@chello.nl",
    needs=("swap_file_aops",),
    wants=("nfs_swapcache", "nfs_no_revalidate"),
)
