"""selinux: tag avc cache alloc as non-critical."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=12,
    name="avc_nomemalloc",
    subject="selinux: tag avc cache alloc as non-critical",
    part=1,
    message_id="20071030160913.027906000@chello.nl",
    needs=(),
    wants=("skb_processing",),
    built=False,
)
