"""Test helper: what the page allocator must answer, told from a set of frames. Written apart from it: no lists, no zones.

One node with one zone, as machines of up to 16 MiB have: every request sees the same memory. Interface: :class:`PageModel`.
"""

from __future__ import annotations

import attrs

from kemu.fixes import FixSet
from kemu.mm import gfp as g
from kemu.patches import PatchSet

ORDERS = range(11)
_EVEN = int("01" * 2048, 2)
LOW, MIN, RESERVE = "low", "min", "reserve"  # by which mark a request was served


@attrs.define
class Caller:
    """Who asks: his context and his task's state."""

    memalloc: bool = False
    context: str = "task"  # "softirq", "irq"
    rt: bool = False


def free_blocks(frames: int) -> list[int]:
    """Count the blocks per order when the frames in a bitmap are free and no two free buddies stand side by side."""
    counts = []
    for _ in ORDERS[:-1]:
        # bit n of `frames` is block n of this order; a pair is two blocks of which the first is even
        pairs = frames & frames >> 1 & _EVEN
        counts.append((frames & ~(pairs | pairs << 1)).bit_count())
        frames = sum((pairs >> bit & 1) << bit // 2 for bit in range(0, pairs.bit_length(), 2))
    return [*counts, frames.bit_count()]


class PageModel:
    """Frames, and the marks below which they are not given.

    :param pages: frames of the machine.
    :ivar kbytes: vm.min_free_kbytes. ``pool``: pages of the emergency pool.
    """

    def __init__(self, pages: int, patched: PatchSet, fixed: FixSet, kbytes: int) -> None:
        self.pages = pages
        self.patched = patched
        self.fixed = fixed
        self.kbytes = kbytes
        self.pool = 0

    @property
    def floor(self) -> int:
        """Pages that no discount erodes."""
        return self.pool if self.patched.emergency_pool else 0

    @property
    def pages_min(self) -> int:
        return self.kbytes // 4

    def entitled(self, gfp: int, caller: Caller) -> bool:
        """Tell who may have the last page (patches.md, 10: the precedence table)."""
        if gfp & g._GFP_NOMEMALLOC:
            return False
        if self.patched.gfp_memalloc and gfp & g._GFP_MEMALLOC:
            return True
        allowed = {"task": True, "softirq": self.patched.softirq_memalloc, "irq": False}
        return caller.memalloc and allowed[caller.context]

    def ok(self, blocks: list[int], order: int, mark: float) -> bool:
        """Tell whether a block may go at a mark: for each order below, smaller blocks do not count and the mark halves."""
        free = sum(n << k for k, n in enumerate(blocks)) - (1 << order) + 1
        if free <= mark + self.floor:
            return False
        for smaller in range(order):
            free -= blocks[smaller] << smaller
            mark = mark // 2
            if free <= mark:
                return False
        return True

    def served(self, blocks: list[int], order: int, gfp: int, caller: Caller, *, listed: int = 0) -> str | None:
        """Tell by which mark a request is served, None if it is not.

        :param blocks: free blocks per order. ``listed``: single pages that wait on the caller's per-CPU list.
        """
        minimum = self.pages_min
        if self.ok(blocks, order, minimum + minimum // 4):
            return LOW
        if gfp & g.GFP_THISNODE == g.GFP_THISNODE:
            return None
        if gfp & g._GFP_HIGH:
            minimum -= minimum // 2
        if not gfp & g._GFP_WAIT or (caller.rt and caller.context == "task"):
            minimum -= minimum // 4
        if self.ok(blocks, order, minimum):
            return MIN
        if self.entitled(gfp, caller) and (any(blocks[order:]) or (listed and not order)):
            return RESERVE
        return None
