"""Test helper: a machine with everything of kemu.mm, a RAM disk with latency to swap to, and little programs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from kemu.block.bio import Bios
from kemu.block.disk import Disk
from kemu.fixes import FixSet
from kemu.kernel.core import Kernel
from kemu.kernel.errno import EIO
from kemu.lib.radix_tree import NODE_SIZE, RadixNodes
from kemu.mm.address_space import AddressSpace, File, Inode
from kemu.mm.backing_dev import WRITE, BackingDev, Congestion
from kemu.mm.filemap import Filemap
from kemu.mm.lru import Lru
from kemu.mm.memory import Memory
from kemu.mm.oom_kill import OomKiller
from kemu.mm.page import ZERO_PAGE, Page, PG_uptodate
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.page_io import PageIo
from kemu.mm.process import Processes
from kemu.mm.shadow import Shadow
from kemu.mm.slub import Slub
from kemu.mm.swap_header import mkswap_header
from kemu.mm.swap_state import SwapState
from kemu.mm.swapfile import Swapfile
from kemu.mm.vmscan import Reclaim
from kemu.patches import PatchSet

MIB = 1 << 20
PAGE = 4096


class RamDisk(Disk):
    """A disk without seeks, whose writes can be made to fail one by one; with no bios, who asks for one gets none."""

    def __init__(self, ground: Swap, pages: int = 1 << 20, latency_ns: int = 100_000) -> None:
        name = f"ram{len(ground.bios.disks)}"
        backing = BackingDev(ground.congestion, name)
        super().__init__(ground.bios, ground.filemap, backing, size=pages * PAGE, latency_ns=latency_ns, bandwidth=10**12)
        self.fail_writes = 0

    def _transfer(self, rw, bio):
        if rw == WRITE and self.fail_writes:
            self.fail_writes -= 1
            return -EIO
        return super()._transfer(rw, bio)


class ScarceBios(Bios):
    """A block layer that can run out of bios: GFP_NOIO would wait, and the kernel's NULL check would never be seen."""

    no_bios = 0

    def bio_alloc(self, gfp, nr_vecs):
        if self.no_bios:
            self.no_bios -= 1
            return None
        return super().bio_alloc(gfp, nr_vecs)


class DiskOps:
    """The a_ops of a file on a disk whose blocks begin at ``first``; it reads and writes at once, past the disk."""

    swapfile = None

    def __init__(self, disk: RamDisk, ground: Swap, first: int = 0, hole: int | None = None) -> None:
        self.disk = disk
        self.ground = ground
        self.first = first
        self.hole = hole

    def readpage(self, file, page):
        page.contents = self.disk.blocks.get(self.first + page.word_d, ZERO_PAGE)
        page.flags |= PG_uptodate
        self.ground.filemap.unlock_page(page)
        return 0

    def writepage(self, page, wbc):
        self.disk.blocks[self.first + page.word_d] = page.contents
        self.ground.filemap.unlock_page(page)
        return 0

    def sync_page(self, page):
        pass

    def set_page_dirty(self, page):
        return self.ground.filemap.set_page_dirty_nobuffers(page)

    def bmap(self, mapping, block):
        return 0 if block == self.hole or not self.first else self.first + block


