"""Pages on their way to the server: swap pages and pages of the page cache."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.errno import EBUSY, EIO, ENOMEM, ENOSPC
from kemu.mm.address_space import WritebackControl
from kemu.mm.page import PG_dirty, PG_error, PG_locked, PG_private, PG_writeback
from kemu_nfs.nfs.commit import FLUSH_HIGHPRI, FLUSH_LOWPRI, FLUSH_STABLE
from kemu_nfs.nfs.write import wb_priority
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_IO, NFS3ERR_JUKEBOX, NFS3ERR_NOSPC, NFS3PROC_WRITE
from kemu_nfs.sunrpc.rpc_task import RPC_PRIORITY_HIGH
from nfs_ground import PAGE, SECOND, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.ops = g.mount.ops
        yield g
        g.check()


@pytest.fixture
def file(ground):
    ground.mount.create("f")
    return ground.mount.open("f")


def calls(ground):
    """Note the arguments of every WRITE that is started."""
    seen = []
    flush = ground.ops.write.flush
    execute = flush._nfs_execute_write

    def noted(addr, reqs, offset, count, pages, how, ops):
        seen.append((offset, count, how))
        execute(addr, reqs, offset, count, pages, how, ops)

    flush._nfs_execute_write = noted
    return seen


def test_who_reclaims_writes_stable_and_first():
    assert wb_priority(WritebackControl(for_reclaim=True)) == FLUSH_HIGHPRI | FLUSH_STABLE
    assert wb_priority(WritebackControl()) == 0
    assert wb_priority(WritebackControl(for_kupdate=True)) == FLUSH_LOWPRI


def test_a_buffered_write_is_in_the_cache_until_it_is_flushed(ground, file):
    assert ground.mount.write_buffered(file, 100, b"hello") == 5
    assert ground.file_bytes("f") == b""
    nfsi = file.private_data.nfsi
    assert (nfsi.npages, nfsi.inode.size) == (1, 105)
    assert ground.mount.fsync(file) == 0
    assert ground.file_bytes("f") == bytes(100) + b"hello"
    assert nfsi.npages == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5 * PAGE), st.binary(min_size=1, max_size=6000), st.booleans()), min_size=1, max_size=8))
def test_whatever_is_written_in_whatever_pieces_arrives(writes):
    with mounted() as ground:
        ground.mount.create("f")
        file = ground.mount.open("f")
        model = bytearray()
        for pos, data, flush in writes:
            assert ground.mount.write_buffered(file, pos, data) == len(data)
            model.extend(bytes(max(0, pos + len(data) - len(model))))
            model[pos : pos + len(data)] = data
            if flush:
                assert ground.mount.fsync(file) == 0
        assert ground.mount.close(file) == 0
        assert ground.file_bytes("f") == bytes(model)
        ground.check()


def unknown(ground, file):
    """Make a file of a page on the server that the client has not read."""
    assert ground.mount.write(file, 0, page_bytes(0)) == PAGE
    assert not file.f_mapping.nrpages


def test_neighbouring_bytes_widen_the_request_and_strangers_flush_it_first(ground, file):
    unknown(ground, file)
    seen = calls(ground)
    ground.mount.write_buffered(file, 0, b"aa")
    ground.mount.write_buffered(file, 2, b"bb")
    assert seen == []
    ground.mount.write_buffered(file, 1000, b"cc")
    assert seen == [(0, 4, 0)]
    ground.mount.fsync(file)
    assert seen[1:] == [(1000, 2, 0)]
    assert ground.file_bytes("f") == b"aabb" + page_bytes(0)[4:1000] + b"cc" + page_bytes(0)[1002:]


def test_of_a_page_that_is_known_the_request_covers_all(ground, file):
    seen = calls(ground)
    ground.mount.write_buffered(file, 0, b"aa")
    ground.mount.write_buffered(file, 1000, b"cc")
    ground.mount.fsync(file)
    assert seen == [(0, 1002, 0)]
    assert ground.file_bytes("f") == b"aa" + bytes(998) + b"cc"


def test_a_page_without_a_request_is_written_by_doing_nothing(ground, file):
    page = ground.machine.filemap.find_or_create_page(file.f_mapping, 0)
    assert ground.ops.writepage(page, WritebackControl()) == 0
    assert ground.stats.writes == 0
    assert not page.flags & (PG_locked | PG_writeback)


def test_a_swap_page_goes_out_file_sync_with_priority(ground):
    seen = calls(ground)
    ground.swapon()
    ground.process()
    ground.write(0, page_bytes(0))
    page = ground.pageout(0)
    assert seen == [(PAGE, PAGE, FLUSH_HIGHPRI | FLUSH_STABLE)]
    assert ground.machine.filemap.writeback_owner(page)[1].tk_priority == RPC_PRIORITY_HIGH
    assert page.flags & PG_writeback
    assert not page.flags & PG_dirty
    ground.wait_for_calls()
    assert not page.flags & PG_writeback


def test_a_page_under_writeback_is_not_written_twice_at_once(ground):
    file = ground.swapon()
    ground.process()
    ground.write(0, page_bytes(0))
    page = ground.pageout(0)
    ground.machine.filemap.lock_page(page)
    page.flags |= PG_writeback
    req = file.private_data.nfsi.nfs_page_tree.lookup(1)
    assert req.wb_busy
    req.wb_busy = False
    with pytest.raises(KernelBug, match="under writeback"):
        ground.ops.write.nfs_writepage_locked(page, WritebackControl())
    req.wb_busy = True
    ground.machine.filemap.unlock_page(page)
    ground.wait_for_calls()


def test_a_request_of_another_opening_is_in_the_way(ground, file):
    other = ground.mount.open("f")
    ground.mount.write_buffered(file, 0, b"one")
    page = ground.machine.filemap.find_or_create_page(file.f_mapping, 0)
    assert ground.ops.write.nfs_update_request(other.private_data, page, 0, 4) == -EBUSY
    assert ground.ops.write.nfs_writepage_setup(other.private_data, page, 0, 4) == 0
    assert ground.stats.writes == 1, "the first was flushed"
    ground.machine.filemap.unlock_page(page)
    ground.machine.page_alloc.put_page(page)


def test_a_busy_server_is_asked_again_in_five_seconds(ground, file):
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_JUKEBOX, times=2)
    ground.mount.write_buffered(file, 0, b"data")
    before = ground.sched.now
    assert ground.mount.fsync(file) == 0
    assert 9 * SECOND < ground.sched.now - before < 12 * SECOND
    assert ground.stats.jukebox == 2
    assert ground.file_bytes("f") == b"data"


@pytest.mark.parametrize(("status", "error"), [(NFS3ERR_IO, -EIO), (NFS3ERR_NOSPC, -ENOSPC)])
def test_an_error_reaches_fsync_once(ground, file, status, error):
    ground.faults.error(NFS3PROC_WRITE, status)
    ground.mount.write_buffered(file, 0, b"data")
    assert ground.mount.fsync(file) == error
    assert ground.mount.fsync(file) == 0
    page = ground.machine.filemap.find_get_page(file.f_mapping, 0)
    assert page.flags & PG_error
    assert not page.flags & (PG_writeback | PG_private)
    ground.machine.page_alloc.put_page(page)


def test_pages_that_were_rewritten_meanwhile_arrive_in_their_last_form(ground, file):
    for generation in range(5):
        ground.mount.write_buffered(file, 0, page_bytes(0, generation))
        if generation % 2:
            ground.mount.fsync(file)
    ground.mount.fsync(file)
    assert ground.file_bytes("f") == page_bytes(0, 4)


def test_dirty_pages_of_a_file_are_written_by_reclaim(ground, file):
    ground.mount.write_buffered(file, 0, page_bytes(0))
    page = ground.machine.filemap.find_get_page(file.f_mapping, 0)
    ground.machine.lru.del_page_from_lru(page)
    page.flags &= ~(1 << 2)
    _, rest = ground.shrink(page)
    assert page.flags & PG_writeback
    ground.machine.reclaim._put_back(rest)
    ground.wait_for_calls()
    assert ground.file_bytes("f") == page_bytes(0)


def test_the_queue_counts_what_is_under_writeback(ground):
    ground.swapon()
    ground.process()
    for vpn in range(5):
        ground.write(vpn, page_bytes(vpn))
        ground.pageout(vpn)
    assert ground.mount.server.writeback == 5 == ground.stats.writes_outstanding
    ground.wait_for_calls()
    assert ground.mount.server.writeback == 0 == ground.stats.writes_outstanding
    assert ground.stats.writes_outstanding_peak == 5
    assert ground.machine.vmstat.nr_writeback == 0


# -- ->writepages


def dirty_pages(ground, file, *indices):
    for index in indices:
        assert ground.machine.memory.file_io.write(file, index * PAGE, page_bytes(index, 1)) == PAGE


def test_neighbours_go_in_one_call_as_far_as_wsize_goes(ground, file):
    dirty_pages(ground, file, *range(12), 20, 22)
    writes = ground.stats.writes
    wbc = WritebackControl(100)
    assert ground.mount.ops.writepages(file.f_mapping, wbc) == 0
    per_call = ground.mount.server.wsize // PAGE
    assert ground.stats.writes - writes == -(-12 // per_call) + 2
    assert wbc.nr_to_write == 100 - 14
    ground.wait_for_calls()
    assert ground.machine.vmstat.nr_dirty == ground.machine.vmstat.nr_writeback == 0
    assert ground.file_bytes("f")[11 * PAGE : 12 * PAGE] == page_bytes(11, 1)


def test_pages_whose_call_finds_no_memory_are_dirty_again(ground, file):
    dirty_pages(ground, file, 0, 1)
    ground.mount.modules.writedata_alloc = lambda: None
    assert ground.mount.ops.writepages(file.f_mapping, WritebackControl(100)) == -ENOMEM
    assert (ground.machine.vmstat.nr_dirty, ground.machine.vmstat.nr_writeback) == (2, 0)
    del ground.mount.modules.writedata_alloc
    ground.machine.fs_writeback.check()
    assert ground.mount.fsync(file) == 0
    assert ground.file_bytes("f")[:PAGE] == page_bytes(0, 1)


def test_a_congested_mount_is_left_alone_by_who_may_not_block(ground, file):
    dirty_pages(ground, file, 0)
    ground.mount.server.bdi.set_congested()
    wbc = WritebackControl(100, nonblocking=True)
    assert ground.mount.ops.writepages(file.f_mapping, wbc) == 0
    assert wbc.encountered_congestion
    assert ground.machine.vmstat.nr_dirty == 1
    ground.mount.server.bdi.clear_congested()
