"""nfs: fix various memory recursions possible with swap over NFS.."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=32,
    name="nfs_noio",
    subject="nfs: fix various memory recursions possible with swap over NFS.",
    part=5,
    message_id="20071030160915.886143000@chello.nl",
    needs=(),
    wants=("nfs_no_mempools",),
)
