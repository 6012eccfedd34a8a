"""nfs: remove mempools."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=27,
    name="nfs_no_mempools",
    subject="nfs: remove mempools",
    part=5,
    message_id="20071030160915.242314000@chello.nl",
    needs=(),
    wants=("mempool_fallback", "emergency_pool"),
)
