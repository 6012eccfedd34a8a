"""A disk's queue: requests from a pool, merging, plugging, congestion (2.6.23 block/ll_rw_blk.c).

Interface
    * :class:`RequestQueue`: ``make_request(bio)``, ``unplug()``, ``fetch()`` (the driver takes the next request),
      ``end_request(rq, errors)``; ``backing_dev_info``; ``destroy()``, ``check()``.

Rules of this file
    * At most ``nr_requests`` requests of each direction; who wants one more sleeps. From 113 of 128 on the backing device counts as
      congested, below 103 no more: then congestion_wait() ends early.
    * A request's memory is a slab object of a pool of four (BLKDEV_MIN_RQ), asked for with GFP_NOIO: reclaim ends up here.
    * A queue that was empty is plugged: requests wait for company until somebody waits for a page (sync_page), four requests wait,
      or 3 ms have passed, which are one jiffy at HZ 250; a bio with BIO_RW_SYNC starts it at once.
    * A bio joins a request that ends where it begins, or begins where it ends, as long as that has at most 1024 sectors in 128
      pieces and the disk has not taken it yet.
    * The queue's lock is left out: between two places where time passes nothing else runs.
    * Left out: io contexts and with them batching (who found the queue full could put in 32 more), barriers, tags, statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kemu.block.elevator import Deadline, Request
from kemu.errors import KernelBug
from kemu.kernel import costs
from kemu.kernel.timer import HZ, Timer
from kemu.kernel.wait import WaitQueue
from kemu.kernel.workqueue import Work
from kemu.mm.backing_dev import BIO_RW_SYNC, READ, WRITE, BackingDev
from kemu.mm.gfp import GFP_NOIO
from kemu.mm.mempool import Mempool, mempool_create_slab_pool

if TYPE_CHECKING:
    from kemu.block.bio import Bio, Bios

BLKDEV_MIN_RQ: Final = 4
BLKDEV_MAX_RQ: Final = 128
BLK_DEF_MAX_SECTORS: Final = 1024
MAX_PHYS_SEGMENTS: Final = 128
UNPLUG_THRESH: Final = 4
UNPLUG_DELAY: Final = max(3 * HZ // 1000, 1)  # jiffies


class RequestQueue:
    """``struct request_queue``.

    :param backing: the device as reclaim sees it; its name is the queue's.
    :param request_fn: the driver: takes what fetch() gives, as long as it can.
    :param nr_requests: the limit of each direction.
    :ivar count: requests that exist, per direction: waiting and with the disk.
    :ivar merged: bios that joined a request.
    """

    def __init__(
        self,
        bios: Bios,
        backing: BackingDev,
        request_fn: Callable[[], None],
        nr_requests: int = BLKDEV_MAX_RQ,
    ) -> None:
        self.bios = bios
        self.sched = bios.sched
        self.kernel = bios.kernel
        self.name = name = backing.name
        self.request_fn = request_fn
        self.nr_requests = nr_requests
        self.nr_congestion_on = min(nr_requests - nr_requests // 8 + 1, nr_requests)
        self.nr_congestion_off = max(nr_requests - nr_requests // 8 - nr_requests // 16 - 1, 1)
        self.backing_dev_info = backing
        self.elevator = Deadline()
        self.count = [0, 0]
        self.merged = 0
        self.plugged = False
        self.in_flight: list[Request] = []
        self._wait = (WaitQueue(f"{name} requests[READ]"), WaitQueue(f"{name} requests[WRITE]"))
        self._drained = WaitQueue(f"{name} drained")
        self._unplug_timer = Timer(f"unplug {name}", self._unplug_timeout)
        self._unplug_work = Work(f"unplug {name}", self._unplug_from_timer)
        pool = mempool_create_slab_pool(bios.kernel, BLKDEV_MIN_RQ, bios.slub, bios.request_slab)
        if pool is None:
            raise KernelBug(f"{name}: no memory for the requests of a new disk")
        self.rq_pool: Mempool[int] = pool
        bios.kernel.judge.explainers.setdefault("request", _explain)

    def destroy(self) -> None:
        """Wait for what is under way, and give the pool back (blk_cleanup_queue())."""
        self.unplug()
        self.sched.wait_event(self._drained, lambda: not any(self.count), ("request", self))
        self.kernel.timers.del_timer(self._unplug_timer)
        self.bios.kblockd.cancel_sync(self._unplug_work)
        self.rq_pool.destroy()

    # -- from above --------------------------------------------------------------------------------------------------------------

    def make_request(self, bio: Bio) -> None:
        """Let a bio join a request or get one of its own, which may take a while (__make_request())."""
        rw = bio.bi_rw & WRITE
        if not self._merge(rw, bio):
            rq = self._get_request_wait(rw)
            rq.sector = bio.bi_sector
            rq.nr_sectors = bio.sectors
            rq.segments = len(bio.bi_io_vec)
            rq.bios.append(bio)
            if not len(self.elevator):
                self._plug()
            self.elevator.add(rq, self.sched.now)
        if bio.bi_rw & BIO_RW_SYNC or len(self.elevator) >= UNPLUG_THRESH:
            self.unplug()

    def _merge(self, rw: int, bio: Bio) -> bool:
        """Join a neighbour that is not too long yet (elv_merge(), ll_back_merge_fn(), ll_front_merge_fn())."""
        elevator = self.elevator
        rq = elevator.find_back(rw, bio.bi_sector)
        if rq is not None:
            if self._too_long(rq, bio):
                return False
            elevator.append(rq, bio)
        else:
            rq = elevator.find_front(rw, bio.bi_sector + bio.sectors)
            if rq is None or self._too_long(rq, bio):
                return False
            elevator.prepend(rq, bio)
        self.merged += 1
        return True

    def _too_long(self, rq: Request, bio: Bio) -> bool:
        return rq.nr_sectors + bio.sectors > BLK_DEF_MAX_SECTORS or rq.segments + len(bio.bi_io_vec) > MAX_PHYS_SEGMENTS

    def _get_request_wait(self, rw: int) -> Request:
        """Return a new request; sleep while the queue is full (get_request_wait(), get_request())."""
        while self.count[rw] >= self.nr_requests:
            self.unplug()
            self.sched.wait_event(self._wait[rw], lambda: self.count[rw] < self.nr_requests, ("request", self), exclusive=True)
        if self.count[rw] + 1 >= self.nr_congestion_on:
            self.backing_dev_info.set_congested(rw)
        self.count[rw] += 1
        address = self.rq_pool.alloc(GFP_NOIO)
        assert address is not None
        return Request(address, rw)

    # -- plugging ----------------------------------------------------------------------------------------------------------------

    def _plug(self) -> None:
        """Let the first request wait for company (blk_plug_device())."""
        if not self.plugged:
            self.plugged = True
            self.kernel.timers.mod_timer(self._unplug_timer, self.sched.jiffies + UNPLUG_DELAY)

    def unplug(self) -> None:
        """Let the driver begin (generic_unplug_device())."""
        if self.plugged:
            self.plugged = False
            self.kernel.timers.del_timer(self._unplug_timer)
            self.request_fn()

    def _unplug_timeout(self, _: object) -> None:
        """Leave it to kblockd: the timer runs in a softirq (blk_unplug_timeout())."""
        self.bios.kblockd.queue_work(self._unplug_work)

    def _unplug_from_timer(self, _: object) -> None:
        self.unplug()

    # -- the driver --------------------------------------------------------------------------------------------------------------

    def fetch(self) -> Request | None:
        """Give the driver the next request, unless the queue is plugged (elv_next_request())."""
        if self.plugged:
            return None
        rq = self.elevator.dispatch(self.sched.now)
        if rq is not None:
            self.in_flight.append(rq)
        return rq

    def end_request(self, rq: Request, errors: list[int]) -> None:
        """End the bios of a request, one error each, and free it (end_that_request_first(), end_that_request_last())."""
        self.sched.spend(costs.REQUEST_END)
        self.in_flight.remove(rq)
        for bio, error in zip(rq.bios, errors, strict=True):
            self.bios.bio_endio(bio, error)
        self.rq_pool.free(rq.address)
        self._freed_request(rq.rw)

    def _freed_request(self, rw: int) -> None:
        """Wake who wants a request; tell reclaim when the queue has room again (__freed_request())."""
        self.count[rw] -= 1
        if self.count[rw] < self.nr_congestion_off:
            self.backing_dev_info.clear_congested(rw)
        if self.count[rw] + 1 <= self.nr_requests:
            self.sched.wake_up(self._wait[rw])
        if not any(self.count):
            self.sched.wake_up_all(self._drained)

    def check(self) -> None:
        """Assert that the counts are those of the requests, and the merge tables those of the elevator."""
        self.rq_pool.check()
        requests = self.elevator.requests()
        for rw in (READ, WRITE):
            known = sum(rq.rw == rw for rq in requests + self.in_flight)
            if known > self.count[rw]:  # more counted than known: somebody sleeps in the request pool
                raise KernelBug(f"{self.name}: {known} requests, and {self.count[rw]} are counted")
        for rq in requests:
            sectors, pages = sum(bio.sectors for bio in rq.bios), sum(len(bio.bi_io_vec) for bio in rq.bios)
            if (sectors, pages) != (rq.nr_sectors, rq.segments):
                raise KernelBug(f"{self.name}: a request does not count what its bios hold", state=rq)

    def __repr__(self) -> str:
        """Show what an oops would print."""
        return f"<RequestQueue {self.name} {self.count} plugged={self.plugged}>"


def _explain(queue: RequestQueue) -> tuple[str, None]:
    """Say why somebody sleeps in make_request()."""
    return f"a request of {queue.name}: {queue.count} are under way", None
