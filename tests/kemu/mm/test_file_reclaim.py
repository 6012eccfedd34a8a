"""What reclaim does with pages of files (mm/shrink_list.py): the outcomes of pageout(), and who loses data."""

from __future__ import annotations

import pytest

from file_ground import MIB, PAGE, file_ground, page_bytes
from kemu.kernel.errno import EIO, ENOSPC
from kemu.kernel.task import PF_SWAPWRITE
from kemu.mm.address_space import AOP_WRITEPAGE_ACTIVATE, AS_EIO, AS_ENOSPC
from kemu.mm.backing_dev import WRITE
from kemu.mm.gfp import GFP_KERNEL, GFP_NOFS
from kemu.mm.page import PG_active, PG_dirty, PG_private, PG_reclaim, PG_referenced, PG_writeback
from kemu.mm.shrink_list import PAGE_ACTIVATE, PAGE_CLEAN, PAGE_KEEP, PAGE_SUCCESS

SECOND = 10**9


@pytest.fixture
def ground():
    with file_ground() as g:
        g.process()
        g.f = g.file(pages=8)
        g.io = g.memory.file_io
        yield g


def clean_page(ground, index=0):
    ground.io.read(ground.f, index * PAGE, PAGE)
    page = ground.cached(ground.f, index)
    page.flags &= ~PG_referenced
    return page


def dirty_page(ground, index=0):
    ground.io.write(ground.f, index * PAGE, page_bytes(index, 1))
    page = ground.cached(ground.f, index)
    page.flags &= ~PG_referenced
    return page


def pageout(ground, page):
    """Call pageout() as shrink_page_list() does: page locked and isolated."""
    ground.machine.lru.del_page_from_lru(page)
    page.count += 1
    ground.filemap.lock_page(page)
    outcome = ground.shrink.pageout(page, page.mapping)
    if outcome != PAGE_SUCCESS:
        ground.filemap.unlock_page(page)
    return outcome


def put_back(ground, page):
    ground.machine.reclaim._put_back([page])


def test_a_clean_page_goes(ground):
    page = clean_page(ground)
    before = ground.vmstat.nr_file_pages
    assert ground.reclaim_page(page)
    assert ground.cached(ground.f, 0) is None
    assert ground.vmstat.nr_file_pages == before - 1


def test_a_dirty_page_is_written_first_and_goes_when_that_is_over(ground):
    page = dirty_page(ground)
    assert not ground.reclaim_page(page)
    page.flags &= ~PG_referenced
    assert ground.on_disk(ground.f, 0) == page_bytes(0, 1)
    assert ground.reclaim_page(page)
    assert ground.io.read(ground.f, 0, PAGE) == page_bytes(0, 1)


def test_a_page_on_its_way_out_is_the_next_to_be_looked_at(ground):
    page = dirty_page(ground)
    assert pageout(ground, page) == PAGE_SUCCESS
    assert page.flags & (PG_reclaim | PG_writeback) == PG_reclaim | PG_writeback
    put_back(ground, page)
    other = clean_page(ground, 7)
    ground.filemap.wait_on_page_writeback(page)
    zone = page.zone
    assert next(iter(zone.inactive)) is page
    assert not page.flags & PG_reclaim
    assert other.zone is zone
    assert ground.vmstat.pgrotated == 1


def test_a_mapped_page_is_unmapped_first(ground):
    at = ground.mmap(ground.f)
    ground.load(at)
    page = ground.cached(ground.f, 0)
    ground.forget_use(page)
    assert ground.reclaim_page(page)
    assert at not in ground.task.mm.ptes
    assert ground.vmstat.nr_file_mapped == 0
    ground.check()


def test_a_mapped_page_that_was_used_is_activated(ground):
    at = ground.mmap(ground.f)
    ground.load(at)
    page = ground.cached(ground.f, 0)
    assert not ground.reclaim_page(page)
    assert page.flags & PG_active
    assert at in ground.task.mm.ptes


