"""WRITE calls and their answers: whole requests, parts of one page, short and wrong answers."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EIO, ENOMEM, ENOSPC
from kemu.mm.address_space import WritebackControl
from kemu.mm.page import PG_dirty, PG_error, PG_private, PG_writeback
from kemu_nfs.sunrpc.nfs3_const import (
    NFS3ERR_DQUOT,
    NFS3ERR_IO,
    NFS3ERR_NOSPC,
    NFS3PROC_WRITE,
    NFS_DATA_SYNC,
    NFS_FILE_SYNC,
    NFS_UNSTABLE,
)
from kemu_nfs.sunrpc.rpc_task import RPC_PRIORITY_LOW, RPC_PRIORITY_NORMAL
from nfs_ground import PAGE, SECOND, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.flush = g.mount.ops.write.flush
        yield g
        g.wait_for_calls()
        g.check()
        assert g.machine.slub.objects_in_use(g.mount.modules.wdata_cache) == 0
        assert g.mount.server.writeback == g.machine.vmstat.nr_writeback == 0


@pytest.fixture
def file(ground):
    ground.mount.create("f")
    return ground.mount.open("f")


def calls(ground):
    """Note (offset, count, stable) of every WRITE as it is started."""
    seen = []
    init = ground.mount.client.rpc_init_task

    def noted(flags, proc, argp, *rest):
        if proc.name == "WRITE":
            seen.append((argp.offset, argp.count, argp.stable))
        return init(flags, proc, argp, *rest)

    ground.mount.client.rpc_init_task = noted
    return seen


def answering(ground, **change):
    """Let the server's answers to WRITEs say something else."""
    done = ground.flush.nfs_writeback_done

    def changed(task, data):
        if task.tk_status >= 0:
            for name, value in change.items():
                setattr(task.tk_result, name, value)
        return done(task, data)

    ground.flush.nfs_writeback_done = changed


def start(ground, file):
    """Start writing what is dirty, without waiting."""
    return ground.mount.ops.writepages(file.f_mapping, WritebackControl(100))


def page_of(file, index=0):
    return file.f_mapping.page_tree.lookup(index)


def warnings(ground, text):
    return [line for _, _, line in ground.kernel.printk.buffer if text in line]


# -- how a WRITE is asked for


def test_who_reclaims_asks_for_file_sync_and_others_for_unstable(ground, file):
    seen = calls(ground)
    ground.mount.write_buffered(file, 0, page_bytes(0))
    ground.mount.fsync(file)
    ground.mount.write_buffered(file, 0, page_bytes(0, 1))
    page = ground.machine.filemap.find_lock_page(file.f_mapping, 0)
    ground.machine.filemap.clear_page_dirty_for_io(page)
    assert ground.mount.ops.writepage(page, WritebackControl(for_reclaim=True)) == 0
    ground.machine.page_alloc.put_page(page)
    ground.wait_for_calls()
    assert seen == [(0, PAGE, NFS_UNSTABLE), (0, PAGE, NFS_FILE_SYNC)]


def test_where_a_commit_comes_anyway_reclaim_asks_for_data_sync(ground, file):
    seen = calls(ground)
    ground.mount.write_buffered(file, 0, page_bytes(0))
    start(ground, file)
    ground.wait_for_calls()
    assert file.private_data.nfsi.ncommit == 1
    ground.mount.write_buffered(file, 5 * PAGE, page_bytes(5))
    page = ground.machine.filemap.find_lock_page(file.f_mapping, 5)
    ground.machine.filemap.clear_page_dirty_for_io(page)
    ground.mount.ops.writepage(page, WritebackControl(for_reclaim=True))
    ground.machine.page_alloc.put_page(page)
    ground.wait_for_calls()
    assert seen[1:] == [(5 * PAGE, PAGE, NFS_DATA_SYNC)]
    assert ground.mount.fsync(file) == 0


@pytest.mark.parametrize(("kupdate", "priority"), [(True, RPC_PRIORITY_LOW), (False, RPC_PRIORITY_NORMAL)])
def test_old_data_goes_out_with_low_priority(ground, file, kupdate, priority):
    ground.mount.write_buffered(file, 0, page_bytes(0))
    ground.mount.ops.writepages(file.f_mapping, WritebackControl(10, for_kupdate=kupdate))
    assert ground.machine.filemap.writeback_owner(page_of(file))[1].tk_priority == priority


def test_a_write_that_succeeds_clears_an_old_error(ground, file):
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_IO)
    ground.mount.write_buffered(file, 0, page_bytes(0))
    assert ground.mount.fsync(file) == -EIO
    page = page_of(file)
    assert page.flags & PG_error
    ground.machine.filemap.lock_page(page)
    assert ground.mount.ops.write.nfs_updatepage(file, page, 0, PAGE) == 0
    ground.machine.filemap.unlock_page(page)
    assert ground.mount.fsync(file) == 0
    assert not page.flags & PG_error
    assert ground.file_bytes("f") == page_bytes(0)


