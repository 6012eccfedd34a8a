"""sysctl: propagate conv errors."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=17,
    name="sysctl_conv_errors",
    subject="sysctl: propagate conv errors",
    part=3,
    message_id="20071030160913.946725000@chello.nl",
    needs=(),
    wants=("inet_reserves",),
)
