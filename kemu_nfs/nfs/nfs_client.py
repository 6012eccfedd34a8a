"""What the NFS client shares: caches and pools of a machine, state of a mount (2.6.23 fs/nfs/client.c, write.c, read.c: init).

Interface
    * :class:`NfsModule`, one per machine: slab caches, mempools, RPC, counters, and the neighbours that NFS is handed.
    * :class:`NfsServer`, one per mount: RPC client, sizes, congestion. :class:`NfsStats`.

Rules of this file
    * Patch 27 takes the mempools away: 32 for reads, 32 for writes, 4 for commits. With them a writer that finds its pool empty
      sleeps until an element comes back, and elements come back when the server replies.
    * The queue of a mount counts as congested above nfs_congestion_kb (sysctl fs.nfs.nfs_congestion_kb, one for all mounts), and as
      clear again below three quarters of it.
    * Freeing is immediate; the kernel defers it by RCU.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any, Final

import attrs

from kemu.fs.fs_writeback import FsWriteback
from kemu.kernel.core import Kernel
from kemu.mm.address_space import Inode, SuperBlock
from kemu.mm.backing_dev import WRITE, BackingDev, Congestion
from kemu.mm.file_io import FileIo
from kemu.mm.filemap import Filemap
from kemu.mm.gfp import GFP_NOFS, GFP_NOIO, PAGE_SHIFT
from kemu.mm.mempool import Mempool
from kemu.mm.page import Page
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.slub import SLAB_HWCACHE_ALIGN, KmemCache, Slub
from kemu.mm.swapfile import Swapfile
from kemu_nfs.sunrpc.rpc_sched import RpcSched

if TYPE_CHECKING:
    from kemu.lib.radix_tree import RadixNodes
    from kemu_nfs.nfs.file import NfsFileOps
    from kemu_nfs.nfs.proc_nfs import ProcNfs
    from kemu_nfs.sunrpc.auth import UnixAuth
    from kemu_nfs.sunrpc.clnt import RpcClnt
    from kemu_nfs.sunrpc.rpc_task import RpcTask
    from kemu_nfs.sunrpc.xs_swapper import XsSwapper

MIN_POOL_READ: Final = 32
MIN_POOL_WRITE: Final = 32
MIN_POOL_COMMIT: Final = 4

SIZEOF_NFS_PAGE: Final = 104
SIZEOF_NFS_WRITE_DATA: Final = 832  # task, arguments, results and eight page pointers
SIZEOF_NFS_READ_DATA: Final = 768
SIZEOF_NFS_INODE: Final = 960
SIZEOF_OPEN_CONTEXT: Final = 88

MAX_CONGESTION_KB: Final = 256 * 1024
MIN_RSIZE: Final = 1024
MAX_RSIZE: Final = 1 << 20
DEF_RSIZE: Final = 4096

Link = tuple[str, Any]


@attrs.define(eq=False)
class NfsStats:
    """Counters of a machine's mounts.

    :ivar writepage_depth: the most frames of nfs_writepage() on one stack.
    :ivar short_writes: WRITEs of which the server took a part. :ivar rewrites: requests whose verifier had changed at the COMMIT.
    """

    writes: int = 0
    reads: int = 0
    retransmissions: int = 0
    reconnects: int = 0
    writes_outstanding: int = 0
    writes_outstanding_peak: int = 0
    reads_outstanding: int = 0
    write_errors: int = 0
    read_errors: int = 0
    writepage_depth: int = 0
    jukebox: int = 0
    commits: int = 0
    commits_outstanding: int = 0
    short_writes: int = 0
    rewrites: int = 0
    invalidations: int = 0


def nfs_congestion_kb(total_pages: int) -> int:
    """Return how much may be under writeback before the queue counts as full (nfs_init_writepagecache())."""
    return min((16 * isqrt(total_pages)) << (PAGE_SHIFT - 10), MAX_CONGESTION_KB)


def nfs_block_size(preferred: int) -> int:
    """Fit a transfer size (nfs_block_size()): at least 1024, else 4096; at most 1 MiB."""
    if preferred < MIN_RSIZE:
        return DEF_RSIZE
    return min(preferred, MAX_RSIZE)


class NfsModule:
    """The loaded modules nfs and sunrpc of one machine.

    :param congestion: the machine's naps; None makes mounts whose clearing wakes nobody.
    :ivar io: pages under I/O and the calls that carry them, for the chain of waits.
    """

    def __init__(
        self,
        kernel: Kernel,
        page_alloc: PageAllocator,
        slub: Slub,
        radix_nodes: RadixNodes,
        filemap: Filemap,
        swapfile: Swapfile,
        file_io: FileIo,
        fs_writeback: FsWriteback,
        *,
        congestion: Congestion | None = None,
        rpc: RpcSched | None = None,
    ) -> None:
        self.kernel = kernel
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self.sched = kernel.sched
        self.page_alloc = page_alloc
        self.slub = slub
        self.radix_nodes = radix_nodes
        self.filemap = filemap
        self.swapfile = swapfile
        self.file_io = file_io
        self.fs_writeback = fs_writeback
        self.congestion = Congestion(kernel) if congestion is None else congestion
        self.rpc = RpcSched(kernel, page_alloc, slub) if rpc is None else rpc
        self.stats = NfsStats()
        self.servers: list[NfsServer] = []
        self.mounts: list[ProcNfs] = []
        self.io: dict[Page, RpcTask] = {}
        create = slub.kmem_cache_create
        self.page_cache = create("nfs_page", SIZEOF_NFS_PAGE, flags=SLAB_HWCACHE_ALIGN)
        self.wdata_cache = create("nfs_write_data", SIZEOF_NFS_WRITE_DATA, flags=SLAB_HWCACHE_ALIGN)
        self.rdata_cache = create("nfs_read_data", SIZEOF_NFS_READ_DATA, flags=SLAB_HWCACHE_ALIGN)
        self.inode_cache = create("nfs_inode_cache", SIZEOF_NFS_INODE)
        self.wdata_pool: Mempool[int] | None = None
        self.rdata_pool: Mempool[int] | None = None
        self.commit_pool: Mempool[int] | None = None
        if not self.patched.nfs_no_mempools:  # [p27]
            self.wdata_pool = self._pool("nfs_wdata", MIN_POOL_WRITE, self.wdata_cache)
            self.rdata_pool = self._pool("nfs_rdata", MIN_POOL_READ, self.rdata_cache)
            self.commit_pool = self._pool("nfs_commit", MIN_POOL_COMMIT, self.wdata_cache)
        self.congestion_kb = nfs_congestion_kb(page_alloc.total_pages)
        kernel.sysctl.register("fs.nfs.nfs_congestion_kb", lambda: self.congestion_kb, self._set_congestion_kb)
        self._owner_before = filemap.writeback_owner
        filemap.writeback_owner = self.owner

    def _pool(self, name: str, min_nr: int, cache: KmemCache) -> Mempool[int]:
        slub = self.slub
        return Mempool(
            self.kernel,
            name,
            min_nr,
            lambda gfp: slub.kmem_cache_alloc(cache, gfp),
            lambda addr: slub.kmem_cache_free(cache, addr),
            self.page_alloc,
        )

    def _set_congestion_kb(self, kb: int) -> None:
        """Take a new limit; a queue learns of it when its next page comes or goes."""
        self.congestion_kb = kb
        for server in self.servers:
            server.set_congestion_kb(kb)

    def writedata_alloc(self) -> int | None:
        """Allocate a struct nfs_write_data (nfs_writedata_alloc()); patch 32 keeps its reclaim from starting I/O."""
        gfp = GFP_NOIO if self.patched.nfs_noio else GFP_NOFS  # [p32]
        if self.patched.nfs_no_mempools:  # [p27]
            return self.slub.kmem_cache_alloc(self.wdata_cache, gfp)
        assert self.wdata_pool is not None
        return self.wdata_pool.alloc(gfp)

    def writedata_free(self, addr: int) -> None:
        """Free it (nfs_writedata_free())."""
        if self.patched.nfs_no_mempools:  # [p27]
            self.slub.kmem_cache_free(self.wdata_cache, addr)
        else:
            assert self.wdata_pool is not None
            self.wdata_pool.free(addr)

    def commit_alloc(self) -> int | None:
        """Allocate a struct nfs_write_data for a COMMIT (nfs_commit_alloc())."""
        gfp = GFP_NOIO if self.patched.nfs_noio else GFP_NOFS  # [p32]
        if self.patched.nfs_no_mempools:  # [p27]
            return self.slub.kmem_cache_alloc(self.wdata_cache, gfp)
        assert self.commit_pool is not None
        return self.commit_pool.alloc(gfp)

    def commit_free(self, addr: int) -> None:
        """Free it (nfs_commit_free())."""
        if self.patched.nfs_no_mempools:  # [p27]
            self.slub.kmem_cache_free(self.wdata_cache, addr)
        else:
            assert self.commit_pool is not None
            self.commit_pool.free(addr)

    def readdata_alloc(self) -> int | None:
        """Allocate a struct nfs_read_data (nfs_readdata_alloc()): GFP_NOFS also in v14, for reclaim issues no reads."""
        if self.patched.nfs_no_mempools:  # [p27]
            return self.slub.kmem_cache_alloc(self.rdata_cache, GFP_NOFS)
        assert self.rdata_pool is not None
        return self.rdata_pool.alloc(GFP_NOFS)

    def readdata_free(self, addr: int) -> None:
        """Free it (nfs_readdata_free())."""
        if self.patched.nfs_no_mempools:  # [p27]
            self.slub.kmem_cache_free(self.rdata_cache, addr)
        else:
            assert self.rdata_pool is not None
            self.rdata_pool.free(addr)

    def owner(self, page: Page) -> Link | None:
        """Say which call a page under I/O waits for."""
        task = self.io.get(page)
        if task is not None:
            return ("rpc", task)
        return self._owner_before(page) if self._owner_before is not None else None

    def read_stats(self) -> NfsStats:
        """Return the counters, with those of the transports added up."""
        stats = self.stats
        stats.retransmissions = sum(server.client.xprt.retransmissions for server in self.servers)
        stats.reconnects = sum(max(server.client.xprt.established - 1, 0) for server in self.servers)
        return stats


class NfsServer:
    """``struct nfs_server``: one mount.

    :ivar writeback: pages under writeback.
    :ivar unstable: requests that the server has, but not on stable storage (their part of BDI_RECLAIMABLE).
    :ivar sb: its inodes, for who writes dirty ones.
    """

    def __init__(self, module: NfsModule, client: RpcClnt, auth: UnixAuth, swapper: XsSwapper, name: str) -> None:
        self.module = module
        self.client = client
        self.auth = auth
        self.swapper = swapper
        self.name = name
        self.rsize = DEF_RSIZE
        self.wsize = DEF_RSIZE
        self.writeback = 0
        self.unstable = 0
        self.set_congestion_kb(module.congestion_kb)
        self.bdi = BackingDev(module.congestion, name)
        self.sb = SuperBlock(f"nfs {name}", write_inode=self._write_inode)
        self.a_ops: NfsFileOps | None = None
        module.servers.append(self)
        module.fs_writeback.add_super(self.sb)

    def destroy(self) -> None:
        """Forget the mount (nfs_free_server())."""
        self.module.servers.remove(self)
        self.module.fs_writeback.remove_super(self.sb)

    def _write_inode(self, inode: Inode, wait: bool) -> int:
        """Bring a file's unstable writes to the server's disk (nfs_write_inode())."""
        assert self.a_ops is not None
        return self.a_ops.write.commit.nfs_write_inode(inode, wait)

    def set_congestion_kb(self, kb: int) -> None:
        """Set how much may be under writeback (NFS_CONGESTION_ON_THRESH, NFS_CONGESTION_OFF_THRESH)."""
        self.congestion_on = kb >> (PAGE_SHIFT - 10)
        self.congestion_off = self.congestion_on - (self.congestion_on >> 2)

    def writeback_begins(self) -> None:
        """Count a page under writeback; a queue above its limit is congested (nfs_set_page_writeback())."""
        self.writeback += 1
        if self.writeback > self.congestion_on:
            self.bdi.set_congested(WRITE)

    def writeback_ends(self) -> None:
        """Count it off (nfs_end_page_writeback())."""
        self.writeback -= 1
        if self.writeback < self.congestion_off:
            self.bdi.clear_congested(WRITE)
