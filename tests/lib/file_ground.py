"""Test helper: a whole machine with a small file system on a quick disk, and what tests do with files, processes and reclaim."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kemu.fs.flatfs import FlatFs
from kemu.machine import Machine, MachineConfig
from kemu.mm.address_space import AddressSpace
from kemu.mm.page import Page, PG_referenced
from kemu.mm.pte import FilePte, PTE_young
from kemu.mm.shrink_list import ScanControl

MIB = 1 << 20
PAGE = 4096


class FileGround:
    """The machine, its file system, and the caller's task as a process."""

    def __init__(self, mem=8 * MIB, disk_pages=4096, latency_ns=100_000, **config) -> None:
        self.machine = machine = Machine(MachineConfig("test", mem, **config))
        self.disk = machine.add_disk("sda", disk_pages * PAGE, latency_ns=latency_ns)
        self.fs = FlatFs(machine, self.disk)
        self.kernel = machine.kernel
        self.sched = machine.kernel.sched
        self.world = machine.world
        self.judge = machine.kernel.judge
        self.memory = machine.memory
        self.filemap = machine.filemap
        self.vmstat = machine.vmstat
        self.shrink = machine.reclaim.shrink_list

    @property
    def task(self):
        return self.sched.current

    def file(self, name="f", pages=16, *, sparse=False, size=None, fill=True):
        """Make a file whose pages say which they are, and open it."""
        inode = self.fs.create(name, pages * PAGE if size is None else size, sparse=sparse)
        assert not isinstance(inode, int), inode
        if fill and not sparse:
            for index, block in self.fs.maps[inode].items():
                self.disk.blocks[block] = page_bytes(index)
        file = self.fs.open(name)
        assert not isinstance(file, int)
        return file

    def process(self, pages=0, task=None):
        """Make a task (the caller's) a process with so many pages of heap; return its mm."""
        task = task or self.task
        mm = self.memory.mm_alloc(task)
        assert not pages or self.memory.do_brk(task, pages) == 0
        return mm

    def mmap(self, file, pages=None, pgoff=0, vpn=None, *, shared=True, task=None):
        """Map a file into a process; return the first virtual page."""
        pages = -(-file.inode.size // PAGE) if pages is None else pages
        at = self.memory.mmap(task or self.task, file, pages, pgoff, vpn, shared=shared)
        assert at >= 0, at
        return at

    def store(self, vpn, data, task=None):
        """Write a page as user code does; return VM_FAULT_*."""
        return self.memory.write_page(task or self.task, vpn, data)

    def load(self, vpn, task=None):
        """Read a page as user code does."""
        return self.memory.read_page(task or self.task, vpn)

    def cached(self, file, index) -> Page | None:
        """Return the cached page of a file, without a reference."""
        mapping = file.f_mapping
        return mapping.page_tree.lookup(index) if mapping.page_tree is not None else None

    def on_disk(self, file, index) -> bytes:
        """What the disk holds of a page of a file."""
        return self.fs.disk_bytes(file.f_mapping, index)

    def reclaim_page(self, page, gfp=0xD0, tries=1) -> bool:
        """Give one page to shrink_page_list() as the isolator does; tell whether it was freed."""
        self.machine.lru.del_page_from_lru(page)
        page.count += 1
        for _ in range(tries):
            freed, rest = self.shrink.shrink_page_list([page], ScanControl(gfp))
            if freed:
                return True
            for kept in rest:
                self.filemap.wait_on_page_writeback(kept)
        self.machine.reclaim._put_back([page])
        return False

    def forget_use(self, page) -> None:
        """Let a page look unused, wherever it is mapped."""
        page.flags &= ~PG_referenced
        for mm in self.memory.mms.values():
            for pte in mm.ptes.values():
                if isinstance(pte, FilePte) and pte.page is page:
                    pte.flags &= ~PTE_young

    def run(self, *tasks, for_ns=None) -> None:
        """Let the world go until the tasks are dead."""
        self.world.run(until=lambda: all(task.exit_code is not None for task in tasks), for_ns=for_ns)

    def audit(self) -> tuple[int, int]:
        """Compare everything with its shadow."""

        def reader(area, slot):
            return self.disk.blocks.get(area.map_swap_page(slot))

        return self.memory.audit(reader, self.fs.disk_bytes)

    def check(self) -> None:
        """Assert every invariant, and that the counters are exact: all files here are this file system's."""
        self.machine.check()
        self.fs.check()
        counted = [self.filemap.check_mapping(inode.i_mapping) for inode in self.fs.files.values()]
        assert sum(dirty for dirty, _ in counted) == self.vmstat.nr_dirty
        assert sum(mapped for _, mapped in counted) == self.vmstat.nr_file_mapped
        pages = [page for inode in self.fs.files.values() for page in pages_of(inode.i_mapping)]
        assert len(pages) + self.machine.swap_state.total_swapcache_pages == self.vmstat.nr_file_pages

    def leave(self) -> None:
        """End all processes, drop every file, and see that nothing is left."""
        for mm in list(self.memory.mms.values()):
            self.memory.exit_mmap(mm.owner)
        for name in list(self.fs.files):
            assert self.fs.unlink(name) == 0
        vmstat = self.vmstat
        assert (vmstat.nr_file_pages, vmstat.nr_file_mapped, vmstat.nr_dirty, vmstat.nr_writeback) == (0, 0, 0, 0)
        assert vmstat.nr_anon_pages == vmstat.nr_active == vmstat.nr_inactive == 0
        assert self.memory.overcommit.vm_committed_space == 0
        self.check()


def pages_of(mapping: AddressSpace) -> list[Page]:
    """All cached pages of a file."""
    return [page for _, page in mapping.page_tree.items()] if mapping.page_tree is not None else []


def page_bytes(index: int, generation: int = 0, salt: int = 0) -> bytes:
    """Return a page's worth of bytes that tell which page and which write it is."""
    return (b"%08d%08d%08d" % (index, generation, salt)).ljust(64, b".") * (PAGE // 64)


@contextmanager
def file_ground(**options) -> Iterator[FileGround]:
    """Give a machine with files; at the end nothing may be left, unless the test has failed."""
    ground = FileGround(**options)
    try:
        yield ground
        ground.leave()
    finally:
        ground.machine.shutdown()


@contextmanager
def mapped_file_ground() -> Iterator[FileGround]:
    """Give a machine whose process ``mm`` has stored to its heap and, at ``at``, to the file ``f`` that it maps."""
    with file_ground() as g:
        g.mm = g.process(4)
        g.f = g.file(pages=4)
        g.at = g.mmap(g.f)
        g.store(g.at, page_bytes(0, 1))
        g.store(0, page_bytes(0, 2))
        yield g
