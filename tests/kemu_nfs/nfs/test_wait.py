"""Waiting for writes: of a file, a range, a page; giving them up; what fsync and close return."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EIO, ENOMEM, ENOSPC
from kemu.mm.address_space import I_DIRTY_PAGES, WritebackControl
from kemu.mm.page import PG_dirty, PG_private
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_IO, NFS3ERR_NOSPC, NFS3PROC_COMMIT, NFS3PROC_WRITE
from nfs_ground import PAGE, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.mount.create("f")
        g.file = g.mount.open("f")
        g.nfsi = g.file.private_data.nfsi
        g.write_half = g.mount.ops.write
        g.wait = g.write_half.wait
        yield g
        g.wait_for_calls()
        g.check()
        g.write_half.commit.check(g.nfsi)


def dirty(ground, *indices, file=None, generation=0):
    for index in indices:
        assert ground.mount.write_buffered(file or ground.file, index * PAGE, page_bytes(index, generation)) == PAGE


def locked(ground, index=0):
    return ground.machine.filemap.find_lock_page(ground.file.f_mapping, index)


def release(ground, page):
    ground.machine.filemap.unlock_page(page)
    ground.machine.page_alloc.put_page(page)


def has(ground, *indices):
    data = ground.file_bytes("f")
    return [data[i * PAGE : (i + 1) * PAGE] == page_bytes(i) for i in indices]


# -- a file


def test_a_file_is_written_and_committed(ground):
    dirty(ground, *range(20))
    assert ground.wait.nfs_wb_all(ground.nfsi) == 0
    assert all(has(ground, *range(20)))
    assert (ground.nfsi.npages, ground.machine.vmstat.nr_unstable) == (0, 0)
    assert ground.stats.commits == 1


def test_without_a_commit_the_data_is_at_the_server_and_no_more(ground):
    dirty(ground, 0, 1)
    assert ground.wait.nfs_wb_nocommit(ground.nfsi) == 0
    assert all(has(ground, 0, 1))
    assert (ground.nfsi.ncommit, ground.stats.commits) == (2, 0)


def test_a_page_under_writeback_and_dirty_again_is_written_twice(ground):
    dirty(ground, 0)
    ground.mount.ops.writepages(ground.file.f_mapping, WritebackControl(10))
    page = ground.file.f_mapping.page_tree.lookup(0)
    page.contents = page_bytes(0)
    ground.machine.filemap.set_page_dirty_nobuffers(page)
    writes = ground.stats.writes
    assert ground.wait.nfs_wb_all(ground.nfsi) == 0
    assert ground.stats.writes >= writes
    assert not page.flags & PG_dirty


def test_nothing_to_write_is_no_call(ground):
    calls = ground.nfsd.server.calls
    assert ground.wait.nfs_wb_all(ground.nfsi) == 0
    assert ground.nfsd.server.calls == calls


def test_a_range_leaves_the_rest(ground):
    dirty(ground, *range(6))
    assert ground.wait.nfs_sync_mapping_range(ground.nfsi, 2 * PAGE, 4 * PAGE - 1, 0) == 0
    assert [has(ground, i)[0] for i in range(6)][2:4] == [True, True]
    assert ground.machine.vmstat.nr_dirty == 4
    assert ground.nfsi.npages == 4


def test_without_memory_the_inode_stays_dirty_for_pdflush(ground):
    dirty(ground, 0)
    ground.mount.modules.writedata_alloc = lambda: None
    assert ground.wait.nfs_wb_all(ground.nfsi) == -ENOMEM
    assert ground.nfsi.inode.i_state & I_DIRTY_PAGES
    del ground.mount.modules.writedata_alloc
    assert ground.wait.nfs_wb_all(ground.nfsi) == 0


def test_without_memory_for_the_commit_too(ground):
    dirty(ground, 0)
    ground.mount.modules.commit_alloc = lambda: None
    assert ground.wait.nfs_wb_all(ground.nfsi) == -ENOMEM
    assert ground.nfsi.ncommit == 1
    del ground.mount.modules.commit_alloc
    assert ground.wait.nfs_wb_all(ground.nfsi) == 0


# -- errors, and who is told


def test_an_error_is_told_to_the_opening_that_wrote_once(ground):
    other = ground.mount.open("f")
    dirty(ground, 0)
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_NOSPC)
    assert ground.wait.nfs_do_fsync(other.private_data) == 0, "it has written nothing"
    assert ground.wait.nfs_do_fsync(ground.file.private_data) == -ENOSPC
    assert ground.wait.nfs_do_fsync(ground.file.private_data) == 0


def test_an_error_of_a_write_that_nobody_waited_for_waits_for_fsync(ground):
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_IO)
    dirty(ground, 0)
    ground.mount.ops.writepages(ground.file.f_mapping, WritebackControl(10))
    ground.wait_for_calls()
    assert ground.file.private_data.error == -EIO
    assert ground.machine.memory.file_io.fsync(ground.file) == -EIO
    assert ground.machine.memory.file_io.fsync(ground.file) == 0


def test_close_tells_what_nobody_asked_for(ground):
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_IO)
    file = ground.mount.open("f")
    dirty(ground, 0, file=file)
    assert ground.mount.close(file) == -EIO


def test_an_error_of_the_commit_is_told_like_one_of_the_write(ground):
    ground.faults.error(NFS3PROC_COMMIT, NFS3ERR_IO)
    dirty(ground, 0)
    assert ground.wait.nfs_do_fsync(ground.file.private_data) == -EIO


# -- a page


def test_a_page_is_written_committed_and_free_of_its_request(ground):
    dirty(ground, 0, 5)
    page = locked(ground)
    assert ground.wait.nfs_wb_page(ground.nfsi, page) == 0
    assert not page.flags & (PG_dirty | PG_private)
    assert has(ground, 0) == [True]
    assert ground.stats.commits == 1
    assert ground.nfsi.npages == 1, "the other page was not its business"
    release(ground, page)


def test_a_page_that_waits_for_a_commit_takes_the_others_along(ground):
    dirty(ground, 0, 5)
    ground.wait.nfs_wb_nocommit(ground.nfsi)
    page = locked(ground)
    assert ground.wait.nfs_wb_page(ground.nfsi, page) == 0
    assert (ground.nfsi.npages, ground.stats.commits) == (0, 1)
    release(ground, page)


def test_a_page_whose_write_was_lost_is_written_until_it_is_safe(ground):
    dirty(ground, 0)
    ground.wait.nfs_wb_nocommit(ground.nfsi)
    ground.nfsd.server.tree.crash(True)
    ground.nfsd.server.nfs.reboot()
    page = locked(ground)
    assert ground.wait.nfs_wb_page(ground.nfsi, page) == 0
    assert has(ground, 0) == [True]
    assert ground.stats.rewrites == 1
    release(ground, page)


def test_a_clean_page_costs_no_call(ground):
    dirty(ground, 0)
    ground.mount.fsync(ground.file)
    calls = ground.nfsd.server.calls
    page = locked(ground)
    assert ground.wait.nfs_wb_page(ground.nfsi, page) == 0
    assert ground.nfsd.server.calls == calls
    release(ground, page)


def test_an_idle_request_of_a_clean_page_is_flushed(ground):
    dirty(ground, 0)
    page = locked(ground)
    ground.machine.filemap.clear_page_dirty_for_io(page)
    assert ground.wait.nfs_wb_page(ground.nfsi, page) == 0
    assert has(ground, 0) == [True]
    release(ground, page)


def test_a_swap_in_waits_for_the_write_of_its_slot_alone(ground):
    ground.swapon()
    ground.process()
    for vpn in range(4):
        ground.write(vpn, page_bytes(vpn))
    ground.swap_out(0)
    ground.wire.cut()
    for vpn in (1, 2, 3):
        ground.pageout(vpn)
    swap_file = ground.machine.swapfile.areas[0].swap_file.private_data.nfsi
    ground.spawn(ground.wire.mend)
    assert ground.wait._nfs_wait_on_requests(swap_file, 1, 1) == 0, "slot 1 is on the server"
    assert ground.stats.writes_outstanding == 3
    ground.wire.mend()


# -- giving up


def test_a_dirty_page_that_is_cut_off_is_forgotten(ground):
    dirty(ground, 0)
    page = locked(ground)
    assert ground.wait.nfs_wb_page_cancel(ground.nfsi, page) == 0
    assert not page.flags & (PG_dirty | PG_private)
    assert (ground.nfsi.npages, ground.machine.vmstat.nr_dirty, ground.stats.writes) == (0, 0, 0)
    release(ground, page)


def test_a_page_that_waits_for_a_commit_is_forgotten_too(ground):
    dirty(ground, 0, 1)
    ground.wait.nfs_wb_nocommit(ground.nfsi)
    page = locked(ground)
    assert ground.wait.nfs_wb_page_cancel(ground.nfsi, page) == 0
    assert (ground.nfsi.npages, ground.nfsi.ncommit, ground.stats.commits) == (1, 1, 0)
    release(ground, page)


def test_a_write_under_way_is_waited_for(ground):
    dirty(ground, 0)
    page = locked(ground)
    ground.machine.filemap.clear_page_dirty_for_io(page)
    ground.write_half.nfs_writepage_locked(page, WritebackControl(for_reclaim=True))
    assert ground.stats.writes_outstanding == 1
    assert ground.wait.nfs_wb_page_cancel(ground.nfsi, page) == 0
    assert (ground.stats.writes_outstanding, ground.nfsi.npages) == (0, 0)
    release(ground, page)


def test_truncating_a_file_drops_what_was_to_be_written(ground):
    dirty(ground, *range(4))
    ground.wait.nfs_wb_nocommit(ground.nfsi)
    dirty(ground, 4, 5)
    assert ground.machine.filemap.truncate_inode_pages(ground.file.f_mapping, 2) == 0
    assert ground.nfsi.npages == 2
    assert (ground.machine.vmstat.nr_dirty, ground.machine.vmstat.nr_unstable) == (0, 2)


# -- another's changes


def test_what_another_opening_changed_is_written_before_we_change_it(ground):
    other = ground.mount.open("f")
    dirty(ground, 0, file=other)
    page = locked(ground)
    assert ground.wait.nfs_flush_incompatible(ground.file.private_data, page) == 0
    assert has(ground, 0) == [True]
    assert ground.nfsi.npages == 0
    release(ground, page)


def test_what_we_changed_ourselves_is_not_in_the_way(ground):
    dirty(ground, 0)
    page = locked(ground)
    assert ground.wait.nfs_flush_incompatible(ground.file.private_data, page) == 0
    assert ground.stats.writes == 0
    release(ground, page)


def test_what_cannot_be_written_is_in_the_way(ground):
    other = ground.mount.open("f")
    dirty(ground, 0, file=other)
    ground.mount.modules.writedata_alloc = lambda: None
    assert ground.mount.write_buffered(ground.file, 0, b"x") == -ENOMEM
    del ground.mount.modules.writedata_alloc
    assert ground.mount.fsync(other) == 0
    assert has(ground, 0) == [True]
