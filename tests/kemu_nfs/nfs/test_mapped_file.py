"""Processes map files of an NFS mount: what they store reaches the server, whoever writes it."""

from __future__ import annotations

import random

import pytest

from kemu.kernel.errno import EBUSY
from kemu.mm.page import PG_dirty, PG_private, PG_uptodate, PG_writeback
from kemu.mm.pte import FilePte
from nfs_ground import MIB, SECOND, mounted, page_bytes
from swap_ground import Touch

PAGES = 12


@pytest.fixture
def ground():
    with mounted() as g:
        assert g.machine.memory.mm_alloc(g.sched.current)
        yield g


def make_file(ground, name="data", pages=PAGES, size=None):
    """Make a file on the server whose pages say which they are, and open it."""
    nfsi = ground.mount.create(name)
    size = pages * 4096 if size is None else size
    file = ground.mount.open(name)
    data = b"".join(page_bytes(i) for i in range(pages))[:size]
    assert ground.mount.write(file, 0, data) == size
    assert nfsi.inode.size == size
    return file


def mmap(ground, file, pages=PAGES, **how):
    at = ground.machine.memory.mmap(ground.sched.current, file, pages, **how)
    assert at > 0
    return at


def cached(file, index):
    return file.f_mapping.page_tree.lookup(index)


def leave(ground, *files):
    """Unmap, close, unmount; nothing may be left."""
    machine = ground.machine
    for mm in list(machine.memory.mms.values()):
        machine.memory.exit_mmap(mm.owner)
    for file in files:
        assert ground.mount.close(file) == 0
    assert ground.mount.umount() == 0
    ground.wait_for_calls()
    vmstat = machine.vmstat
    assert (vmstat.nr_file_pages, vmstat.nr_dirty, vmstat.nr_writeback, vmstat.nr_file_mapped) == (0, 0, 0, 0)
    assert not machine.fs_writeback.supers
    assert not ground.stats.write_errors
    machine.check()


def test_a_mapped_file_reads_what_the_server_has(ground):
    file = make_file(ground)
    at = mmap(ground, file)
    assert [ground.read(at + i) for i in (0, 11, 5)] == [page_bytes(0), page_bytes(11), page_bytes(5)]
    assert ground.stats.reads == 2, "the faults read around them: 8 pages and 4"
    ground.check()
    leave(ground, file)


def test_a_store_leaves_a_request_and_no_call(ground):
    file = make_file(ground)
    at = mmap(ground, file)
    writes = ground.stats.writes
    ground.write(at + 2, page_bytes(2, 1))
    page = cached(file, 2)
    assert page.flags & (PG_dirty | PG_private | PG_uptodate) == PG_dirty | PG_private | PG_uptodate
    assert file.private_data.nfsi.npages == 1
    assert ground.machine.vmstat.nr_dirty == 1
    assert ground.stats.writes == writes
    ground.check()
    leave(ground, file)
    assert ground.file_bytes("data")[2 * 4096 : 3 * 4096] == page_bytes(2, 1)


def test_fsync_writes_neighbours_in_one_call(ground):
    file = make_file(ground)
    at = mmap(ground, file)
    for i in range(4, 10):
        ground.write(at + i, page_bytes(i, 1))
    writes = ground.stats.writes
    assert ground.machine.memory.file_io.fsync(file) == 0
    assert ground.stats.writes == writes + 1
    assert ground.file_bytes("data")[4 * 4096 : 10 * 4096] == b"".join(page_bytes(i, 1) for i in range(4, 10))
    assert ground.machine.vmstat.nr_dirty == ground.machine.vmstat.nr_writeback == 0
    assert file.private_data.nfsi.npages == 0
    leave(ground, file)


def test_after_the_write_the_next_store_faults_and_is_written_too(ground):
    file = make_file(ground)
    at = mmap(ground, file)
    ground.write(at, page_bytes(0, 1))
    ground.machine.memory.file_io.fsync(file)
    pte = ground.sched.current.mm.ptes[at]
    assert isinstance(pte, FilePte)
    faults = ground.machine.vmstat.pgfault
    ground.write(at, page_bytes(0, 2))
    assert ground.machine.vmstat.pgfault == faults + 1
    assert ground.sched.current.mm.ptes[at] is pte
    assert cached(file, 0).flags & PG_dirty
    ground.machine.memory.file_io.fsync(file)
    assert ground.file_bytes("data")[:4096] == page_bytes(0, 2)
    leave(ground, file)