# -- answers that are not what was asked for


def test_a_server_that_writes_stably_needs_no_commit(ground, file):
    answering(ground, committed=NFS_FILE_SYNC)
    ground.mount.write_buffered(file, 0, page_bytes(0))
    assert ground.mount.fsync(file) == 0
    assert ground.stats.commits == 0


def test_data_sync_is_not_file_sync(ground, file):
    answering(ground, committed=NFS_DATA_SYNC)
    ground.mount.write_buffered(file, 0, page_bytes(0))
    assert ground.mount.fsync(file) == 0
    assert ground.stats.commits == 1


def test_a_server_that_promises_less_than_was_asked_is_named(ground):
    ground.swapon()
    ground.process()
    ground.write(0, page_bytes(0))
    answering(ground, committed=NFS_UNSTABLE)
    ground.pageout(0)
    ground.wait_for_calls()
    (line,) = warnings(ground, "faulty NFS server")
    assert "(committed = 0) != (stable = 2)" in line
    assert ground.machine.vmstat.nr_unstable == 1, "a swap page waits for a COMMIT: no right server does that"
    ground.run_for(40 * SECOND)
    assert ground.machine.vmstat.nr_unstable == 0, "pdflush commits the swap file"


def test_unstable_for_unstable_is_nobodys_fault(ground, file):
    ground.mount.write_buffered(file, 0, page_bytes(0))
    ground.mount.fsync(file)
    assert not warnings(ground, "faulty")


def test_a_short_unstable_write_is_sent_again_whole_and_stably(ground, file):
    ground.nfsd.server.nfs.rsize = 1500
    seen = []
    ground.mount.write_buffered(file, 0, page_bytes(3))
    data_of = ground.flush.nfs_writeback_done

    def noted(task, data):
        status = data_of(task, data)
        seen.append((data.args.offset, data.args.count, data.args.stable, status != 0))
        return status

    ground.flush.nfs_writeback_done = noted
    assert ground.mount.fsync(file) == 0
    assert seen == [
        (0, PAGE, NFS_FILE_SYNC, True),  # of the first answer only this was learnt
        (1500, PAGE - 1500, NFS_FILE_SYNC, True),
        (3000, PAGE - 3000, NFS_FILE_SYNC, True),
        (3000, PAGE - 3000, NFS_FILE_SYNC, False),
    ]
    assert ground.stats.short_writes == 3
    assert ground.stats.commits == 0
    assert ground.file_bytes("f") == page_bytes(3)


def test_what_a_call_of_several_pages_has_not_written_is_found_in_the_right_page(ground, file):
    data = b"".join(page_bytes(i) for i in range(4))
    answering(ground, committed=NFS_FILE_SYNC)
    ground.nfsd.server.nfs.rsize = 5000
    ground.mount.write_buffered(file, 0, data)
    assert ground.mount.fsync(file) == 0
    assert ground.file_bytes("f") == data
    assert ground.stats.writes == 1, "one call, started again"
    assert ground.stats.short_writes == 3


def test_a_server_that_writes_nothing_is_an_error(ground, file):
    answering(ground, count=0)
    ground.mount.write_buffered(file, 0, page_bytes(0))
    assert ground.mount.fsync(file) == -EIO
    assert warnings(ground, "Server wrote zero bytes, expected 4096.")
    assert page_of(file).flags & PG_error


@pytest.mark.parametrize("status", [NFS3ERR_NOSPC, NFS3ERR_DQUOT, NFS3ERR_IO])
def test_an_error_makes_the_cached_file_doubtful(ground, file, status):
    ground.faults.error(NFS3PROC_WRITE, status)
    ground.mount.write_buffered(file, 0, page_bytes(0))
    assert ground.mount.fsync(file) < 0
    page = page_of(file)
    assert not page.flags & (PG_dirty | PG_private | PG_writeback)
    invalidations = ground.stats.invalidations
    assert ground.machine.memory.file_io.read(file, 0, PAGE) == b"", "the server knows nothing of it"
    assert ground.stats.invalidations == invalidations + 1


def test_an_error_of_one_call_is_not_its_neighbours(ground, file):
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_IO, after=1)
    for index in (0, 10, 20):
        ground.mount.write_buffered(file, index * PAGE, page_bytes(index))
    assert ground.mount.fsync(file) == -EIO
    data = ground.file_bytes("f")
    assert [data[i * PAGE : (i + 1) * PAGE] == page_bytes(i) for i in (0, 10, 20)] == [True, False, True]


# -- parts of a page


