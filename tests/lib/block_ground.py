"""Test helper: a machine with disks, and bios that tell how they ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kemu.block.disk import Disk
from kemu.machine import Machine, MachineConfig
from kemu.mm.backing_dev import READ, WRITE
from kemu.mm.gfp import GFP_KERNEL, GFP_NOIO

MIB = 1 << 20
PAGE = 4096
SECTORS = 8  # of a page
MS = 1_000_000


class Ground:
    """A machine with one disk, sda, whose requests take 1 ms and a little."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.kernel = machine.kernel
        self.sched = machine.kernel.sched
        self.world = machine.world
        self.bios = machine.bios
        self.slub = machine.slub
        self.disk: Disk = machine.add_disk("sda", 16 * MIB, latency_ns=MS, bandwidth=10**9)
        self.ended: list[tuple[int, int]] = []  # (sector, error), in the order of the ends

    def page(self, fill: bytes = b"x"):
        page = self.machine.page_alloc.alloc_page(GFP_KERNEL)
        page.contents = fill * (PAGE // len(fill))
        return page

    def bio(self, sector, page=None, disk=None, vecs=1, gfp=GFP_NOIO):
        """Return a bio of ``vecs`` pages that notes its end and goes."""
        bio = self.bios.bio_alloc(gfp, vecs)
        bio.bi_bdev = disk or self.disk
        bio.bi_sector = sector
        for _ in range(vecs):
            bio.add_page(page or self.page())
        bio.bi_end_io = self.end
        return bio

    def end(self, bio, error):
        self.ended.append((bio.bi_sector, error))
        self.bios.bio_put(bio)

    def write(self, sector, page=None, **kwargs):
        self.bios.submit_bio(WRITE, self.bio(sector, page, **kwargs))

    def read(self, sector, page=None, **kwargs):
        self.bios.submit_bio(READ, self.bio(sector, page, **kwargs))

    def settle(self, ms=1000):
        self.world.run(for_ns=ms * MS)


@contextmanager
def block_ground(mem=8 * MIB, patches="all", **kwargs) -> Iterator[Ground]:
    """Give the machine; afterwards every invariant holds, and the last disk takes all of the block layer's memory with it."""
    with Machine(MachineConfig(mem=mem, patches=patches, **kwargs)) as machine:
        ground = Ground(machine)
        yield ground
        machine.check()
        if not ground.bios.in_flight:
            for disk in list(machine.disks.values()):
                disk.resume()
                disk.unplug()
            ground.settle()
            for disk in list(machine.disks.values()):
                machine.remove_disk(disk)
            assert not [name for name in machine.slub.caches if name.startswith(("bio", "blkdev"))]
            machine.check()
