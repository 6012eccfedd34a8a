"""Dirty inodes, and writing them (fs/fs_writeback.py)."""

from __future__ import annotations

import pytest

from file_ground import PAGE, file_ground, page_bytes
from kemu.errors import KernelBug
from kemu.kernel.task import PF_FLUSHER
from kemu.kernel.timer import HZ
from kemu.mm.address_space import I_DIRTY, I_DIRTY_PAGES, I_DIRTY_SYNC, I_LOCK, WB_SYNC_ALL, Inode, WritebackControl
from kemu.mm.backing_dev import WRITE, BackingDev
from kemu.mm.page import PG_dirty

SECOND = 10**9


@pytest.fixture
def ground():
    with file_ground() as g:
        g.process()
        g.wb = g.machine.fs_writeback
        g.sb = g.fs.sb
        g.files = [g.file(f"f{n}", pages=4) for n in range(3)]
        g.kernel.sysctl.write("vm.dirty_writeback_centisecs", "0")
        yield g


def dirty(ground, *numbers):
    for n in numbers:
        ground.memory.file_io.write(ground.files[n], 0, page_bytes(0, 1))
        ground.world.run(for_ns=SECOND // HZ)


def names(ground, inodes):
    return [next(n for n, file in enumerate(ground.files) if file.inode is inode) for inode in inodes]


def test_inodes_stand_in_the_order_in_which_they_became_dirty(ground):
    dirty(ground, 1, 0, 1, 2)
    assert names(ground, ground.sb.s_dirty) == [1, 0, 2]
    assert ground.files[0].inode.i_state & I_DIRTY == I_DIRTY_PAGES
    ground.check()


def test_a_writer_makes_them_clean(ground):
    dirty(ground, 0, 1)
    wbc = WritebackControl(10)
    ground.wb.writeback_inodes(wbc)
    assert wbc.nr_to_write == 8
    assert not ground.sb.s_dirty and not ground.sb.s_io
    assert not ground.files[0].inode.i_state
    ground.check()


def test_the_oldest_is_written_first_and_the_rest_waits_on_s_io(ground):
    dirty(ground, 2, 0, 1)
    ground.wb.writeback_inodes(WritebackControl(1))
    assert names(ground, ground.sb.s_io) == [0, 1]
    assert not ground.sb.s_dirty
    dirty(ground, 2)
    ground.wb.writeback_inodes(WritebackControl(1))
    assert names(ground, ground.sb.s_io) == [1, 2]  # who waits longer comes first
    ground.check()


def test_what_became_dirty_after_the_writer_came_is_left(ground):
    dirty(ground, 0, 1)
    inner = ground.fs.writepages

    def slow(mapping, wbc):
        ground.sched.schedule_timeout(2, ("sleep", None))
        ground.memory.file_io.write(ground.files[2], 0, b"x")
        return inner(mapping, wbc)

    ground.fs.writepages = slow
    ground.wb.writeback_inodes(WritebackControl(100))
    assert names(ground, ground.sb.s_dirty) == [2]
    del ground.fs.writepages


def test_the_young_are_spared_by_the_periodic_flush(ground):
    dirty(ground, 0)
    limit = ground.sched.jiffies
    ground.world.run(for_ns=SECOND)
    dirty(ground, 1)
    ground.wb.writeback_inodes(WritebackControl(100, for_kupdate=True, older_than_this=limit))
    assert names(ground, [*ground.sb.s_io, *ground.sb.s_dirty]) == [1]


@pytest.mark.parametrize(("for_kupdate", "order"), [(True, [0, 1]), (False, [1, 0])])
def test_an_inode_that_was_not_written_to_the_end_keeps_its_age_only_for_the_periodic_flush(ground, for_kupdate, order):
    dirty(ground, 0, 1)
    ground.fs.writepages = lambda _mapping, wbc: setattr(wbc, "nr_to_write", 0) or 0
    ground.wb.writeback_inodes(WritebackControl(1, for_kupdate=for_kupdate))
    del ground.fs.writepages
    assert names(ground, [*ground.sb.s_dirty, *ground.sb.s_io] if for_kupdate else [*ground.sb.s_io, *ground.sb.s_dirty]) == order
    assert ground.files[0].inode.i_state & I_DIRTY_PAGES
    ground.check()


def test_a_full_queue_keeps_who_is_not_to_block_away(ground):
    dirty(ground, 0)
    ground.fs.bdi.set_congested(WRITE)
    wbc = WritebackControl(10, nonblocking=True)
    ground.wb.writeback_inodes(wbc)
    assert wbc.encountered_congestion
    assert wbc.nr_to_write == 10
    ground.fs.bdi.clear_congested(WRITE)


def test_who_wants_another_device_writes_nothing_here(ground):
    dirty(ground, 0)
    other = BackingDev(ground.machine.congestion, "other")
    wbc = WritebackControl(10, bdi=other)
    ground.wb.writeback_inodes(wbc)
    assert wbc.nr_to_write == 10
    ground.wb.writeback_inodes(WritebackControl(10, bdi=ground.fs.bdi))
    assert not ground.sb.s_dirty and not ground.sb.s_io


def test_two_flushing_threads_do_not_work_on_one_queue(ground):
    dirty(ground, 0)
    ground.task.flags |= PF_FLUSHER
    ground.fs.bdi.pdflush = True
    ground.wb.writeback_inodes(WritebackControl(10))
    assert ground.vmstat.nr_dirty == 1
    ground.fs.bdi.pdflush = False
    ground.wb.writeback_inodes(WritebackControl(10))
    assert ground.vmstat.nr_dirty == 0
    assert not ground.fs.bdi.pdflush
    ground.task.flags &= ~PF_FLUSHER


def test_who_syncs_waits_for_another_writer_and_who_does_not_writes_pages_only(ground):
    dirty(ground, 0)
    inode = ground.files[0].inode
    inode.i_state |= I_LOCK
    ground.wb.writeback_inodes(WritebackControl(10))
    assert inode.i_list is ground.sb.s_dirty
    assert ground.vmstat.nr_dirty == 0

    def unlock():
        ground.sched.msleep(50)
        inode.i_state &= ~I_LOCK
        ground.sched.wake_up_all(ground.wb._inode_wait)

    ground.sched.spawn("writer", unlock)
    before = ground.sched.now
    ground.wb.writeback_inodes(WritebackControl(10, sync_mode=WB_SYNC_ALL))
    assert ground.sched.now - before >= 50_000_000
    assert inode.i_list is None
    ground.check()


def test_a_page_that_is_dirtied_while_its_inode_is_written_keeps_the_inode_dirty(ground):
    dirty(ground, 0)
    inner = ground.fs.writepages

    def and_again(mapping, wbc):
        result = inner(mapping, wbc)
        ground.memory.file_io.write(ground.files[0], PAGE, b"x")
        return result

    ground.fs.writepages = and_again
    ground.wb.writeback_inodes(WritebackControl(10))
    del ground.fs.writepages
    assert names(ground, ground.sb.s_dirty) == [0]
    ground.check()


def test_the_inode_itself_is_written_when_more_than_pages_changed(ground):
    written = []
    ground.sb.write_inode = lambda inode, wait: written.append((inode, wait)) or 0
    dirty(ground, 0)
    ground.wb.writeback_inodes(WritebackControl(10))
    assert not written
    ground.wb.mark_inode_dirty(ground.files[1].inode, I_DIRTY_SYNC)
    ground.wb.writeback_inodes(WritebackControl(10))
    assert written == [(ground.files[1].inode, False)]


def test_sync_writes_all_and_waits(ground):
    ground.world.run(for_ns=SECOND // HZ)
    while ground.machine.pdflush.pdflush_operation(lambda _: ground.sched.msleep(1000)) == 0:
        pass  # it would take the inodes off their list
    dirty(ground, 0, 1, 2)
    ground.wb.sync()
    assert (ground.vmstat.nr_dirty, ground.vmstat.nr_writeback) == (0, 0)
    assert [ground.on_disk(file, 0) for file in ground.files] == [page_bytes(0, 1)] * 3
    ground.check()


def test_an_inode_of_no_file_system_is_in_nobodys_list(ground):
    inode = Inode(ino=99)
    ground.wb.mark_inode_dirty(inode, I_DIRTY_SYNC)
    assert inode.i_list is None


@pytest.mark.parametrize(("what", "left"), [(1, [1]), (2, [0, 1]), (3, [1])])
def test_drop_caches_drops_what_is_clean_and_nobodys(ground, what, left):
    ground.memory.file_io.read(ground.files[0], 0, PAGE)
    dirty(ground, 1)
    assert ground.kernel.sysctl.write("vm.drop_caches", str(what)) == 0
    assert [n for n in range(3) if ground.files[n].f_mapping.nrpages] == left
    assert ground.cached(ground.files[1], 0).flags & PG_dirty
    ground.check()


def test_a_mapped_page_is_not_dropped(ground):
    at = ground.mmap(ground.files[0])
    ground.load(at)
    ground.kernel.sysctl.write("vm.drop_caches", "1")
    assert ground.cached(ground.files[0], 0) is not None


def test_a_file_system_with_dirty_inodes_is_not_forgotten(ground):
    dirty(ground, 0)
    with pytest.raises(KernelBug, match="dirty inodes"):
        ground.wb.remove_super(ground.sb)


def test_check_sees_an_inode_on_no_list(ground):
    dirty(ground, 0)
    inode = ground.files[0].inode
    held, inode.i_list = inode.i_list, None
    with pytest.raises(KernelBug, match="nobody would write it"):
        ground.wb.check()
    inode.i_list = held


def test_check_sees_a_wrong_counter(ground):
    dirty(ground, 0)
    ground.vmstat.nr_dirty -= 1
    with pytest.raises(KernelBug, match="vmstat counts"):
        ground.wb.check()
    ground.vmstat.nr_dirty += 1


def test_an_inode_whose_pages_were_given_back_goes_behind_the_others(ground):
    dirty(ground, 0, 1)
    page = ground.cached(ground.files[0], 0)

    def give_back(mapping, wbc):
        if mapping is ground.files[0].f_mapping:
            ground.filemap.clear_page_dirty_for_io(page)
            ground.filemap.redirty_page_for_writepage(wbc, page)
        wbc.nr_to_write = 0
        return 0

    ground.fs.writepages = give_back
    limit = ground.sched.jiffies
    wbc = WritebackControl(1, for_kupdate=True, older_than_this=limit)
    ground.wb.writeback_inodes(wbc)
    del ground.fs.writepages
    assert wbc.pages_skipped == 1
    dirty(ground, 2)
    assert names(ground, ground.sb.s_io) == [1]
    assert names(ground, ground.sb.s_dirty) == [0, 2]
    ground.check()
