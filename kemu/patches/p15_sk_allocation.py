"""net: sk_allocation() - concentrate socket related allocations."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=15,
    name="sk_allocation",
    subject="net: sk_allocation() - concentrate socket related allocations",
    part=2,
    message_id="20071030160913.688222000@chello.nl",
    needs=(),
    wants=("netvm_reserve",),
)