class FakeNet:
    """A file system without blocks: it answers WRITEs and READs of pages after a while, and uses the page methods as NFS does."""

    def __init__(self, ground: Swap, latency_ns: int = 200_000) -> None:
        self.ground = ground
        self.latency_ns = latency_ns
        self.blocks: dict[int, bytes] = {}
        self.calls: list[tuple] = []
        self.swapfile_error = 0
        self.write_error = 0
        self.swapfile = self._swapfile
        self.on_write = None

    def _swapfile(self, mapping, enable):
        self.calls.append(("swapfile", enable))
        return self.swapfile_error if enable else 0

    def writepage(self, page, wbc):
        swapfile = self.ground.swapfile
        if self.on_write is not None:
            self.on_write(page)
        mapping = swapfile.page_file_mapping(page)
        inode = mapping.host
        index = swapfile.page_file_index(page)
        self.calls.append(("write", inode.ino, index, page.flags & 1))
        if self.write_error:
            self.ground.filemap.unlock_page(page)
            return self.write_error
        self.ground.filemap.set_page_writeback(page)
        self.ground.filemap.unlock_page(page)
        self._later(self._written, (page, index))
        return 0

    def _written(self, io):
        page, index = io
        self.blocks[index] = page.contents
        self.ground.filemap.end_page_writeback(page)

    def readpage(self, file, page):
        index = self.ground.swapfile.page_file_index(page)
        self.calls.append(("read", file.inode.ino, index, page.flags & 1))
        self._later(self._read, (page, index))
        return 0

    def _read(self, io):
        page, index = io
        page.contents = self.blocks.get(index, ZERO_PAGE)
        page.flags |= PG_uptodate
        self.ground.filemap.unlock_page(page)

    def _later(self, fn, io):
        cpu = self.ground.kernel.sched.cpu
        cpu.post(cpu.now + self.latency_ns, fn, io)

    def sync_page(self, page):
        self.calls.append(("sync",))

    def set_page_dirty(self, page):
        self.calls.append(("dirty", self.ground.swapfile.page_file_index(page)))
        return self.ground.filemap.set_page_dirty_nobuffers(page)

    def bmap(self, mapping, block):
        return 0


