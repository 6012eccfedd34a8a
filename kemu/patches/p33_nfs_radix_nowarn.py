"""nfs: do not warn on radix tree node allocation failures."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=33,
    name="nfs_radix_nowarn",
    subject="nfs: do not warn on radix tree node allocation failures",
    part=5,
    message_id="20071030160916.021029000@chello.nl",
    needs=(),
    wants=("nfs_noio",),
)
