"""netvm: INET reserves.."""

from __future__ import annotations

from kemu.patches.card import Patch

PATCH = Patch(
    number=18,
    name="inet_reserves",
    subject="netvm: INET reserves.",
    part=3,
    message_id="20071030160914.070739000@chello.nl",
    needs=(),
    wants=("mem_reserve", "netvm_reserve", "sysctl_conv_errors"),
)