def page_bytes(vpn: int, generation: int = 0, salt: int = 0) -> bytes:
    """Return a page's worth of bytes that tell which page and which write it is."""
    return (b"%08d%08d%08d" % (vpn, generation, salt)).ljust(64, b".") * (PAGE // 64)


class Script:
    """A program that is a list of steps."""

    def __init__(self, *steps) -> None:
        self.steps = list(steps)
        self.cursor = 0

    def step(self):
        if self.cursor == len(self.steps):
            return None
        self.cursor += 1
        return self.steps[self.cursor - 1]


class Touch:
    """A program that grows to ``pages`` pages, writes all of them, then walks over them in an order of its own."""

    def __init__(self, pages: int, rounds: int = 1, seed: int = 0, salt: int = 0, chunk: int = 256) -> None:
        self.pages = pages
        self.rounds = rounds
        self.rng = random.Random(seed)
        self.salt = salt
        self.chunk = chunk
        self.cursor = 0
        self.grown = 0

    def step(self):
        if self.grown < self.pages:
            more = min(self.chunk, self.pages - self.grown)
            self.grown += more
            return ("grow", more)
        at = self.cursor
        self.cursor += 1
        if at < self.pages:
            return ("write", at, page_bytes(at, 0, self.salt))
        at -= self.pages
        if at >= self.pages * self.rounds:
            return None
        vpn = self.rng.randrange(self.pages)
        if at & 1:
            return ("read", vpn)
        return ("write", vpn, page_bytes(vpn, at + 1, self.salt))


class Swap:
    """The machine: everything of kemu.mm, wired as machine.py wires it."""

    def __init__(self, mem=6 * MIB, patches="all", fixes="all", ncpus=1, seed=0, kswapd=True) -> None:
        self.kernel = kernel = Kernel("test", None, ncpus, PatchSet.parse(patches), FixSet.parse(fixes), seed=seed)
        self.pa = PageAllocator(kernel, mem)
        self.vmstat = self.pa.vmstat
        self.slub = Slub(kernel, self.pa)
        cache = self.slub.kmem_cache_create("radix_tree_node", NODE_SIZE)
        self.nodes = RadixNodes(
            kernel,
            lambda gfp: self.slub.kmem_cache_alloc(cache, gfp),
            lambda address: self.slub.kmem_cache_free(cache, address),
        )
        self.congestion = Congestion(kernel)
        self.lru = Lru(self.pa)
        self.filemap = Filemap(kernel, self.lru, self.nodes)
        self.swapfile = Swapfile(kernel, self.filemap)
        self.swap_state = SwapState(kernel, self.filemap, self.swapfile, self.congestion)
        self.page_io = PageIo(kernel, self.swapfile, self.filemap, self.swap_state)
        self.bios = self.page_io.bios = ScarceBios(kernel, self.slub)
        self.shadow = Shadow(kernel, self.vmstat)
        self.memory = Memory(kernel, self.swap_state, self.swapfile, self.shadow)
        self.processes = Processes(kernel, self.memory)
        self.reclaim = Reclaim(kernel, self.swap_state, self.congestion)
        self.oom = OomKiller(kernel, self.reclaim)
        if kswapd:
            self.reclaim.start()
        self.sched = kernel.sched
        self.world = kernel.world
        self.judge = kernel.judge
        self._ino = 1

    @property
    def task(self):
        return self.sched.current

    def disk_area(self, pages: int, latency_ns: int = 100_000) -> tuple[File, RamDisk]:
        """Return a formatted block device."""
        disk = RamDisk(self, pages, latency_ns)
        disk.blocks[0] = mkswap_header(pages)
        return disk.open(), disk

    def file_area(self, pages: int, first: int = 1000, hole: int | None = None) -> tuple[File, RamDisk]:
        """Return a formatted file on a disk, from block ``first`` on."""
        disk = RamDisk(self)
        disk.blocks[first] = mkswap_header(pages)
        inode = Inode(ino=self._ino, size=pages * PAGE, i_bdev=disk)
        self._ino += 1
        return File(inode, AddressSpace(inode, DiskOps(disk, self, first, hole), BackingDev(self.congestion, "ram"))), disk

    def net_area(self, pages: int) -> tuple[File, FakeNet]:
        """Return a formatted file on a file system without blocks."""
        net = FakeNet(self)
        net.blocks[0] = mkswap_header(pages)
        inode = Inode(ino=self._ino, size=pages * PAGE)
        self._ino += 1
        return File(inode, AddressSpace(inode, net, BackingDev(self.congestion, "net"))), net

    def process(self, pages: int = 16):
        """Make the caller's task a process that may touch ``pages`` pages; return its mm."""
        mm = self.memory.mm_alloc(self.task)
        mm.total_vm = pages
        return mm

    def swap_out(self, vpn: int, task=None) -> int:
        """Push one page of a process out to swap, as reclaim does; return its entry."""
        mm = (task or self.task).mm
        page = mm.ptes[vpn]
        self.isolate(page)
        page.flags &= ~(1 << 32 | 1 << 2)
        sc = self.scan_control()
        for _ in range(3):
            freed, rest = self.reclaim.shrink_list.shrink_page_list([page], sc)
            if freed:
                break
            for kept in rest:
                self.filemap.wait_on_page_writeback(kept)
        else:
            self.reclaim._put_back(rest)
        return mm.ptes[vpn].entry

    def isolate(self, page: Page) -> None:
        """Take a page off its list with a reference, as the isolator does."""
        self.lru.del_page_from_lru(page)
        page.count += 1

    def scan_control(self, gfp=0xD0):
        from kemu.mm.shrink_list import ScanControl

        return ScanControl(gfp)

    def run(self, *tasks, for_ns=None):
        """Let the world go until the tasks are dead."""
        self.world.run(until=lambda: all(task.exit_code is not None for task in tasks), for_ns=for_ns)

    def check(self) -> None:
        """Assert every invariant."""
        for part in (self.kernel, self.pa, self.slub, self.lru, self.swapfile, self.swap_state, self.memory, self.bios):
            part.check()


@contextmanager
def swap_ground(mem=6 * MIB, patches="all", fixes="all", **kwargs) -> Iterator[Swap]:
    """Give a machine that can swap, and shut it down."""
    ground = Swap(mem, patches, fixes, **kwargs)
    try:
        yield ground
    finally:
        ground.kernel.shutdown()
