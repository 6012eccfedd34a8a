"""Block I/O in flight: struct bio, and the pools that always have one in the end (2.6.23-mm1 fs/bio.c, include/linux/bio.h).

Interface
    * :class:`Bio`: ``bi_bdev``, ``bi_sector``, ``bi_rw``, ``bi_io_vec``, ``bi_end_io(bio, error)``, ``bi_private``; ``add_page()``,
      ``bio_get()``.
    * :class:`Bios`, one per machine: ``bio_alloc(gfp, nr_vecs)``, ``bio_alloc_bioset(gfp, nr_vecs, bio_set)``, ``bio_put(bio)``,
      ``bio_endio(bio, error)``, ``submit_bio(rw, bio)``, ``bioset_create(pool_size, vec_pool_size)``, ``bioset_free(bio_set)``.

Rules of this file
    * A bio takes two objects: one of the cache "bio" and, if it carries pages, one of a "biovec-N" cache, both from mempools of the
      bio set. With __GFP_WAIT bio_alloc() never fails as long as somebody gives bios back; patch 04 lets who is entitled take from
      the reserve instead of waiting for that.
    * ``fs_bio_set``, which all disks and file systems share, keeps two bios and two vectors of each size: enough that one goes at
      a time, and no more.
    * Whoever allocates a bio puts it, in its ``bi_end_io``. ``bi_end_io`` has two arguments, as in -mm1 (git-block) and 2.6.24.
    * The caches and fs_bio_set are made with a machine's first disk and go with its last: a machine without disks pays nothing.
    * Left out: bio_split(), bio_clone(), user pages, integrity, bounce buffers, partitions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from kemu.errors import ConfigError, KernelBug
from kemu.kernel import costs
from kemu.kernel.errno import EIO
from kemu.kernel.softirq import BLOCK_SOFTIRQ
from kemu.kernel.workqueue import Workqueue
from kemu.mm.backing_dev import WRITE
from kemu.mm.gfp import PAGE_SIZE, gfp_t
from kemu.mm.mempool import Mempool, mempool_create_slab_pool
from kemu.mm.page import Page
from kemu.mm.slub_cache import SLAB_HWCACHE_ALIGN, SLAB_PANIC, KmemCache

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu.mm.slub import Slub

SECTOR_SHIFT: Final = 9
BIO_POOL_SIZE: Final = 2
BIO_VEC_POOL_SIZE: Final = 2  # what init_bio() asks of each vector pool
BVEC_SIZES: Final = (1, 4, 16, 64, 128, 256)  # pages per vector, a pool each (BIOVEC_NR_POOLS of them)
BIO_MAX_PAGES: Final = BVEC_SIZES[-1]
BIO_SIZE: Final = 104  # sizeof(struct bio) on x86_64
BIO_VEC_SIZE: Final = 16  # sizeof(struct bio_vec)
REQUEST_SIZE: Final = 288  # sizeof(struct request)

# bi_flags
BIO_UPTODATE: Final = 1 << 0

BioEndIo = Callable[["Bio", int], None]


class BlockDevice(Protocol):
    """What ``bi_bdev`` points to."""

    name: str

    def submit_bio(self, bio: Bio) -> None:
        """Take a bio; end it later, from any context, or at once with an error."""

    def unplug(self) -> None:
        """Start what waits for company."""


class Driver(Protocol):
    """Who drives a disk of this machine."""

    minor: int

    def carries(self, page: Page) -> bool:
        """Tell whether a page waits in the queue or is under way."""

    def request_done(self, errors: list[int]) -> None:
        """End the request that the disk has done, with an error for each of its bios."""

    def check(self) -> None:
        """Assert its invariants."""


class Bio:
    """``struct bio``: pages and the run of sectors that they go to or come from.

    :ivar bi_sector: the first sector, in 512 bytes.
    :ivar bi_io_vec: (page, offset, length), in the order of the sectors.
    :ivar bi_size: bytes of all pages.
    :ivar address: its slab object. ``vec_address``: that of its vector.
    """

    __slots__ = (
        "address",
        "bi_bdev",
        "bi_cnt",
        "bi_end_io",
        "bi_flags",
        "bi_io_vec",
        "bi_max_vecs",
        "bi_private",
        "bi_rw",
        "bi_sector",
        "bi_size",
        "bio_set",
        "vec_address",
        "vec_pool",
    )

    bi_bdev: BlockDevice

    def __init__(self, bio_set: BioSet, address: int) -> None:
        self.bio_set = bio_set
        self.address = address
        self.vec_address = 0
        self.vec_pool = -1
        self.bi_sector = 0
        self.bi_rw = 0
        self.bi_flags = BIO_UPTODATE
        self.bi_cnt = 1
        self.bi_size = 0
        self.bi_max_vecs = 0
        self.bi_io_vec: list[tuple[Page, int, int]] = []
        self.bi_end_io: BioEndIo | None = None
        self.bi_private: Any = None

    @property
    def sectors(self) -> int:
        """Length in sectors (bio_sectors())."""
        return self.bi_size >> SECTOR_SHIFT

    def add_page(self, page: Page, length: int = PAGE_SIZE, offset: int = 0) -> int:
        """Append a page; return the bytes taken: all, or 0 if the vector is full (bio_add_page())."""
        if len(self.bi_io_vec) >= self.bi_max_vecs:
            return 0
        self.bi_io_vec.append((page, offset, length))
        self.bi_size += length
        return length

    def bio_get(self) -> None:
        """Take one more reference, for who looks at the bio after its end."""
        self.bi_cnt += 1

    def __repr__(self) -> str:
        """Show what an oops would print."""
        where = f"{self.bi_sector}+{self.sectors}"
        return f"<Bio {'WRITE' if self.bi_rw & WRITE else 'READ'} {where} cnt={self.bi_cnt} pages={len(self.bi_io_vec)}>"


class BioSet:
    """``struct bio_set``: a pool of bios and one of vectors of each size."""

    __slots__ = ("bio_pool", "bvec_pools")

    def __init__(self, bio_pool: Mempool[int], bvec_pools: list[Mempool[int]]) -> None:
        self.bio_pool = bio_pool
        self.bvec_pools = bvec_pools

    @property
    def pools(self) -> list[Mempool[int]]:
        """All pools."""
        return [self.bio_pool, *self.bvec_pools]


class Bios:
    """The block layer's share in memory: caches, bio sets, and what is in flight.

    :ivar fs_bio_set: the set for all who have none of their own; there while the machine has a disk.
    :ivar in_flight: bios that are allocated and not yet freed.
    :ivar done: disks whose interrupt has come and whose softirq has not (blk_cpu_done).
    :ivar kblockd: the worker that unplugs queues.
    """

    fs_bio_set: BioSet
    bio_slab: KmemCache
    request_slab: KmemCache
    kblockd: Workqueue

    def __init__(self, kernel: Kernel, slub: Slub) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.slub = slub
        self.bvec_slabs: list[KmemCache] = []
        self.in_flight = 0
        self.disks: list[Driver] = []
        self.done: list[tuple[Driver, list[int]]] = []
        self._sets: list[BioSet] = []

    # -- the caches and fs_bio_set -----------------------------------------------------------------------------------------------

    def add_disk(self, disk: Driver) -> None:
        """Note a disk; the first one makes the caches and fs_bio_set (init_bio(), blk_dev_init())."""
        self.disks.append(disk)
        if len(self.disks) > 1:
            return
        self.kblockd = Workqueue(self.kernel, "kblockd")
        self.kernel.softirq.open_softirq(BLOCK_SOFTIRQ, self._done_softirq)
        create = self.slub.kmem_cache_create
        self.bio_slab = create("bio", BIO_SIZE, 0, SLAB_HWCACHE_ALIGN | SLAB_PANIC)
        self.bvec_slabs = [create(f"biovec-{nr}", nr * BIO_VEC_SIZE, 0, SLAB_HWCACHE_ALIGN | SLAB_PANIC) for nr in BVEC_SIZES]
        self.request_slab = create("blkdev_requests", REQUEST_SIZE, 0, SLAB_PANIC)
        made = self.bioset_create(BIO_POOL_SIZE, BIO_VEC_POOL_SIZE)
        if made is None:
            raise KernelBug("bio: can't allocate bios")
        self.fs_bio_set = made

    def del_disk(self, disk: Driver) -> None:
        """Forget a disk; the last one takes the caches with it. May sleep."""
        self.disks.remove(disk)
        if self.disks:
            return
        self.kblockd.destroy()
        self.bioset_free(self.fs_bio_set)
        caches = [self.bio_slab, *self.bvec_slabs, self.request_slab]
        self.bvec_slabs = []
        for cache in caches:
            if self.slub.kmem_cache_destroy(cache):
                raise KernelBug(f"the last disk is gone, and objects of {cache.name} are in use")

    def bioset_create(self, pool_size: int, vec_pool_size: int) -> BioSet | None:
        """Make a bio set with its elements; None if there is no memory for them."""
        self._need_disk()
        sizes = [(self.bio_slab, pool_size), *((slab, vec_pool_size) for slab in self.bvec_slabs)]
        pools: list[Mempool[int]] = []
        for slab, size in sizes:
            pool = mempool_create_slab_pool(self.kernel, size, self.slub, slab)
            if pool is None:
                for made in pools:
                    made.destroy()
                return None
            pools.append(pool)
        bio_set = BioSet(pools[0], pools[1:])
        self._sets.append(bio_set)
        return bio_set

    def _need_disk(self) -> None:
        if not self.disks:
            raise ConfigError("a machine without a disk has no bios: add_disk() comes first")

    def bioset_free(self, bio_set: BioSet) -> None:
        """Give a bio set's elements back; all of its bios must have come home."""
        self._sets.remove(bio_set)
        for pool in bio_set.pools:
            pool.destroy()

    # -- bios ----------------------------------------------------------------------------------------------------------------------

    def bio_alloc(self, gfp: gfp_t, nr_vecs: int) -> Bio | None:
        """Return a bio of fs_bio_set for up to ``nr_vecs`` pages; None only to who cannot wait."""
        self._need_disk()
        return self.bio_alloc_bioset(gfp, nr_vecs, self.fs_bio_set)

    def bio_alloc_bioset(self, gfp: gfp_t, nr_vecs: int, bio_set: BioSet) -> Bio | None:
        """Return a bio of a set: first the bio, then its vector, each from its mempool."""
        if nr_vecs > BIO_MAX_PAGES:
            return None
        address = bio_set.bio_pool.alloc(gfp)
        if address is None:
            return None
        bio = Bio(bio_set, address)
        if nr_vecs:
            index = _vec_index(nr_vecs)
            vec_address = bio_set.bvec_pools[index].alloc(gfp)
            if vec_address is None:
                bio_set.bio_pool.free(address)
                return None
            bio.vec_address = vec_address
            bio.vec_pool = index
            bio.bi_max_vecs = BVEC_SIZES[index]
        self.in_flight += 1
        return bio

    def bio_put(self, bio: Bio) -> None:
        """Drop a reference; the last one frees the bio."""
        if bio.bi_cnt <= 0:
            raise KernelBug("bio_put() of a bio that is free", state=bio)
        bio.bi_cnt -= 1
        if bio.bi_cnt:
            return
        self.in_flight -= 1
        bio_set = bio.bio_set
        if bio.vec_pool >= 0:
            bio_set.bvec_pools[bio.vec_pool].free(bio.vec_address)
        bio_set.bio_pool.free(bio.address)

    def bio_endio(self, bio: Bio, error: int) -> None:
        """End an I/O: tell who submitted it."""
        if error:
            bio.bi_flags &= ~BIO_UPTODATE
        elif not bio.bi_flags & BIO_UPTODATE:
            error = -EIO
        if bio.bi_end_io is not None:
            bio.bi_end_io(bio, error)

    def submit_bio(self, rw: int, bio: Bio) -> None:
        """Hand a bio to its device (2.6.23 block/ll_rw_blk.c)."""
        if not bio.bi_size or not bio.bi_io_vec:
            raise KernelBug("submit_bio() of a bio without pages", state=bio)
        bio.bi_rw |= rw
        vmstat = self.slub.page_alloc.vmstat
        if rw & WRITE:
            vmstat.pgpgout += bio.sectors
        else:
            vmstat.pgpgin += bio.sectors
        self.sched.spend(costs.BIO_SUBMIT)
        bio.bi_bdev.submit_bio(bio)

    def _done_softirq(self) -> None:
        """End what disks have done since (blk_done_softirq())."""
        done, self.done = self.done, []
        for disk, errors in done:
            disk.request_done(errors)

    def page_owner(self, page: Page) -> tuple[str, object] | None:
        """Return the disk that a page waits for, for the chain of waits; a search, since nobody else asks."""
        disk = next((disk for disk in self.disks if disk.carries(page)), None)
        return None if disk is None else ("disk", disk)

    # -- for reports and checks ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert the pools' invariants."""
        for disk in self.disks:
            disk.check()
        for bio_set in self._sets:
            for pool in bio_set.pools:
                pool.check()


def _vec_index(nr_vecs: int) -> int:
    """Return the smallest vector size that holds so many pages (bvec_alloc_bs())."""
    for index, size in enumerate(BVEC_SIZES):
        if nr_vecs <= size:
            return index
    raise KernelBug(f"a bio of {nr_vecs} pages; {BIO_MAX_PAGES} is the most")