@pytest.fixture
def small(ground, file):
    ground.mount.server.wsize = 1024
    return file


def test_a_page_larger_than_wsize_goes_in_several_calls_at_once(ground, small):
    seen = calls(ground)
    ground.mount.write_buffered(small, 0, page_bytes(3))
    start(ground, small)
    assert ground.stats.writes_outstanding == 4
    assert page_of(small).flags & PG_writeback
    assert ground.mount.fsync(small) == 0
    assert seen == [(n * 1024, 1024, NFS_UNSTABLE) for n in range(4)]
    assert ground.stats.commits == 1
    assert ground.file_bytes("f") == page_bytes(3)


def test_part_of_a_page_goes_in_as_many_calls_as_it_needs(ground, small):
    seen = calls(ground)
    ground.mount.write_buffered(small, 100, b"x" * 2500)
    ground.mount.fsync(small)
    assert [(offset, count) for offset, count, _ in seen] == [(100, 1024), (1124, 1024), (2148, 452)]


def test_neighbouring_pages_are_not_gathered_then(ground, small):
    seen = calls(ground)
    ground.mount.write_buffered(small, PAGE - 100, b"x" * 200)
    ground.mount.fsync(small)
    assert [(offset, count) for offset, count, _ in seen] == [(PAGE - 100, 100), (PAGE, 100)]


def test_the_last_answer_ends_the_writeback(ground, small):
    ended = []
    end = ground.flush.nfs_end_page_writeback
    ground.flush.nfs_end_page_writeback = lambda req: ended.append(ground.stats.writes_outstanding) or end(req)
    ground.mount.write_buffered(small, 0, page_bytes(0))
    ground.mount.fsync(small)
    assert ended == [1], "once, with its own call the only one under way"


def test_one_part_that_fails_makes_the_page_bad(ground, small):
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_NOSPC, after=2)
    ground.mount.write_buffered(small, 0, page_bytes(0))
    assert ground.mount.fsync(small) == -ENOSPC
    assert page_of(small).flags & PG_error
    assert small.private_data.nfsi.npages == 0
    assert ground.machine.vmstat.nr_unstable == 0


def test_without_memory_for_all_parts_none_is_sent(ground, small):
    modules = ground.mount.modules
    alloc = modules.writedata_alloc
    left = [1, 1, 1]
    modules.writedata_alloc = lambda: alloc() if left and left.pop() else None
    ground.mount.write_buffered(small, 0, page_bytes(0))
    assert start(ground, small) == -ENOMEM
    assert ground.stats.writes == 0
    assert page_of(small).flags & (PG_dirty | PG_writeback) == PG_dirty
    assert ground.machine.slub.objects_in_use(modules.wdata_cache) == 0
    modules.writedata_alloc = alloc
    assert ground.mount.fsync(small) == 0
    assert ground.file_bytes("f") == page_bytes(0)


def test_a_restart_between_two_parts_sends_all_of_the_page_again(ground, small):
    done = ground.flush.nfs_writeback_done
    answers = []

    def noted(task, data):
        answers.append(data.args.offset)
        if len(answers) == 3:
            task.tk_result.verf = b"another!"
        return done(task, data)

    ground.flush.nfs_writeback_done = noted
    ground.mount.write_buffered(small, 0, page_bytes(0))
    start(ground, small)
    ground.wait_for_calls()
    assert ground.stats.rewrites == 1
    assert page_of(small).flags & PG_dirty
    assert ground.mount.fsync(small) == 0
    assert len(answers) == 8
    assert ground.file_bytes("f") == page_bytes(0)


def test_a_swap_page_goes_out_in_parts_too(ground):
    ground.swapon()
    ground.mount.server.wsize = 1024
    ground.process()
    for vpn in range(3):
        ground.write(vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    assert ground.stats.writes == 12
    assert [ground.read(vpn) for vpn in range(3)] == [page_bytes(vpn) for vpn in range(3)]


# -- gathering


def test_what_cannot_be_gathered_after_a_failed_call_is_dirty_again(ground, file):
    for index in (0, 5):
        ground.mount.write_buffered(file, index * PAGE, page_bytes(index))
    modules = ground.mount.modules
    alloc = modules.writedata_alloc
    modules.writedata_alloc = lambda: None
    pgio = ground.flush.nfs_pageio_init_write(file.private_data.nfsi, 0)
    for index in (0, 5):
        page = page_of(file, index)
        ground.machine.filemap.clear_page_dirty_for_io(page)
        ground.mount.ops.write.nfs_page_async_flush(pgio, page)
    assert [page_of(file, i).flags & (PG_dirty | PG_writeback) for i in (0, 5)] == [PG_dirty, PG_dirty]
    modules.writedata_alloc = alloc
    assert ground.mount.fsync(file) == 0
