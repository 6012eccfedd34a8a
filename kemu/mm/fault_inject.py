"""Allocations that fail because a test says so (2.6.23 lib/fault-inject.c, mm/page_alloc.c: fail_page_alloc).

Interface: ``page_alloc.fail_page_alloc = FailPageAlloc(kernel, probability=10, times=3)``.

Rules of this file
    * Dice come from the machine's own seed: the same run fails at the same places.
    * As in the kernel, by default only requests that cannot wait, have no highmem and are of order 1 and more can fail; the
      scenario of patch 17 wants ``ignore_gfp_wait=False, min_order=0``.
    * A failed request returns NULL at once: no reclaim, no warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.mm.gfp import _GFP_HIGHMEM, _GFP_NOFAIL, _GFP_WAIT, gfp_t

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel


class FailPageAlloc:
    """``struct fault_attr`` and the three filters of fail_page_alloc.

    :param probability: in percent.
    :param interval: of the calls that pass the filters, only every n-th may fail.
    :param times: how often at most; -1 for no limit.
    :param space: pages that are allocated before the first failure.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        probability: int = 100,
        interval: int = 1,
        times: int = -1,
        space: int = 0,
        ignore_gfp_highmem: bool = True,
        ignore_gfp_wait: bool = True,
        min_order: int = 1,
    ) -> None:
        self._rng = kernel.rng
        self.probability = probability
        self.interval = interval
        self.times = times
        self.space = space
        self.ignore_gfp_highmem = ignore_gfp_highmem
        self.ignore_gfp_wait = ignore_gfp_wait
        self.min_order = min_order
        self.failed = 0
        self._count = 0

    def should_fail(self, gfp: gfp_t, order: int) -> bool:
        """Tell whether this request fails (should_fail_alloc_page)."""
        if order < self.min_order or gfp & _GFP_NOFAIL:
            return False
        if self.ignore_gfp_highmem and gfp & _GFP_HIGHMEM:
            return False
        if self.ignore_gfp_wait and gfp & _GFP_WAIT:
            return False
        return self._should_fail(1 << order)

    def _should_fail(self, size: int) -> bool:
        """Throw the dice (lib/fault-inject.c: should_fail)."""
        if self.times == 0:
            return False
        if self.space > size:
            self.space -= size
            return False
        if self.interval > 1:
            self._count += 1
            if self._count % self.interval:
                return False
        if self.probability <= self._rng.randrange(100):
            return False
        self.failed += 1
        if self.times > 0:
            self.times -= 1
        return True
