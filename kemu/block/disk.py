"""A disk: one head, one request at a time, an interrupt when it is done.

Interface
    * :class:`Disk`: a block device: ``submit_bio(bio)``, ``unplug()``, ``open()`` for swapon, ``backing_dev_info``, ``blocks``.
    * Faults, to be switched while the machine runs: ``fail(sector, sectors)`` and ``heal()``; ``stall()`` and ``resume()``;
      ``late_ns``.
    * ``machine.add_disk()`` and ``machine.remove_disk()`` are the way to get one and to get rid of it.

Rules of this file
    * A request costs ``latency_ns``, which stands for seek and rotation, unless it begins where the last one ended, and its bytes
      at ``bandwidth``.
    * The data move when the disk is done, just before its interrupt: what a page holds then is written.
    * The interrupt goes to CPU 0 and only notes the request; BLOCK_SOFTIRQ ends its bios (blk_complete_request(),
      blk_done_softirq()) and starts the next one.
    * A stalled disk keeps what it has begun and takes nothing new: its bios stay in flight, and its queue fills.
    * Contents are pages by number, kept by reference, immutable; what was never written reads as zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.block.bdev_ops import BdevOps
from kemu.block.bio import SECTOR_SHIFT, Bio, Bios
from kemu.block.request_queue import BLKDEV_MAX_RQ, RequestQueue
from kemu.errors import ConfigError, KernelBug
from kemu.kernel import costs
from kemu.kernel.cpu import Event
from kemu.kernel.errno import EIO
from kemu.kernel.softirq import BLOCK_SOFTIRQ
from kemu.mm.address_space import AddressSpace, File, Inode
from kemu.mm.backing_dev import WRITE, BackingDev
from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE
from kemu.mm.page import ZERO_PAGE, Page

if TYPE_CHECKING:
    from kemu.block.elevator import Request
    from kemu.mm.filemap import Filemap

LATENCY_NS: Final = 8_000_000  # seek and half a turn of a disk of 2007
BANDWIDTH: Final = 60_000_000  # bytes per second
SD_MAJOR: Final = 8
SD_MINORS: Final = 16  # minor numbers of one disk and its partitions


class Disk:
    """A whole disk without partitions: ``struct gendisk`` and its ``struct block_device``.

    :param size: bytes, a multiple of the page size.
    :param latency_ns: of a request that does not follow the last one.
    :param bandwidth: bytes per second.
    :ivar blocks: page number on the disk -> contents.
    :ivar late_ns: added to every request, while it is not 0.
    :ivar reads: requests done. ``writes`` likewise.
    """

    def __init__(
        self,
        bios: Bios,
        filemap: Filemap,
        backing: BackingDev,
        *,
        size: int,
        latency_ns: int = LATENCY_NS,
        bandwidth: int = BANDWIDTH,
        nr_requests: int = BLKDEV_MAX_RQ,
    ) -> None:
        name = backing.name
        if size < 2 * PAGE_SIZE or size % PAGE_SIZE:
            raise ConfigError(f"disk {name}: {size} bytes cannot be used; it is a multiple of {PAGE_SIZE}, at least two of them")
        if latency_ns < 0 or bandwidth < 1 or nr_requests < 1:
            raise ConfigError(f"disk {name}: latency is at least 0, bandwidth and requests are at least 1")
        self.bios = bios
        self.kernel = bios.kernel
        self.sched = bios.sched
        self.name = name
        self.size = size
        self.latency_ns = latency_ns
        self.bandwidth = bandwidth
        self.backing_dev_info = backing
        self.blocks: dict[int, bytes] = {}
        self.late_ns = 0
        self.stalled = False
        self.reads = self.writes = 0
        self.busy: Request | None = None
        self._event: Event | None = None
        self._late = False  # the disk is done, and stalled: nobody was told
        self._bad: list[tuple[int, int]] = []
        self._head = 0
        self.minor = next(n for n in range(0, 1 << 20, SD_MINORS) if n not in [other.minor for other in bios.disks])
        self.dev = f"{SD_MAJOR}:{self.minor}"
        bios.add_disk(self)
        self.queue = RequestQueue(bios, backing, self._request_fn, nr_requests)
        self.inode = Inode(ino=self.minor, size=size, is_block=True, i_bdev=self)
        self.mapping = AddressSpace(self.inode, BdevOps(bios, filemap), backing)
        self._filemap = filemap
        self.kernel.judge.explainers.setdefault("disk", _explain)

    @property
    def sectors(self) -> int:
        """Sectors of 512 bytes."""
        return self.size >> SECTOR_SHIFT

    def open(self) -> File:
        """Return the device as an open file, for swapon."""
        return File(self.inode, self.mapping)

    def remove(self) -> None:
        """Take the disk out; nobody may use it any more (del_gendisk(), blk_cleanup_queue())."""
        self._filemap.truncate_inode_pages(self.mapping)
        self.queue.destroy()
        self.bios.del_disk(self)

    # -- a block device --------------------------------------------------------------------------------------------------------

    def submit_bio(self, bio: Bio) -> None:
        """Take a bio, or refuse what lies behind the end (generic_make_request())."""
        if bio.bi_sector < 0 or bio.bi_sector + bio.sectors > self.sectors:
            self.kernel.printk(f"attempt to access beyond end of device: {self.name}, sector {bio.bi_sector}", level="info")
            self.bios.bio_endio(bio, -EIO)
            return
        self.queue.make_request(bio)

    def unplug(self) -> None:
        """Start what waits for company (blk_run_backing_dev())."""
        self.queue.unplug()

    # -- the driver ------------------------------------------------------------------------------------------------------------

    def _request_fn(self) -> None:
        """Begin the next request, if the disk is free."""
        if self.busy is not None or self.stalled:
            return
        rq = self.queue.fetch()
        if rq is None:
            return
        self.busy = rq
        self.sched.spend(costs.REQUEST_DISPATCH)
        self._interrupt_at(self.sched.now + self._service_ns(rq))

    def _service_ns(self, rq: Request) -> int:
        """Return how long a request takes, and move the head."""
        seek = 0 if rq.sector == self._head else self.latency_ns
        self._head = rq.sector + rq.nr_sectors
        return seek + (rq.nr_sectors << SECTOR_SHIFT) * 1_000_000_000 // self.bandwidth + self.late_ns

    def _interrupt_at(self, time: int) -> None:
        self._event = self.kernel.cpus[0].post(time, self._interrupt)

    def _interrupt(self, _: object) -> None:
        """Note that a request is done; the softirq does the rest."""
        self._event = None
        if self.stalled:
            self._late = True
            return
        assert self.busy is not None
        rw, bios = self.busy.rw, self.busy.bios
        self.bios.done.append((self, [self._transfer(rw, bio) for bio in bios]))
        self.kernel.softirq.raise_softirq(BLOCK_SOFTIRQ)

    def request_done(self, errors: list[int]) -> None:
        """End the request that is done, and begin the next one (in BLOCK_SOFTIRQ)."""
        rq, self.busy = self.busy, None
        assert rq is not None
        self.reads += rq.rw != WRITE
        self.writes += rq.rw == WRITE
        self.queue.end_request(rq, errors)
        self._request_fn()

    # -- contents --------------------------------------------------------------------------------------------------------------

    def _transfer(self, rw: int, bio: Bio) -> int:
        """Move a bio's data; return 0 or -EIO."""
        first, last = bio.bi_sector, bio.bi_sector + bio.sectors
        if any(first < end and begin < last for begin, end in self._bad):
            return -EIO
        at = first << SECTOR_SHIFT
        for page, offset, length in bio.bi_io_vec:
            if rw == WRITE:
                self._store(at, page, offset, length)
            else:
                self._load(at, page, offset, length)
            at += length
        return 0

    def _store(self, at: int, page: Page, offset: int, length: int) -> None:
        data = page.contents or ZERO_PAGE
        if length == PAGE_SIZE and not at % PAGE_SIZE:
            self.blocks[at >> PAGE_SHIFT] = data
        else:
            self._write_bytes(at, data[offset : offset + length])

    def _load(self, at: int, page: Page, offset: int, length: int) -> None:
        if length == PAGE_SIZE and not at % PAGE_SIZE:
            page.contents = self.blocks.get(at >> PAGE_SHIFT, ZERO_PAGE)
            return
        old = page.contents or ZERO_PAGE
        page.contents = old[:offset] + self._read_bytes(at, length) + old[offset + length :]

    def _read_bytes(self, at: int, length: int) -> bytes:
        block, offset = at >> PAGE_SHIFT, at % PAGE_SIZE
        pages = -(-(offset + length) // PAGE_SIZE)
        data = b"".join(self.blocks.get(block + i, ZERO_PAGE) for i in range(pages))
        return data[offset : offset + length]

    def _write_bytes(self, at: int, data: bytes) -> None:
        while data:
            block, offset = at >> PAGE_SHIFT, at % PAGE_SIZE
            part = data[: PAGE_SIZE - offset]
            old = self.blocks.get(block, ZERO_PAGE)
            self.blocks[block] = old[:offset] + part + old[offset + len(part) :]
            at += len(part)
            data = data[len(part) :]

    # -- for the judge -----------------------------------------------------------------------------------------------------------

    def carries(self, page: Page) -> bool:
        """Tell whether a page waits in the queue or is under way."""
        requests = self.queue.elevator.requests() + self.queue.in_flight
        return any(page is vec[0] for rq in requests for bio in rq.bios for vec in bio.bi_io_vec)

    def idle_probe(self) -> str | None:
        """Tell that nothing will come from this disk by itself, or None while it has work (judge.closed_probes)."""
        return None if any(self.queue.count) else f"{self.name} has nothing to do"

    # -- faults ----------------------------------------------------------------------------------------------------------------

    def fail(self, sector: int, sectors: int) -> None:
        """Answer every bio that touches these sectors with -EIO, from now on."""
        self._bad.append((sector, sector + sectors))

    def heal(self) -> None:
        """Forget all bad sectors."""
        self._bad.clear()

    def stall(self) -> None:
        """Stop answering."""
        self.stalled = True

    def resume(self) -> None:
        """Answer again: first what was begun."""
        self.stalled = False
        if self._late:
            self._late = False
            self._interrupt_at(self.kernel.cpus[0].now)
        elif self.busy is None:
            self._request_fn()

    def check(self) -> None:
        """Assert the disk's invariants."""
        self.queue.check()
        if self.busy is not None and self.busy not in self.queue.in_flight:
            raise KernelBug(f"disk {self.name}: it works on a request that is not in flight", state=self)
        if not self.stalled and self.busy is None and len(self.queue.elevator) and not self.queue.plugged:
            raise KernelBug(f"disk {self.name}: requests wait, and the disk does nothing", state=self)

    def __repr__(self) -> str:
        """Show what an oops would print."""
        return f"<Disk {self.name} {'stalled' if self.stalled else 'busy' if self.busy else 'idle'} {self.queue!r}>"


def _explain(disk: Disk) -> tuple[str, None]:
    """Say what a page waits for."""
    return f"{disk.name}, which {'does not answer' if disk.stalled else 'works'}: {sum(disk.queue.count)} requests", None