def test_what_was_stored_is_written_before_the_page_goes(ground):
    at = ground.mmap(ground.f)
    ground.store(at, page_bytes(0, 5))
    page = ground.cached(ground.f, 0)
    ground.forget_use(page)
    assert ground.reclaim_page(page, tries=3)
    assert ground.on_disk(ground.f, 0) == page_bytes(0, 5)
    assert ground.load(at) == page_bytes(0, 5)
    ground.check()


def test_a_page_that_two_processes_map_leaves_both(ground):
    at = ground.mmap(ground.f)
    other = ground.sched.spawn("other", lambda: None)
    ground.process(task=other)
    there = ground.mmap(ground.f, task=other)
    ground.store(at, page_bytes(0, 5))
    ground.load(there, task=other)
    page = ground.cached(ground.f, 0)
    ground.forget_use(page)
    assert ground.reclaim_page(page, tries=3)
    assert ground.load(there, task=other) == page_bytes(0, 5)


# -- the outcomes of pageout()


def test_keep_when_somebody_else_refers_to_the_page(ground):
    page = dirty_page(ground)
    page.count += 1
    assert pageout(ground, page) == PAGE_KEEP
    page.count -= 1
    assert page.flags & PG_dirty
    put_back(ground, page)


def test_private_data_are_one_more_reference(ground):
    page = dirty_page(ground)
    page.count += 1
    page.flags |= PG_private
    assert pageout(ground, page) == PAGE_SUCCESS
    page.flags &= ~PG_private
    page.count -= 1
    ground.filemap.wait_on_page_writeback(page)
    put_back(ground, page)


def test_keep_when_the_queue_is_full_unless_one_may_write_to_a_full_queue(ground):
    page = dirty_page(ground)
    ground.fs.bdi.set_congested(WRITE)
    assert pageout(ground, page) == PAGE_KEEP
    put_back(ground, page)
    ground.task.flags |= PF_SWAPWRITE
    assert pageout(ground, page) == PAGE_SUCCESS
    ground.task.flags &= ~PF_SWAPWRITE
    ground.fs.bdi.clear_congested(WRITE)
    ground.filemap.wait_on_page_writeback(page)
    put_back(ground, page)


def test_clean_when_somebody_has_written_it_meanwhile(ground):
    page = dirty_page(ground)
    ground.io.fsync(ground.f)
    assert pageout(ground, page) == PAGE_CLEAN
    put_back(ground, page)


def test_activate_when_the_file_system_says_so(ground):
    page = dirty_page(ground)
    ground.fs.writepage = lambda page, _wbc: ground.filemap.set_page_dirty(page) and AOP_WRITEPAGE_ACTIVATE
    assert pageout(ground, page) == PAGE_ACTIVATE
    assert not page.flags & PG_reclaim
    del ground.fs.writepage
    put_back(ground, page)


@pytest.mark.parametrize("gfp", [GFP_NOFS, 0x10])
def test_a_page_of_a_file_is_not_written_by_who_may_not_enter_file_systems(ground, gfp):
    page = dirty_page(ground)
    assert not ground.reclaim_page(page, gfp=gfp)
    assert page.flags & PG_dirty
    assert ground.vmstat.nr_writeback == 0
    assert not ground.reclaim_page(page, gfp=GFP_KERNEL)
    assert not page.flags & PG_dirty


# -- the one that loses data


@pytest.mark.parametrize(("error", "flag"), [(-EIO, AS_EIO), (-ENOSPC, AS_ENOSPC)])
def test_a_page_whose_writepage_fails_counts_as_written_and_only_fsync_tells(ground, error, flag):
    at = ground.mmap(ground.f)
    ground.store(at, page_bytes(0, 5))
    page = ground.cached(ground.f, 0)
    ground.forget_use(page)

    def fail(page, _wbc):
        ground.filemap.unlock_page(page)
        return error

    ground.fs.writepage = fail
    assert ground.reclaim_page(page)  # clean, not under writeback: it goes
    del ground.fs.writepage
    assert ground.f.f_mapping.flags == flag
    assert ground.io.fsync(ground.f) == error
    assert ground.load(at) == page_bytes(0)
    assert ground.judge.outcome == "data_loss"


