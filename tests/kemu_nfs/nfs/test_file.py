"""A mount's files: calls without the page cache, and the methods that the address space has."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EACCES, EIO
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
