"""A server that answers nonsense: calls fail with an errno, nothing raises, nothing is left behind."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings

from hostile_server import BENDS, RESULTS, bent, everything, make_hostile
from kemu.kernel.errno import EIO, ENOTDIR, ESTALE
from kemu_nfs.nfs.dir import NfsDir
from kemu_nfs.nfs.nfs3xdr import Fattr3, Nfs3Result
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_STALE, NFS3PROC_FSINFO
from nfs_ground import PAGE, mounted, nfs_ground, page_bytes


def nothing_is_left(ground):
    """Leave the mount, and look at every cache of NFS and RPC."""
    mount = ground.mount
    if mount.root is not None:
        mount.umount()
    ground.wait_for_calls()
    modules = mount.modules
    for cache in (modules.page_cache, modules.wdata_cache, modules.rdata_cache, modules.inode_cache):
        assert ground.machine.slub.objects_in_use(cache) == 0, cache.name
    assert mount.auth.references() == 0
    assert modules.io == {}
    assert mount.server.writeback == 0
    ground.check()


@settings(max_examples=40, deadline=None)
@given(BENDS)
@example([(3, "word", 0, 10008)])
@example([(0, "cut", 0, 0)])
def test_whatever_a_server_answers_nothing_raises_and_nothing_stays(bends):
    with nfs_ground() as ground:
        honest = make_hostile(ground, bends)
        mounted_at = ground.mount.mount()
        assert isinstance(mounted_at, int)
        if not mounted_at:
            for answer in everything(ground):
                if isinstance(answer, int):
                    assert answer > -600, "an errno, or a count"
        honest()
        nothing_is_left(ground)


@settings(max_examples=25, deadline=None)
@given(BENDS)
def test_swap_over_a_server_that_was_hostile_for_a_while_goes_on(bends):
    """Replies to WRITEs and READs of swap are bent: a page may be lost or wrong, as the server says; the machine is whole."""
    with mounted() as ground:
        file = ground.swapon()
        ground.process()
        honest = make_hostile(ground, bends)
        for vpn in range(8):
            ground.write(vpn, page_bytes(vpn))
            ground.pageout(vpn)
        ground.wait_for_calls()
        honest()
        for vpn in range(8, 12):
            ground.write(vpn, page_bytes(vpn))
            ground.swap_out(vpn)
            assert ground.read(vpn) == page_bytes(vpn)
        assert file.inode.size == 200 * PAGE, "no reply lets the file grow"
        assert ground.mount.server.writeback == 0
        ground.machine.check()


def attributes(ground, change):
    """Let the server answer GETATTR with other attributes."""
    server = ground.nfsd.server
    handle = server.handle

    def hostile(record, now_ns=0, client=0):
        answer = handle(record, now_ns, client)
        if len(answer.record) == RESULTS + 4 + 84:
            attr = bytearray(answer.record[RESULTS + 4 :])
            change(attr)
            answer.record = answer.record[: RESULTS + 4] + bytes(attr)
        return answer

    server.handle = hostile


@pytest.fixture
def ground():
    with mounted() as g:
        g.nfsi = g.mount.create("f")
        g.file = g.mount.open("f")
        yield g
        nothing_is_left(g)


def test_a_directory_where_a_file_was_is_stale(ground):
    attributes(ground, lambda attr: struct.pack_into("!I", attr, 0, 2))
    assert ground.mount.getattr(ground.nfsi) == -ESTALE
    assert ground.machine.memory.file_io.read(ground.file, 0, 1) == -ESTALE


def test_a_changed_fileid_is_stale_and_said_aloud(ground):
    attributes(ground, lambda attr: struct.pack_into("!Q", attr, 52, 1 << 63))
    assert ground.mount.getattr(ground.nfsi) == -ESTALE
    assert any("fileid changed" in line for line in ground.kernel.printk.lines())


def test_a_type_that_does_not_exist_is_stale(ground):
    attributes(ground, lambda attr: struct.pack_into("!I", attr, 0, 77))
    assert ground.mount.getattr(ground.nfsi) == -ESTALE


def test_times_that_do_not_exist_are_times(ground):
    attributes(ground, lambda attr: attr.__setitem__(slice(60, 84), b"\xff" * 24))
    assert ground.mount.getattr(ground.nfsi).mtime == (0xFFFFFFFF, 0xFFFFFFFF)


def test_a_size_beyond_everything_reads_as_zeros_or_an_error(ground):
    attributes(ground, lambda attr: struct.pack_into("!Q", attr, 20, (1 << 64) - 1))
    assert ground.mount.getattr(ground.nfsi).size == (1 << 64) - 1
    assert ground.nfsi.inode.size == (1 << 63) - 2
    assert ground.machine.memory.file_io.read(ground.file, 1 << 40, 10) == bytes(10)


def test_a_root_that_is_a_file_cannot_be_mounted():
    with nfs_ground() as ground:
        handle = ground.nfsd.server.handle

        def hostile(record, now_ns=0, client=0):
            answer = handle(record, now_ns, client)
            if struct.unpack_from("!3I", record, 12) == (100003, 3, NFS3PROC_FSINFO):
                answer.record = answer.record[: RESULTS + 8] + b"\0\0\0\1" + answer.record[RESULTS + 12 :]
            return answer

        ground.nfsd.server.handle = hostile
        assert ground.mount.mount() == -ENOTDIR
        ground.nfsd.server.handle = handle
        nothing_is_left(ground)


def test_sizes_that_make_no_sense_are_fitted():
    with nfs_ground() as ground:
        handle = ground.nfsd.server.handle

        def hostile(record, now_ns=0, client=0):
            answer = handle(record, now_ns, client)
            reply = answer.record
            if struct.unpack_from("!3I", record, 12) == (100003, 3, NFS3PROC_FSINFO):
                at = RESULTS + 8 + 84
                answer.record = reply[:at] + struct.pack("!7I", 0, 0xFFFFFFFF, 3, 1, 5000, 0, 7) + reply[at + 28 :]
            return answer

        ground.nfsd.server.handle = hostile
        assert ground.mount.mount() == 0
        assert (ground.mount.server.rsize, ground.mount.server.wsize) == (1 << 20, 4096)
        assert ground.mount.dir.dtsize == 4096
        nothing_is_left(ground)


def test_mountd_that_refuses_is_an_errno():
    with nfs_ground() as ground:
        ground.faults.error(1, NFS3ERR_STALE, program=100005)
        assert ground.mount.mount() == -ESTALE
        ground.faults.error(1, 31337, program=100005)
        assert ground.mount.mount() == -EIO
        assert ground.mount.mount() == 0
        nothing_is_left(ground)


def test_the_helper_bends(ground):
    """A test of the tests: what it does is seen by the client."""
    record = bytes(RESULTS) + struct.pack("!4I", 1, 2, 3, 4)
    assert bent(record, "word", 1, 9)[RESULTS:] == struct.pack("!4I", 1, 9, 3, 4)
    assert len(bent(record, "cut", 1, 9)) == RESULTS + 4
    assert len(bent(record, "grow", 1, 9)) == len(record) + 8
    assert bent(record, "word", 99, 9) == record
    assert isinstance(ground.mount.dir, NfsDir)
    assert Fattr3.read(ground.nfsi.attr).ftype == 1
    assert Nfs3Result(0).fattr is None
