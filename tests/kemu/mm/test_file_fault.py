"""Faults on mapped files (mm/file_fault.py)."""

from __future__ import annotations

import pytest

from file_ground import PAGE, file_ground, page_bytes
from kemu.kernel.errno import EIO
from kemu.mm.page import PG_active, PG_dirty, PG_lru, PG_referenced, PG_uptodate
from kemu.mm.pte import PTE_dirty, PTE_write, PTE_young
from kemu.mm.vm_fault import VM_FAULT_SIGBUS


@pytest.fixture
def ground():
    with file_ground() as g:
        g.process()
        yield g


def pte_of(ground, vpn):
    return ground.task.mm.ptes[vpn]


def test_a_read_maps_read_only(ground):
    at = ground.mmap(ground.file())
    ground.load(at)
    assert pte_of(ground, at).flags == PTE_young
    assert ground.vmstat.nr_dirty == 0


def test_a_store_after_a_read_faults_once_and_makes_the_page_dirty(ground):
    file = ground.file()
    at = ground.mmap(file)
    ground.load(at)
    before = ground.vmstat.pgfault
    ground.store(at, page_bytes(0, 1))
    ground.store(at, page_bytes(0, 2))
    assert ground.vmstat.pgfault == before + 1
    assert pte_of(ground, at).flags == PTE_young | PTE_dirty | PTE_write
    assert ground.cached(file, 0).flags & PG_dirty
    assert ground.vmstat.nr_dirty == 1
    ground.check()


def test_a_store_to_an_untouched_page_faults_once(ground):
    file = ground.file()
    at = ground.mmap(file)
    ground.store(at, page_bytes(0, 1))
    assert ground.vmstat.pgfault == 1
    assert ground.vmstat.nr_dirty == 1
    assert ground.cached(file, 0).contents == page_bytes(0, 1)


def test_a_fault_that_reads_is_major_and_one_that_finds_is_minor(ground):
    at = ground.mmap(ground.file(pages=4))
    ground.load(at)
    assert (ground.task.mm.maj_flt, ground.task.mm.min_flt) == (1, 0)
    ground.load(at + 1)  # read around the first one
    assert (ground.task.mm.maj_flt, ground.task.mm.min_flt) == (1, 1)
    assert ground.vmstat.pgmajfault == 1


def test_a_fault_reads_a_window_around_its_page(ground):
    file = ground.file(pages=100)
    at = ground.mmap(file)
    ground.load(at + 50)
    cached = [index for index in range(100) if ground.cached(file, index) is not None]
    assert cached == list(range(34, 66))


def test_a_cached_page_is_not_read_again(ground):
    file = ground.file()
    ground.memory.file_io.read(file, 0, 16 * PAGE)
    reads = ground.disk.reads
    at = ground.mmap(file)
    assert ground.load(at + 3) == page_bytes(3)
    assert ground.disk.reads == reads


def test_a_page_that_cannot_be_read_is_sigbus_and_not_uptodate(ground):
    file = ground.file()
    at = ground.mmap(file)
    ground.disk.fail(0, 10**6)
    assert ground.load(at) is None
    assert ground.memory.last_error & VM_FAULT_SIGBUS
    assert not ground.cached(file, 0).flags & PG_uptodate
    ground.disk.heal()
    assert ground.load(at) == page_bytes(0)  # the next one tries again
    ground.check()


def test_a_hole_reads_as_zeros_and_a_store_gives_it_a_block_when_written(ground):
    file = ground.file(pages=8, sparse=True)
    at = ground.mmap(file)
    assert ground.load(at + 3) == bytes(PAGE)
    ground.store(at + 3, page_bytes(3, 1))
    assert ground.fs.bmap(file.f_mapping, 3) == 0
    assert ground.memory.file_io.fsync(file) == 0
    assert ground.fs.bmap(file.f_mapping, 3) != 0
    assert ground.on_disk(file, 3) == page_bytes(3, 1)


def test_the_use_of_a_page_is_noted(ground):
    file = ground.file(pages=2)
    at = ground.mmap(file)
    ground.load(at)
    page = ground.cached(file, 0)
    assert page.flags & (PG_lru | PG_active | PG_referenced) == PG_lru | PG_referenced


def test_a_store_waits_when_too_much_is_dirty(ground):
    asked = []
    ground.machine.dirty_balance.balance_dirty_pages = asked.append
    ground.machine.dirty_balance.ratelimit_pages = 3
    file = ground.file()
    at = ground.mmap(file)
    for i in range(6):
        ground.store(at + i, page_bytes(i, 1))
        ground.store(at + i, page_bytes(i, 2))  # dirty already: not counted
    assert asked == [file.f_mapping] * 2


