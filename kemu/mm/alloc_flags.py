"""Who may take how much: from a request and its context to ALLOC_* flags. Patches 01, 06 (its half in mm/) and 10.

Interface
    * :class:`AllocFlags`, the part of the page allocator that answers without allocating: ``gfp_to_alloc_flags(gfp)``, and
      ``entitled(gfp)``, which SLUB (03) and mempools (04) ask.

Rules of this file
    * No side effects. The answer depends on gfp, current->flags, TIF_MEMDIE, preempt_count and whether the task is real-time.
    * __GFP_NOMEMALLOC beats everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu.kernel.task import PF_MEMALLOC, TIF_MEMDIE
from kemu.mm.gfp import (
    _GFP_HIGH,
    _GFP_MEMALLOC,
    _GFP_NOMEMALLOC,
    _GFP_WAIT,
    ALLOC_CPUSET,
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_NO_WATERMARKS,
    ALLOC_WMARK_MIN,
    alloc_flags_t,
    gfp_t,
)

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel


class AllocFlags:
    """The question "what is the deepest that this request could ever reach?"."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.patched = kernel.patched
        self.fixed = kernel.fixed

    def gfp_to_alloc_flags(self, gfp: gfp_t) -> alloc_flags_t:
        """Return all that a request may do; callers mask what they do not want (mm/page_alloc.c, patch 01)."""
        alloc_flags = self._mark_flags(gfp)
        if not gfp & _GFP_NOMEMALLOC and self._reserves_by_context(gfp):
            alloc_flags |= ALLOC_NO_WATERMARKS
        return alloc_flags

    def entitled(self, gfp: gfp_t) -> bool:
        """Tell whether a request made now could ignore the watermarks: SLUB and mempools ask before they hand out reserves."""
        if self.patched.gfp_to_alloc_flags:  # [p01]
            return self.gfp_to_alloc_flags(gfp) & ALLOC_NO_WATERMARKS != 0
        return False  # the knowledge does not leave the page allocator

    def _mark_flags(self, gfp: gfp_t) -> alloc_flags_t:
        """Return the discounts on pages_min that a request gets, entitled or not (step 4 of the base's __alloc_pages)."""
        alloc_flags = ALLOC_WMARK_MIN
        if gfp & _GFP_HIGH:
            alloc_flags |= ALLOC_HIGH
        if not gfp & _GFP_WAIT:
            return alloc_flags | ALLOC_HARDER  # and whatever the cpuset says
        if self.sched.current.rt and not self.sched.in_interrupt():
            alloc_flags |= ALLOC_HARDER
        return alloc_flags | ALLOC_CPUSET

    def _reserves_by_context(self, gfp: gfp_t) -> bool:
        """Tell whether request or context open the reserves. The precedence table of patch 10, below its first row."""
        if self.patched.gfp_memalloc and gfp & (_GFP_MEMALLOC | _GFP_NOMEMALLOC) == _GFP_MEMALLOC:  # [p10]
            return True  # in every context
        sched = self.sched
        task = sched.current
        if task.flags & PF_MEMALLOC:
            # a softirq borrows current; patch 06 clears the flag before handlers run, so that it means them when they set it
            shut_out = sched.in_irq() if self.patched.softirq_memalloc else sched.in_interrupt()  # [p06]
            if not shut_out:
                return True
        return task.thread_flags & TIF_MEMDIE != 0 and not sched.in_interrupt()