def test_a_write_that_the_disk_fails_leaves_a_clean_page_and_a_note(ground):
    page = dirty_page(ground)
    ground.disk.fail(0, 10**6)
    assert not ground.reclaim_page(page)
    assert not page.flags & PG_dirty
    assert ground.f.f_mapping.flags == AS_EIO
    ground.disk.heal()
    assert ground.io.fsync(ground.f) == -EIO


def test_a_full_disk_is_noticed_by_reclaim_and_told_by_fsync():
    with file_ground(disk_pages=64) as ground:
        ground.process()
        file = ground.file("s", 4, sparse=True)
        ground.file("rest", ground.fs.free_blocks, fill=False)
        at = ground.mmap(file)
        ground.store(at, page_bytes(0, 1))
        page = ground.cached(file, 0)
        ground.forget_use(page)
        ground.reclaim_page(page)
        assert file.f_mapping.flags & AS_ENOSPC
        assert ground.memory.file_io.fsync(file) == -ENOSPC


# -- under pressure


def test_reading_a_file_larger_than_memory_reclaims_its_own_pages():
    with file_ground(mem=12 * MIB, disk_pages=8192) as ground:
        ground.process()
        file = ground.file(pages=5000)
        for i in range(5000):
            assert ground.memory.file_io.read(file, i * PAGE, PAGE) == page_bytes(i)
        assert ground.vmstat.pgsteal > 500
        assert ground.vmstat.oom_kills == 0
        ground.check()


def store_to_everything(ground):
    """Let two processes store to a file larger than memory; return the file."""
    file = ground.file(pages=3000)

    class Stores:
        def __init__(self, first):
            self.at, self.first = -2, first

        def step(self):
            self.at += 1
            if self.at < 0:
                return ("mmap", file, 0, 3000, 0)
            index = (self.first + self.at * 7) % 3000
            return ("write", index, page_bytes(index, self.at)) if self.at < 1500 else None

    tasks = [ground.machine.processes.spawn(f"p{n}", Stores(1500 * n)) for n in range(2)]
    ground.run(*tasks, for_ns=1000 * SECOND)
    assert [task.exit_code for task in tasks] == [0, 0]
    return file


@pytest.mark.parametrize("cpus", [1, 2])
def test_processes_that_store_to_more_than_memory_are_served_and_nothing_is_lost(cpus):
    with file_ground(mem=12 * MIB, disk_pages=8192, cpus=cpus) as ground:
        file = store_to_everything(ground)
        ground.check()
        assert ground.vmstat.pgsteal > 500
        assert ground.memory.file_io.fsync(file) == 0
        compared, lost = ground.audit()
        assert compared > 2500
        assert lost == 0


def test_the_same_happens_on_both_vehicles():
    histories = []
    for vehicle in ("greenlet", "threads"):
        with file_ground(mem=12 * MIB, disk_pages=8192, vehicle=vehicle) as ground:
            store_to_everything(ground)
            histories.append((ground.world.now, ground.world.history.hexdigest(), ground.vmstat.as_dict()))
    assert histories[0] == histories[1]


# -- for the judge


def test_the_judge_knows_which_pages_could_go(ground):
    may_go = ground.shrink.may_go
    at = ground.mmap(ground.f)
    ground.load(at)
    mapped = ground.cached(ground.f, 0)
    assert may_go(mapped)
    mapped.count += 1  # somebody holds it
    assert not may_go(mapped)
    mapped.count -= 1
    page = dirty_page(ground, 1)
    page.flags |= PG_private
    page.count += 1
    assert may_go(page)  # it can be written, and its private data go with that
    page.flags &= ~PG_dirty
    assert not may_go(page)
    page.flags |= PG_dirty
    page.flags &= ~PG_private
    page.count -= 1
