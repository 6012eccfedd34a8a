"""Test helper: mm_ground's machine with slabs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.geometry import Geometry
from kemu.mm.gfp import GFP_ATOMIC
from kemu.mm.slub import Slub
from mm_ground import MIB, Ground, ground


class SlabGround:
    """A machine, its page allocator, its slabs; ``floor()`` and ``relief()`` change the weather."""

    def __init__(self, ground_: Ground, slub_debug: str = "", *, geometry: Geometry | None = None, merge: bool = False) -> None:
        self.ground = ground_
        self.kernel = ground_.kernel
        self.pa = ground_.pa
        self.slub = Slub(self.kernel, self.pa, slub_debug=slub_debug, geometry=geometry, merge=merge)
        self.task = ground_.task

    def cpu(self, number: int) -> None:
        """Go on, on another CPU."""
        self.kernel.sched.cpu = self.kernel.cpus[number]

    def floor(self) -> None:
        """Take all pages that ordinary atomic requests can have."""
        self.ground.take()

    def relief(self) -> None:
        """Give all of them back."""
        self.ground.give_back()

    @contextmanager
    def memalloc(self) -> Iterator[None]:
        """Be entitled to the reserve."""
        self.task.flags |= PF_MEMALLOC
        yield
        self.task.flags &= ~PF_MEMALLOC

    def entitled_kmalloc(self, size: int, gfp: int = GFP_ATOMIC) -> int | None:
        with self.memalloc():
            return self.slub.kmalloc(size, gfp)

    def cache(self, size: int):
        return self.slub.caches[f"kmalloc-{size}"]


@contextmanager
def slab_ground(
    mem: int = 32 * MIB,
    patches: str = "all",
    fixes: str = "all",
    ncpus: int = 1,
    slub_debug: str = "",
    *,
    nodes: int = 1,
    geometry: Geometry | None = None,
    merge: bool = False,
) -> Iterator[SlabGround]:
    """Boot one, and end it."""
    with ground(mem, patches, fixes, ncpus, nodes=nodes) as ground_:
        yield SlabGround(ground_, slub_debug, geometry=geometry, merge=merge)
