"""How long the per-CPU lists of hot pages may grow: vm.percpu_pagelist_fraction (2.6.23 mm/page_alloc.c).

Interface: :class:`PercpuPagelist`; it makes the sysctl.

Rules of this file
    * 0, as at boot: lengths follow from zone_batchsize(). A number that is written sets ``high`` of every hot list to that part of
      its zone; less than 8 is refused, and there is no way back to 0.
    * A list that is too long now shrinks when the next page is freed to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.kernel.sysctl import minmax_conv
from kemu.mm.gfp import PAGE_SHIFT

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.mmzone import Zone

_MIN_FRACTION: Final = 8
_MAX_BATCH: Final = PAGE_SHIFT * 8


class PercpuPagelist:
    """The sysctl's value, and what it does."""

    def __init__(self, kernel: Kernel, zones: list[Zone]) -> None:
        self.zones = zones
        self.fraction = 0
        kernel.sysctl.register(
            "vm.percpu_pagelist_fraction",
            lambda: self.fraction,
            self._set_fraction,
            conv=minmax_conv(_MIN_FRACTION, None),
            handler=self._setup_highmarks,
        )

    def _set_fraction(self, value: int) -> None:
        self.fraction = value

    def _setup_highmarks(self) -> None:
        """Size the hot lists of all zones (percpu_pagelist_fraction_sysctl_handler, setup_pagelist_highmark)."""
        if not self.fraction:
            return  # an empty write: the kernel divides by zero here
        for zone in self.zones:
            high = zone.present_pages // self.fraction
            for pcp in zone.hot:
                pcp.high = high
                pcp.batch = min(max(1, high // 4), _MAX_BATCH)
