"""A mount's files: calls without the page cache, and the methods that the address space has."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EACCES, EINVAL, EIO
from kemu.mm.mm_struct import Vma
from kemu_nfs.nfs.inode import NFS_INO_INVALID_DATA
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_IO, NFS3PROC_READ, NFS3PROC_WRITE
from nfs_ground import PAGE, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.mount.create("f")
        g.file = g.mount.open("f")
        yield g
        g.check()


def test_what_is_written_by_calls_is_read_by_calls(ground):
    data = b"".join(page_bytes(i) for i in range(20)) + b"tail"
    assert ground.mount.write(ground.file, 3, data) == len(data)
    assert ground.mount.read(ground.file, 3, len(data) + 100) == data
    assert ground.file.inode.size == 3 + len(data)


def test_an_error_of_the_first_call_is_told_one_of_a_later_call_cuts(ground):
    ground.mount.server.wsize = ground.mount.server.rsize = PAGE
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_IO)
    assert ground.mount.write(ground.file, 0, page_bytes(0)) == -EIO
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_IO, after=1)
    assert ground.mount.write(ground.file, 0, page_bytes(0) * 3) == PAGE
    ground.mount.write(ground.file, 0, page_bytes(0) * 3)
    ground.faults.error(NFS3PROC_READ, NFS3ERR_IO)
    assert ground.mount.read(ground.file, 0, 10) == -EIO
    ground.faults.error(NFS3PROC_READ, NFS3ERR_IO, after=1)
    assert ground.mount.read(ground.file, 0, 3 * PAGE) == page_bytes(0)


def test_a_file_of_another_is_not_ones_own(ground):
    ground.mount.setattr(ground.file.private_data.nfsi, mode=0o600)
    answers = []

    def other():
        file = ground.mount.open("f")
        answers.append(ground.mount.write(file, 0, b"x"))
        ground.mount.close(file)

    ground.spawn(other, uid=1000)
    ground.wait_for_calls()
    ground.run_for(10**9)
    assert answers == [-EACCES]


def test_files_have_no_blocks(ground):
    assert ground.mount.ops.bmap(ground.file.f_mapping, 0) == 0


def test_a_write_into_a_hole_reads_as_zeros_around_it(ground):
    assert ground.mount.write_buffered(ground.file, 2 * PAGE + 10, b"x") == 1
    ground.mount.fsync(ground.file)
    assert ground.file_bytes("f") == bytes(2 * PAGE + 10) + b"x"


def test_closing_flushes(ground):
    ground.mount.write_buffered(ground.file, 0, b"bye")
    assert ground.mount.close(ground.file) == 0
    assert ground.file_bytes("f") == b"bye"
    assert ground.mount.close(ground.file) == -9


# -- through the page cache


def call(ground):
    return ground.machine.memory.file_io


def test_reading_through_the_cache_asks_the_server_once(ground):
    ground.mount.write(ground.file, 0, page_bytes(0) + page_bytes(1))
    reads = ground.stats.reads
    assert call(ground).read(ground.file, 0, 3 * PAGE) == page_bytes(0) + page_bytes(1)
    assert call(ground).read(ground.file, 100, PAGE) == (page_bytes(0) + page_bytes(1))[100 : PAGE + 100]
    assert ground.stats.reads == reads + 1, "readahead has fetched both pages"


def test_what_somebody_else_has_changed_is_read_again_and_is_no_loss(ground):
    ground.mount.write(ground.file, 0, page_bytes(0))
    call(ground).read(ground.file, 0, PAGE)
    call(ground).write(ground.file, 0, page_bytes(0, 1))
    assert call(ground).fsync(ground.file) == 0
    nfsi = ground.file.private_data.nfsi
    ground.nfsd.server.tree.lookup_path("/export/f").write_data(0, page_bytes(7, 7), stable=True)
    assert call(ground).read(ground.file, 0, PAGE) == page_bytes(0, 1)  # nobody has noticed
    nfsi.cache_validity |= NFS_INO_INVALID_DATA
    assert call(ground).read(ground.file, 0, PAGE) == page_bytes(7, 7)
    assert ground.kernel.judge.outcome is None


def test_an_error_of_a_write_that_nobody_waited_for_is_told_by_fsync(ground):
    ground.mount.write(ground.file, 0, page_bytes(0))
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_IO)
    assert call(ground).write(ground.file, 0, page_bytes(0, 1)) == PAGE
    assert call(ground).fsync(ground.file) == -EIO
    assert call(ground).fsync(ground.file) == 0


def test_a_store_to_a_page_that_left_the_file_is_refused(ground):
    ground.mount.write(ground.file, 0, page_bytes(0))
    call(ground).read(ground.file, 0, PAGE)
    page = ground.file.f_mapping.page_tree.lookup(0)
    vma = Vma(None, 0, 1, ground.file, 0, True)
    ops = ground.mount.ops
    assert ops.page_mkwrite(vma, page) == PAGE
    assert call(ground).fsync(ground.file) == 0
    ground.file.inode.size = 0
    assert ops.page_mkwrite(vma, page) == -EINVAL  # cut meanwhile
    ground.file.inode.size = PAGE
    page.count += 1
    ground.machine.filemap.truncate_inode_pages(ground.file.f_mapping)
    assert ops.page_mkwrite(vma, page) == -EINVAL
    ground.machine.lru.put_page(page)


def test_a_writer_is_slowed_down_when_too_much_is_dirty(ground):
    asked = []
    balance = ground.machine.dirty_balance
    balance.balance_dirty_pages = asked.append
    balance.ratelimit_pages = 4
    call(ground).write(ground.file, 0, bytes(9 * PAGE))
    assert asked == [ground.file.f_mapping] * 2


def test_inodes_of_a_mount_are_known_to_who_writes_dirty_ones(ground):
    inode = ground.file.inode
    sb = ground.mount.server.sb
    assert inode in sb.s_inodes
    assert sb in ground.machine.fs_writeback.supers
    call(ground).write(ground.file, 0, b"x")
    assert inode in sb.s_dirty
    ground.mount.close(ground.file)
    assert ground.mount.umount() == 0
    assert sb not in ground.machine.fs_writeback.supers
    assert inode.i_sb is None
    assert ground.file_bytes("f") == b"x"