def test_pdflush_writes_what_is_old(ground):
    file = make_file(ground)
    at = mmap(ground, file)
    ground.write(at + 1, page_bytes(1, 1))
    ground.run_for(28 * SECOND)
    assert ground.machine.vmstat.nr_dirty == 1
    ground.run_for(8 * SECOND)
    assert ground.machine.vmstat.nr_dirty == 0
    assert ground.file_bytes("data")[4096:8192] == page_bytes(1, 1)
    assert (ground.machine.vmstat.nr_unstable, ground.stats.commits) == (1, 0), "in the server's memory"
    ground.run_for(35 * SECOND)
    assert (ground.machine.vmstat.nr_unstable, ground.stats.commits) == (0, 1), "the inode was dirty for that, as long again"
    assert not ground.machine.dirty_balance._wb_timer.pending
    ground.check()
    leave(ground, file)


def test_reclaim_writes_a_mapped_page_and_the_page_comes_back(ground):
    file = make_file(ground)
    at = mmap(ground, file)
    ground.write(at + 3, page_bytes(3, 1))
    page = cached(file, 3)
    ground.sched.current.mm.ptes[at + 3].flags &= ~(1 << 32)
    ground.push_out(page)
    assert cached(file, 3) is None
    assert at + 3 not in ground.sched.current.mm.ptes
    assert ground.file_bytes("data")[3 * 4096 : 4 * 4096] == page_bytes(3, 1)
    assert ground.read(at + 3) == page_bytes(3, 1)
    ground.check()
    leave(ground, file)


def test_the_last_page_is_written_as_far_as_the_file_goes(ground):
    file = make_file(ground, size=2 * 4096 + 100, pages=3)
    at = mmap(ground, file, 3)
    ground.write(at + 2, page_bytes(2, 7))
    assert ground.machine.memory.file_io.fsync(file) == 0
    data = ground.file_bytes("data")
    assert len(data) == 2 * 4096 + 100
    assert data[2 * 4096 :] == page_bytes(2, 7)[:100]
    leave(ground, file)


def test_two_openers_of_one_page_write_one_after_the_other(ground):
    file = make_file(ground)
    second = ground.mount.open("data")
    at = mmap(ground, file)
    there = mmap(ground, second)
    ground.write(at, page_bytes(0, 1))
    ground.write(there, page_bytes(0, 2))  # another context's request: the first one is flushed
    ground.wait_for_calls()
    assert ground.file_bytes("data")[:4096] == page_bytes(0, 1)
    ground.write(at, page_bytes(0, 3))
    leave(ground, file, second)
    assert ground.file_bytes("data")[:4096] == page_bytes(0, 3)


def test_write_and_store_meet_in_one_page(ground):
    file = make_file(ground)
    at = mmap(ground, file)
    io = ground.machine.memory.file_io
    assert io.write(file, 100, b"x" * 50) == 50
    assert ground.read(at)[90:160] == page_bytes(0)[90:100] + b"x" * 50 + page_bytes(0)[150:160]
    ground.write(at, page_bytes(0, 4))
    assert io.write(file, 4090, b"y" * 12) == 12
    assert io.read(file, 4080, 30) == page_bytes(0, 4)[4080:4090] + b"y" * 12 + page_bytes(1)[6:14]
    leave(ground, file)
    assert ground.file_bytes("data")[4080:4110] == page_bytes(0, 4)[4080:4090] + b"y" * 12 + page_bytes(1)[6:14]


def test_a_mapped_mount_is_busy(ground):
    file = make_file(ground)
    mmap(ground, file)
    assert ground.mount.umount() == -EBUSY
    leave(ground, file)


def test_a_closed_file_lives_as_long_as_it_is_mapped(ground):
    file = make_file(ground)
    at = mmap(ground, file)
    nfsi = file.private_data.nfsi
    assert ground.mount.close(file) == 0
    assert nfsi.open_files
    ground.write(at, page_bytes(0, 6))
    ground.machine.memory.munmap(ground.sched.current, at, PAGES)
    assert file.private_data is None
    assert ground.mount.umount() == 0  # writes what is left
    assert ground.file_bytes("data")[:4096] == page_bytes(0, 6)


