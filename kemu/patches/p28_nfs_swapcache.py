"""nfs: teach the NFS client how to treat PG_swapcache pages."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=28,
    name="nfs_swapcache",
    subject="nfs: teach the NFS client how to treat PG_swapcache pages",
    part=5,
    message_id="20071030160915.377778000@chello.nl",
    needs=(),
    wants=("page_file_methods",),
)