def test_a_file_system_that_wants_to_know_is_told_before_a_store(ground):
    told = []
    ground.fs.page_mkwrite = lambda vma, page: told.append((vma.file, page.word_d)) or 0
    file = ground.file()
    at = ground.mmap(file)
    ground.load(at)
    assert not told
    ground.store(at, page_bytes(0, 1))
    ground.store(at + 1, page_bytes(1, 1))
    assert told == [(file, 0), (file, 1)]


@pytest.mark.parametrize("read_first", [True, False])
def test_a_file_system_may_refuse_a_store(ground, read_first):
    ground.fs.page_mkwrite = lambda _vma, _page: -EIO
    file = ground.file()
    at = ground.mmap(file)
    if read_first:
        ground.load(at)
    assert ground.store(at, page_bytes(0, 1)) == VM_FAULT_SIGBUS
    assert ground.vmstat.nr_dirty == 0
    assert ground.load(at) == page_bytes(0)
    ground.check()


def test_writing_a_page_takes_the_right_to_store_and_the_next_store_asks_again(ground):
    file = ground.file()
    at = ground.mmap(file)
    ground.store(at, page_bytes(0, 1))
    ground.memory.file_io.fsync(file)
    assert pte_of(ground, at).flags == PTE_young
    assert ground.on_disk(file, 0) == page_bytes(0, 1)
    ground.store(at, page_bytes(0, 2))
    assert ground.vmstat.nr_dirty == 1
    ground.memory.file_io.fsync(file)
    assert ground.on_disk(file, 0) == page_bytes(0, 2)


def test_a_page_may_be_stored_to_while_it_is_written_and_is_written_again(ground):
    file = ground.file()
    at = ground.mmap(file)
    ground.store(at, page_bytes(0, 1))
    ground.memory.file_io.write_pages.filemap_fdatawrite(file.f_mapping)
    assert ground.vmstat.nr_writeback == 1
    ground.store(at, page_bytes(0, 2))
    assert (ground.vmstat.nr_writeback, ground.vmstat.nr_dirty) == (1, 1)
    ground.check()
    ground.memory.file_io.fsync(file)
    assert ground.on_disk(file, 0) == page_bytes(0, 2)


def test_a_store_and_who_cleans_the_page_do_not_miss_each_other(ground):
    """A writer has the page locked and has looked at our entry already; we wait for it, and the page is dirty afterwards."""
    file = ground.file()
    at = ground.mmap(file)
    ground.load(at)
    page = ground.cached(file, 0)
    ground.filemap.lock_page(page)
    until = ground.sched.now + 1_000_000
    ground.world.post(until, lambda _: ground.filemap.unlock_page(page), None)
    ground.store(at, page_bytes(0, 1))
    assert ground.sched.now >= until
    assert page.flags & PG_dirty
    assert ground.memory.file_fault.between == 0
    ground.check()


def test_a_truncated_page_leaves_every_page_table(ground):
    file = ground.file(pages=8)
    at = ground.mmap(file)
    ground.load(at + 7)
    ground.store(at + 6, page_bytes(6, 1))
    assert ground.fs.truncate("f", 4 * PAGE) == 0
    assert ground.load(at + 7) is None
    assert ground.memory.last_error & VM_FAULT_SIGBUS
    assert ground.vmstat.nr_dirty == 0
    assert ground.load(at + 3) == page_bytes(3)
    ground.check()


def test_a_private_copy_outlives_a_truncate(ground):
    file = ground.file(pages=8)
    at = ground.mmap(file, shared=False)
    ground.store(at + 7, page_bytes(7, 1))
    ground.fs.truncate("f", 0)
    assert ground.load(at + 7) == page_bytes(7, 1)


def test_a_file_that_is_cut_while_a_fault_waits_for_its_page_is_sigbus(ground):
    file = ground.file(pages=8)
    at = ground.mmap(file)
    ground.memory.file_io.read(file, 0, PAGE)
    page = ground.cached(file, 0)
    ground.filemap.lock_page(page)

    def cut(_):
        file.inode.size = 0  # its pages go afterwards
        ground.filemap.unlock_page(page)

    ground.world.post(ground.sched.now + 1_000_000, cut, None)
    assert ground.load(at) is None
    assert ground.memory.last_error & VM_FAULT_SIGBUS
    assert page.mapcount == 0
    file.inode.size = 8 * PAGE
