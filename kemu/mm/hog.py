"""An atomic hog: a leaky driver that takes what GFP_ATOMIC can get, in every size.

It takes free memory down to the emergency pool and 3/8 of pages_min, and empties all partial slabs of the kmalloc caches. Without
it ACKs, ARP entries and routes come from slab slack, and no shortage shows. No kernel function: a tool of scenarios and tests.

Interface: :meth:`AtomicHog.hog`, :meth:`AtomicHog.release`, :attr:`AtomicHog.held`.

Rules of this file
    * Largest classes first: what is left of large blocks is eaten by the small ones.
    * Pages are not asked for directly: what a slab page is split into stays with the hog, whoever frees beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.mm.gfp import _GFP_NOWARN, GFP_ATOMIC, gfp_t
from kemu.mm.slub_geometry import KMALLOC_SIZES

if TYPE_CHECKING:
    from kemu.mm.slub import Slub

_SIZES: Final = tuple(sorted(filter(None, KMALLOC_SIZES), reverse=True))


class AtomicHog:
    """The driver.

    :param gfp: with what it asks; GFP_ATOMIC without a warning.
    :ivar held: addresses of its objects, in the order of allocation.
    """

    def __init__(self, slub: Slub, gfp: gfp_t = GFP_ATOMIC | _GFP_NOWARN) -> None:
        self._slub = slub
        self._gfp = gfp
        self.held: list[int] = []

    def hog(self, limit: int | None = None) -> int:
        """Allocate every size class until NULL, or so many objects in all; return how many there were."""
        before = len(self.held)
        kmalloc, gfp, held = self._slub.kmalloc, self._gfp, self.held
        for size in _SIZES:
            while limit is None or len(held) - before < limit:
                address = kmalloc(size, gfp)
                if address is None:
                    break
                held.append(address)
        return len(held) - before

    def release(self, count: int | None = None) -> int:
        """Free what is held, the newest first, or so many objects; return how many there were."""
        count = len(self.held) if count is None else min(count, len(self.held))
        for _ in range(count):
            self._slub.kfree(self.held.pop())
        return count