def test_a_store_waits_while_the_page_is_on_the_wire(ground):
    file = make_file(ground)
    at = mmap(ground, file)
    ground.write(at, page_bytes(0, 1))
    page = cached(file, 0)
    assert ground.machine.memory.file_io.write_pages.filemap_fdatawrite(file.f_mapping) == 0
    assert page.flags & PG_writeback
    before = ground.sched.now
    ground.write(at, page_bytes(0, 2))
    assert not page.flags & PG_writeback
    assert ground.sched.now > before
    assert page.flags & PG_dirty
    leave(ground, file)
    assert ground.file_bytes("data")[:4096] == page_bytes(0, 2)


class Stores:
    """A program that maps a file and stores to its pages at random, reading some back."""

    def __init__(self, file, pages, steps, seed):
        self.file, self.pages, self.left = file, pages, steps
        self.rng = random.Random(seed)
        self.last = {}
        self.mapped = False

    def step(self):
        if not self.mapped:
            self.mapped = True
            return ("mmap", self.file, 1 << 20, self.pages, 0)
        if not self.left:
            return None
        self.left -= 1
        index = self.rng.randrange(self.pages)
        if self.left % 3 == 0:
            return ("read", (1 << 20) + index)
        self.last[index] = page_bytes(index, self.left)
        return ("write", (1 << 20) + index, self.last[index])


def test_two_processes_with_mapped_files_and_two_that_swap_outlive_the_server():
    """The author's own test, smaller: everything is on one mount, and its server is away for a quarter of an hour."""
    with mounted(mem=8 * MIB) as ground:
        machine = ground.machine
        ground.mount.server.bdi.ra_pages = 8  # 1/16 of the memory, 1/16 of the window
        ground.swapon(2000, "swap")
        pages = 800
        files = [make_file(ground, f"data{n}", pages) for n in range(2)]
        programs = [Stores(file, pages, 900, n) for n, file in enumerate(files)]
        tasks = [machine.processes.spawn(f"mapper{n}", program) for n, program in enumerate(programs)]

        tasks += [machine.processes.spawn(f"anon{n}", Touch(500, 1, seed=n, salt=n)) for n in range(2)]
        ground.run_for(2 * SECOND)
        assert machine.vmstat.pgsteal > 0
        assert all(task.exit_code is None for task in tasks)
        ground.kernel.judge.hold("the server is away")
        ground.nfsd.stop()
        ground.run_for(900 * SECOND)
        assert all(task.exit_code is None for task in tasks)
        assert machine.vmstat.nr_writeback > 0
        ground.nfsd.start()
        ground.kernel.judge.release("the server is away")
        ground.world.run(until=lambda: all(task.exit_code is not None for task in tasks), for_ns=3000 * SECOND)
        assert [task.exit_code for task in tasks] == [0] * 4
        assert ground.kernel.judge.outcome is None, ground.kernel.judge.reason
        assert machine.vmstat.pswpout > 0
        assert machine.vmstat.lost_pages == 0

        for file in files:
            assert machine.memory.file_io.fsync(file) == 0
        contents = {file.f_mapping: ground.file_bytes(f"data{n}") for n, file in enumerate(files)}

        def server(mapping, index):
            return contents[mapping][index * 4096 : (index + 1) * 4096]

        compared, lost = machine.memory.audit(lambda _area, _slot: None, server)
        assert compared > 500
        assert lost == 0
        for program, n in zip(programs, range(2), strict=True):
            for index, expected in program.last.items():
                assert server(files[n].f_mapping, index) == expected
        ground.check()
        assert machine.swapfile.swapoff(ground.mount.files[0]) == 0
        leave(ground, *files)


@pytest.mark.parametrize("patches", ["none", "all,-27", "all,-28", "all,-29", "all,-30", "all,-32", "all,-33", "1-12"])
@pytest.mark.parametrize("fixes", ["all", "none"])
def test_ordinary_files_need_no_patch(patches, fixes):
    with mounted(patches=patches, fixes=fixes) as ground:
        ground.machine.memory.mm_alloc(ground.sched.current)
        file = make_file(ground)
        at = mmap(ground, file)
        for i in (0, 1, 7):
            ground.write(at + i, page_bytes(i, 1))
        ground.sched.current.mm.ptes[at + 7].flags &= ~(1 << 32)
        ground.push_out(cached(file, 7))
        ground.machine.memory.file_io.fsync(file)
        assert ground.read(at + 7) == page_bytes(7, 1)
        ground.check()
        leave(ground, file)
        data = ground.file_bytes("data")
        assert [data[i * 4096 : (i + 1) * 4096] for i in (0, 1, 7)] == [page_bytes(i, 1) for i in (0, 1, 7)]
