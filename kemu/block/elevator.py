"""Which request goes next: the deadline elevator (2.6.23 block/deadline-iosched.c, block/elevator.c).

Interface
    * :class:`Request`: bios whose sectors are one run. :class:`Deadline`: ``find_back``, ``find_front``, ``add``, ``dispatch()``.

Rules of this file
    * Requests are sorted by sector, reads and writes apart. The head goes upwards in batches of 16; reads go first, but not more
      than twice while writes wait; a request that has waited too long begins the next batch.
    * The distribution's default was CFQ, which shares a disk among processes. Reclaim is one client, so nothing here would differ
      but the amount of code: deadline is what people used under swap and databases then.
    * Left out: barriers, changing the elevator at run time, merging of two requests that a third one has made neighbours.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Final

from kemu.kernel.timer import NSEC_PER_SEC
from kemu.mm.backing_dev import READ, WRITE

if TYPE_CHECKING:
    from kemu.block.bio import Bio

READ_EXPIRE_NS: Final = NSEC_PER_SEC // 2
WRITE_EXPIRE_NS: Final = 5 * NSEC_PER_SEC
WRITES_STARVED: Final = 2
FIFO_BATCH: Final = 16


class Request:
    """``struct request``: neighbouring bios of one direction.

    :ivar address: its slab object.
    :ivar segments: pages of all bios (``nr_phys_segments``: kemu's pages never touch each other).
    :ivar expires: when it may no longer be passed over, in ns.
    """

    __slots__ = ("address", "bios", "expires", "nr_sectors", "number", "rw", "sector", "segments")

    def __init__(self, address: int, rw: int) -> None:
        self.address = address
        self.rw = rw
        self.sector = 0
        self.nr_sectors = 0
        self.segments = 0
        self.bios: list[Bio] = []
        self.expires = 0
        self.number = 0

    def __repr__(self) -> str:
        """Show what an oops would print."""
        return f"<Request {'WRITE' if self.rw else 'READ'} {self.sector}+{self.nr_sectors} bios={len(self.bios)}>"


class Deadline:
    """``struct deadline_data``: the requests of one queue that the disk has not taken yet."""

    def __init__(self) -> None:
        # per direction: (sector, number) of all, ascending; and number -> request, in the order of arrival
        self._sorted: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        self._fifo: tuple[dict[int, Request], dict[int, Request]] = ({}, {})
        self._ends: tuple[dict[int, Request], dict[int, Request]] = ({}, {})  # the sector behind the last one -> request
        self._begins: tuple[dict[int, Request], dict[int, Request]] = ({}, {})
        self._next: Request | None = None  # the one above the last dispatched
        self._last_sector = 0
        self._batching = 0
        self._starved = 0
        self._count = 0

    def __len__(self) -> int:
        """Count the requests that wait."""
        return len(self._fifo[READ]) + len(self._fifo[WRITE])

    def find_back(self, rw: int, sector: int) -> Request | None:
        """Return the request that ends where an I/O begins."""
        return self._ends[rw].get(sector)

    def find_front(self, rw: int, end: int) -> Request | None:
        """Return the request that begins where an I/O ends."""
        return self._begins[rw].get(end)

    def add(self, rq: Request, now: int) -> None:
        """Take a request in (deadline_add_request())."""
        self._count += 1
        rq.number = self._count
        rq.expires = now + (WRITE_EXPIRE_NS if rq.rw == WRITE else READ_EXPIRE_NS)
        self._fifo[rq.rw][rq.number] = rq
        self._index(rq)

    def append(self, rq: Request, bio: Bio) -> None:
        """Add a bio behind a request that waits."""
        ends, end = self._ends[rq.rw], rq.sector + rq.nr_sectors
        if ends.get(end) is rq:
            del ends[end]
        rq.bios.append(bio)
        rq.nr_sectors += bio.sectors
        rq.segments += len(bio.bi_io_vec)
        ends[rq.sector + rq.nr_sectors] = rq

    def prepend(self, rq: Request, bio: Bio) -> None:
        """Add a bio before a request that waits."""
        self._unindex(rq)
        rq.bios.insert(0, bio)
        rq.sector = bio.bi_sector
        rq.nr_sectors += bio.sectors
        rq.segments += len(bio.bi_io_vec)
        self._index(rq)

    def dispatch(self, now: int) -> Request | None:
        """Take out the request that the disk does next (deadline_dispatch_requests())."""
        rq = self._next
        if rq is not None:
            if rq.sector != self._last_sector:
                self._batching += FIFO_BATCH
            if self._batching < FIFO_BATCH:
                return self._move(rq)
        reads, writes = self._fifo
        if reads and not (writes and self._starving()):
            return self._move(self._find(READ, now))
        if writes:
            self._starved = 0
            return self._move(self._find(WRITE, now))
        return None

    def _starving(self) -> bool:
        """Tell whether writes have waited for two batches of reads."""
        self._starved += 1
        return self._starved > WRITES_STARVED

    def _find(self, rw: int, now: int) -> Request:
        """Choose the first request of a batch."""
        oldest = next(iter(self._fifo[rw].values()))
        following = self._next
        if oldest.expires <= now:
            rq = oldest
        elif following is not None and following.rw == rw:
            return following
        else:
            rq = self._fifo[rw][self._sorted[rw][0][1]]
        self._batching = 0
        return rq

    def _move(self, rq: Request) -> Request:
        """Take a request out, and remember the one above it (deadline_move_request())."""
        keys = self._sorted[rq.rw]
        above = bisect_right(keys, (rq.sector, rq.number))
        self._next = self._fifo[rq.rw][keys[above][1]] if above < len(keys) else None
        self._batching += 1
        self._last_sector = rq.sector + rq.nr_sectors
        self._unindex(rq)
        del self._fifo[rq.rw][rq.number]
        return rq

    def _index(self, rq: Request) -> None:
        insort(self._sorted[rq.rw], (rq.sector, rq.number))
        self._begins[rq.rw][rq.sector] = rq
        self._ends[rq.rw][rq.sector + rq.nr_sectors] = rq

    def _unindex(self, rq: Request) -> None:
        keys = self._sorted[rq.rw]
        del keys[bisect_left(keys, (rq.sector, rq.number))]
        for index, sector in ((self._begins, rq.sector), (self._ends, rq.sector + rq.nr_sectors)):
            if index[rq.rw].get(sector) is rq:
                del index[rq.rw][sector]

    def requests(self) -> list[Request]:
        """Return what waits, in the order of arrival, for check() and reports."""
        return [rq for fifo in self._fifo for rq in fifo.values()]
