"""Unstable writes: what waits for a COMMIT, and what becomes of it when the server was started again meanwhile."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EIO, ENOMEM
from kemu.mm.address_space import I_DIRTY_DATASYNC, WritebackControl
from kemu.mm.page import PG_dirty, PG_error, PG_private, PG_writeback
from kemu_nfs.nfs.commit import FLUSH_INVALIDATE, FLUSH_SYNC, MAX_PAGE_INDEX
from kemu_nfs.nfs.inode import NFS_PAGE_TAG_COMMIT
from kemu_nfs.nfs.pagelist import PG_NEED_COMMIT
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_IO, NFS3ERR_JUKEBOX, NFS3PROC_COMMIT, NFS_UNSTABLE
from nfs_ground import PAGE, SECOND, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.commit = g.mount.ops.write.commit
        g.mount.create("f")
        g.file = g.mount.open("f")
        g.nfsi = g.file.private_data.nfsi
        yield g
        g.mount.fsync(g.file)
        counters_are_zero(g)
        g.mount.close(g.file)
        assert g.mount.umount() == 0
        g.check()


def counters_are_zero(g):
    vmstat, server, stats = g.machine.vmstat, g.mount.server, g.stats
    assert (vmstat.nr_dirty, vmstat.nr_writeback, vmstat.nr_unstable) == (0, 0, 0)
    assert (server.writeback, server.unstable) == (0, 0)
    assert (stats.writes_outstanding, stats.commits_outstanding) == (0, 0)
    assert (g.nfsi.npages, g.nfsi.ncommit) == (0, 0)
    modules = g.mount.modules
    assert [g.machine.slub.objects_in_use(c) for c in (modules.wdata_cache, modules.page_cache)] == [0, 0]


def unstable(ground, pages=1, generation=0):
    """Write pages and let the WRITEs end; the COMMIT is still to come."""
    for index in range(pages):
        ground.mount.write_buffered(ground.file, index * PAGE, page_bytes(index, generation))
    assert ground.mount.ops.writepages(ground.file.f_mapping, WritebackControl(1000)) == 0
    ground.wait_for_calls()
    assert ground.nfsi.ncommit == pages


def expected(pages, generation=0):
    return b"".join(page_bytes(index, generation) for index in range(pages))


def server_restarts(ground, lose=True):
    """Let the server forget, as a crash does, without disturbing the connection."""
    ground.nfsd.server.tree.crash(lose)
    ground.nfsd.server.nfs.reboot()


def page_of(ground, index=0):
    return ground.file.f_mapping.page_tree.lookup(index)


# -- waiting for a COMMIT


def test_an_unstable_page_is_clean_counted_and_not_freed(ground):
    unstable(ground, 3)
    page = page_of(ground)
    assert not page.flags & (PG_dirty | PG_writeback)
    assert page.flags & PG_private
    assert ground.machine.vmstat.nr_unstable == ground.mount.server.unstable == 3
    assert ground.nfsi.nfs_page_tree.tagged(NFS_PAGE_TAG_COMMIT)
    assert ground.nfsi.inode.i_state & I_DIRTY_DATASYNC, "somebody will write the inode"
    ground.machine.filemap.invalidate_mapping_pages(ground.file.f_mapping)
    assert page_of(ground) is page
    ground.check()


def test_proc_shows_unstable_pages(ground):
    unstable(ground, 3)
    assert "NFS_Unstable:       12 kB" in ground.machine.proc.read("/proc/meminfo")
    assert "nr_unstable 3\n" in ground.machine.proc.read("/proc/vmstat")


def test_the_data_is_in_the_servers_memory_until_the_commit(ground):
    unstable(ground, 2)
    inode = ground.nfsd.server.tree.lookup_path("/export/f")
    assert ground.file_bytes("f") == expected(2)
    assert inode.undo, "not on its disk"
    assert ground.mount.fsync(ground.file) == 0
    assert not inode.undo
    assert ground.stats.commits == 1


def test_one_commit_takes_all_of_a_file(ground):
    unstable(ground, 5)
    assert ground.commit.nfs_commit_inode(ground.nfsi, FLUSH_SYNC) == 5
    counters_are_zero(ground)
    assert ground.commit.nfs_commit_inode(ground.nfsi, FLUSH_SYNC) == 0
    assert ground.stats.commits == 1


def test_a_commit_need_not_be_waited_for(ground):
    unstable(ground)
    assert ground.commit.nfs_commit_inode(ground.nfsi, 0) == 1
    assert (ground.stats.commits_outstanding, ground.nfsi.ncommit) == (1, 0)
    assert ground.machine.vmstat.nr_unstable == 1, "until the answer is there"
    ground.wait_for_calls()
    counters_are_zero(ground)


def test_requests_in_somebodys_hands_are_not_scanned(ground):
    unstable(ground, 2)
    (req,) = ground.nfsi.nfs_page_tree.gang_lookup(0, 1)
    req.wb_busy = True
    found = ground.commit.nfs_scan_commit(ground.nfsi, 0, MAX_PAGE_INDEX)
    assert [waiting.wb_index for waiting in found] == [1]
    req.wb_busy = False
    assert ground.nfsi.ncommit == 1
    ground.commit.nfs_commit_list(ground.nfsi, found, 0)
    ground.wait_for_calls()


def test_a_scan_keeps_to_its_range(ground):
    unstable(ground, 5)
    found = ground.commit.nfs_scan_commit(ground.nfsi, 1, 3)
    assert [req.wb_index for req in found] == [1, 2, 3]
    assert all(req.wb_flags & PG_NEED_COMMIT and req.wb_busy for req in found)
    assert ground.nfsi.ncommit == 2
    ground.commit.nfs_commit_list(ground.nfsi, found, FLUSH_SYNC)
    assert ground.nfsi.npages == 2


def test_pdflush_commits_what_is_old(ground):
    unstable(ground, 2)
    ground.run_for(40 * SECOND)
    assert ground.stats.commits == 1
    counters_are_zero(ground)


def test_who_makes_too_much_dirty_has_unstable_pages_committed(ground):
    ground.machine.reclaim.writeout.dirty_ratio = 5
    ground.machine.reclaim.writeout.dirty_background_ratio = 1
    for index in range(1200):
        assert ground.machine.memory.file_io.write(ground.file, index * PAGE, page_bytes(index)) == PAGE
        vmstat = ground.machine.vmstat
    assert ground.stats.commits >= 1
    limit = ground.machine.reclaim.writeout.get_dirty_limits()[1]
    assert vmstat.nr_dirty + vmstat.nr_writeback + vmstat.nr_unstable < 2 * limit
    assert ground.mount.fsync(ground.file) == 0
    assert ground.file_bytes("f") == expected(1200)


def test_sync_commits(ground):
    unstable(ground, 2)
    ground.machine.fs_writeback.sync()
    ground.wait_for_calls()
    counters_are_zero(ground)


def test_writing_the_inode_and_waiting_waits_for_the_writes_first(ground):
    ground.mount.write_buffered(ground.file, 0, page_bytes(0))
    ground.mount.ops.writepages(ground.file.f_mapping, WritebackControl(100))
    assert ground.stats.writes_outstanding == 1
    assert ground.mount.server.sb.write_inode(ground.nfsi.inode, True) == 0
    counters_are_zero(ground)


# -- writing again


def test_a_second_write_waits_for_the_commit_first(ground):
    unstable(ground)
    ground.mount.write_buffered(ground.file, 0, page_bytes(0, 1))
    assert ground.stats.commits == 1
    assert ground.nfsi.ncommit == 0
    ground.mount.fsync(ground.file)
    assert ground.file_bytes("f") == page_bytes(0, 1)


def test_a_clean_request_is_not_sent_twice(ground):
    unstable(ground)
    page = page_of(ground)
    ground.machine.filemap.lock_page(page)
    assert ground.mount.ops.write.nfs_writepage_locked(page, WritebackControl()) == 0
    ground.machine.filemap.unlock_page(page)
    assert not page.flags & PG_writeback
    assert ground.stats.writes == 1


# -- verifiers


def test_what_a_restarted_server_may_have_lost_is_written_again(ground):
    unstable(ground, 4)
    server_restarts(ground)
    assert ground.file_bytes("f") == b""
    assert ground.mount.fsync(ground.file) == 0
    assert ground.file_bytes("f") == expected(4)
    assert ground.stats.rewrites == 4
    assert ground.stats.commits == 2


def test_after_a_changed_verifier_the_page_is_dirty_as_before(ground):
    unstable(ground)
    server_restarts(ground)
    ground.commit.nfs_commit_inode(ground.nfsi, FLUSH_SYNC)
    page = page_of(ground)
    assert page.flags & (PG_dirty | PG_private) == PG_dirty | PG_private
    assert ground.machine.vmstat.nr_dirty == 1
    assert ground.machine.vmstat.nr_unstable == 0
    assert ground.nfsi.npages == 1, "with the request that it had"


def test_a_server_that_lost_nothing_but_was_restarted_is_not_believed(ground):
    unstable(ground, 2)
    server_restarts(ground, lose=False)
    ground.mount.fsync(ground.file)
    assert ground.stats.rewrites == 2


def test_each_request_has_the_verifier_of_its_own_write(ground):
    unstable(ground)
    server_restarts(ground)
    ground.mount.write_buffered(ground.file, 3 * PAGE, page_bytes(3))
    ground.mount.ops.writepages(ground.file.f_mapping, WritebackControl(10))
    ground.wait_for_calls()
    assert ground.nfsi.ncommit == 2
    ground.commit.nfs_commit_inode(ground.nfsi, FLUSH_SYNC)
    assert ground.stats.rewrites == 1
    assert page_of(ground, 0).flags & PG_dirty
    assert not page_of(ground, 3).flags & PG_dirty


@pytest.mark.parametrize("lose", [True, False])
def test_a_real_crash_between_write_and_commit(ground, lose):
    unstable(ground, 3)
    ground.nfsd.crash(lose_unstable=lose, reboot_ns=5 * SECOND)
    assert ground.mount.fsync(ground.file) == 0
    assert ground.file_bytes("f") == expected(3)
    assert ground.stats.rewrites == 3


# -- failures


def test_an_error_of_the_commit_is_the_openings(ground):
    unstable(ground, 2)
    ground.faults.error(NFS3PROC_COMMIT, NFS3ERR_IO)
    assert ground.mount.fsync(ground.file) == -EIO
    assert not page_of(ground).flags & (PG_dirty | PG_error), "the base takes it for clean"
    counters_are_zero(ground)
    assert ground.mount.fsync(ground.file) == 0


def test_a_busy_server_is_asked_to_commit_again(ground):
    unstable(ground)
    ground.faults.error(NFS3PROC_COMMIT, NFS3ERR_JUKEBOX, times=2)
    before = ground.sched.now
    assert ground.mount.fsync(ground.file) == 0
    assert 9 * SECOND < ground.sched.now - before < 12 * SECOND
    assert ground.stats.commits == 1


def test_without_memory_for_a_commit_the_requests_go_on_waiting(ground):
    unstable(ground, 3)
    modules = ground.mount.modules
    modules.commit_alloc = lambda: None
    assert ground.commit.nfs_commit_inode(ground.nfsi, 0) == -ENOMEM
    assert (ground.nfsi.ncommit, ground.machine.vmstat.nr_unstable, ground.mount.server.unstable) == (3, 3, 3)
    ground.check()
    assert ground.mount.server.sb.write_inode(ground.nfsi.inode, False) == -ENOMEM
    assert ground.nfsi.inode.i_state & I_DIRTY_DATASYNC, "later, then"
    del modules.commit_alloc


def test_what_is_cancelled_is_not_committed(ground):
    unstable(ground, 3)
    wait = ground.mount.ops.write.wait
    assert wait.nfs_sync_mapping_wait(ground.nfsi, 1, 1, FLUSH_INVALIDATE) == 0
    assert (ground.nfsi.npages, ground.machine.vmstat.nr_unstable, ground.stats.commits) == (2, 2, 0)


def test_counts_that_do_not_agree_are_noticed(ground):
    unstable(ground, 2)
    ground.commit.check(ground.nfsi)
    ground.machine.vmstat.nr_unstable -= 1
    with pytest.raises(KernelBug, match="unstable"):
        ground.commit.check(ground.nfsi)
    ground.machine.vmstat.nr_unstable += 1


# -- swap pages, where a server breaks the protocol


@pytest.mark.parametrize(("fixes", "back"), [("all", True), ("none", False)])
def test_a_swap_page_whose_unstable_write_is_lost(fixes, back):
    """Mended it is written again. In v14 it stays in memory: its request holds it, and reclaim does not know that."""
    with mounted(fixes=fixes) as ground:
        file = ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        flush = ground.mount.ops.write.flush
        done = flush.nfs_writeback_done

        def unstable_answer(task, data):
            task.tk_result.committed = NFS_UNSTABLE
            return done(task, data)

        flush.nfs_writeback_done = unstable_answer
        page = ground.pageout(0)
        ground.wait_for_calls()
        del flush.nfs_writeback_done
        assert ground.machine.vmstat.nr_unstable == 1
        server_restarts(ground)
        nfsi = file.private_data.nfsi
        ground.mount.ops.write.commit.nfs_commit_inode(nfsi, FLUSH_SYNC)
        assert page.flags & PG_dirty
        assert nfsi.npages == (0 if back else 1)
        if back:
            ground.push_out(page)
        else:
            with pytest.raises(AssertionError, match="stays"):
                ground.push_out(page)
        assert ground.read(0) == page_bytes(0)
