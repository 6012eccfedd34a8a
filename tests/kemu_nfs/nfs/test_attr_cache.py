"""The attribute cache: how long it holds, whose changes it believes in, and what it drops."""

from __future__ import annotations

import struct

import pytest

from kemu.kernel.errno import EIO, ESTALE
from kemu.kernel.timer import HZ
from kemu_nfs.mount_options import mount_options
from kemu_nfs.nfs.attr_cache import (
    NFS_INO_INVALID_ACCESS,
    NFS_INO_INVALID_ATIME,
    NFS_INO_INVALID_ATTR,
    NFS_INO_INVALID_DATA,
    NFS_INO_REVAL_PAGECACHE,
    nfs_size_to_loff_t,
)
from kemu_nfs.nfs.nfs3xdr import Nfs3Result
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_IO, NFS3ERR_STALE, NFS3PROC_GETATTR, NFS3PROC_WRITE
from nfs_ground import PAGE, SECOND, mounted, page_bytes

LATER = 2_000_000_000 << 32  # 2033, as seconds and nanoseconds


@pytest.fixture
def ground():
    with mounted() as g:
        g.mount.create("f")
        g.file = g.mount.open("f")
        g.nfsi = g.file.private_data.nfsi
        g.inodes = g.mount.ops.inodes
        yield g
        g.check()


def getattrs(ground):
    return ground.nfsd.server.counts.get((100003, NFS3PROC_GETATTR), 0)


def others_write(ground, offset, data, name="f"):
    """Write at the server, as another client does."""
    tree = ground.nfsd.server.tree
    assert tree.write(tree.lookup_path(f"/export/{name}"), offset, data, True) == (0, len(data))


def with_fields(attr, **fields):
    """Change fields of 84 bytes of attributes."""
    places = {"ftype": (0, "!I"), "mode": (4, "!I"), "nlink": (8, "!I"), "uid": (12, "!I"), "size": (20, "!Q")}
    places |= {"fileid": (52, "!Q"), "atime": (60, "!Q"), "mtime": (68, "!Q"), "ctime": (76, "!Q")}
    changed = bytearray(attr)
    for name, value in fields.items():
        offset, form = places[name]
        struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def reply(attr, pre_op=None):
    result = Nfs3Result(0)
    result.fattr, result.pre_op = attr, pre_op
    return result


def wcc(attr):
    return attr[20:28] + attr[68:84]


# -- how long


def test_attributes_are_good_for_acregmin_and_then_asked_for_once(ground):
    before = getattrs(ground)
    ground.run_for(2 * SECOND)
    assert ground.inodes.nfs_revalidate_inode(ground.nfsi) == 0
    assert getattrs(ground) == before
    ground.run_for(2 * SECOND)
    assert ground.inodes.nfs_revalidate_inode(ground.nfsi) == 0
    assert ground.inodes.nfs_revalidate_inode(ground.nfsi) == 0
    assert getattrs(ground) == before + 1


def test_attributes_that_do_not_change_are_believed_for_twice_as_long_up_to_a_minute(ground):
    seen = []
    for _ in range(9):
        ground.run_for(61 * SECOND)
        assert ground.inodes.nfs_revalidate_inode(ground.nfsi) == 0
        seen.append(ground.nfsi.attrtimeo // HZ)
    assert seen == [6, 12, 24, 48, 60, 60, 60, 60, 60]


def test_a_change_sets_the_time_back(ground):
    for _ in range(3):
        ground.run_for(61 * SECOND)
        ground.inodes.nfs_revalidate_inode(ground.nfsi)
    assert ground.nfsi.attrtimeo == 24 * HZ
    others_write(ground, 0, b"others")
    ground.mount.getattr(ground.nfsi)
    assert ground.nfsi.attrtimeo == 3 * HZ
    assert ground.inodes.stats.invalidations == 0, "nothing is dropped before somebody looks"


def test_directories_have_times_of_their_own(ground):
    assert ground.mount.root.attrtimeo == 30 * HZ
    ground.run_for(20 * SECOND)
    before = getattrs(ground)
    ground.inodes.nfs_revalidate_inode(ground.mount.root)
    assert getattrs(ground) == before


@pytest.mark.parametrize(("text", "asked"), [("noac", 5), ("actimeo=0", 5), ("acregmin=1000,acregmax=2000", 0)])
def test_options_say_how_long(text, asked):
    with mounted(options=mount_options(text)) as ground:
        nfsi = ground.mount.create("f")
        before = getattrs(ground)
        for _ in range(5):
            ground.run_for(10 * SECOND)
            ground.mount.getattr(nfsi, refresh=False)
        assert getattrs(ground) == before + asked


def test_a_time_to_come_is_not_believed(ground):
    ground.nfsi.read_cache_jiffies = ground.sched.jiffies + 10
    assert ground.inodes.nfs_attribute_timeout(ground.nfsi)


# -- whose changes


def test_our_own_writes_invalidate_nothing(ground):
    write = ground.machine.memory.file_io.write
    for generation in range(5):
        write(ground.file, 0, page_bytes(0, generation) + page_bytes(1, generation))
        ground.mount.fsync(ground.file)
        ground.run_for(10 * SECOND)
    page = ground.file.f_mapping.page_tree.lookup(1)
    assert ground.machine.memory.file_io.read(ground.file, PAGE, PAGE) == page_bytes(1, 4)
    assert ground.file.f_mapping.page_tree.lookup(1) is page
    assert ground.stats.invalidations == 0
    assert ground.stats.reads == 0


def test_what_others_write_is_seen_when_the_attributes_are_too_old(ground):
    read = ground.machine.memory.file_io.read
    ground.mount.write(ground.file, 0, page_bytes(0))
    assert read(ground.file, 0, PAGE) == page_bytes(0)
    others_write(ground, 0, page_bytes(9))
    assert read(ground.file, 0, PAGE) == page_bytes(0), "for up to three seconds"
    ground.run_for(100 * SECOND)
    assert read(ground.file, 0, PAGE) == page_bytes(9)
    assert ground.stats.invalidations == 1


def test_an_open_sees_it_at_once(ground):
    ground.mount.write(ground.file, 0, page_bytes(0))
    ground.machine.memory.file_io.read(ground.file, 0, PAGE)
    ground.mount.close(ground.file)
    others_write(ground, 0, page_bytes(9))
    file = ground.mount.open("f")
    assert ground.machine.memory.file_io.read(file, 0, PAGE) == page_bytes(9)


def test_what_we_have_written_meanwhile_is_not_dropped_but_written(ground):
    file_io = ground.machine.memory.file_io
    ground.mount.write(ground.file, 0, page_bytes(0) + page_bytes(1))
    file_io.read(ground.file, 0, 2 * PAGE)
    file_io.write(ground.file, 0, b"ours")
    others_write(ground, PAGE, page_bytes(9))
    ground.nfsi.cache_validity |= NFS_INO_REVAL_PAGECACHE
    assert file_io.read(ground.file, 0, 2 * PAGE) == b"ours" + page_bytes(0)[4:] + page_bytes(9)
    assert ground.file_bytes("f")[:4] == b"ours"


def test_a_shorter_file_is_not_believed_while_we_have_requests(ground):
    ground.machine.memory.file_io.write(ground.file, 0, page_bytes(0))
    assert ground.nfsi.npages == 1
    others_write(ground, 0, b"x")
    assert ground.mount.getattr(ground.nfsi).size == 1
    assert ground.nfsi.inode.size == PAGE, "our write will make it as long"
    ground.mount.fsync(ground.file)
    assert ground.nfsi.inode.size == PAGE == ground.mount.getattr(ground.nfsi).size


def test_a_longer_one_is(ground):
    ground.machine.memory.file_io.write(ground.file, 0, page_bytes(0))
    others_write(ground, 3 * PAGE, b"x")
    ground.mount.getattr(ground.nfsi)
    assert ground.nfsi.inode.size == 3 * PAGE + 1


def test_the_size_before_our_call_tells_that_the_new_one_is_ours(ground):
    attr = with_fields(ground.nfsi.attr, size=77, mtime=LATER, ctime=LATER)
    ground.inodes.nfs_refresh_inode(ground.nfsi, reply(attr, wcc(ground.nfsi.attr)))
    assert ground.nfsi.inode.size == 77
    assert not ground.nfsi.cache_validity & NFS_INO_INVALID_DATA


def test_another_mtime_before_our_call_tells_of_somebody_else(ground):
    attr = with_fields(ground.nfsi.attr, mtime=LATER, ctime=LATER)
    between = wcc(with_fields(ground.nfsi.attr, mtime=LATER - 5))
    ground.inodes.nfs_refresh_inode(ground.nfsi, reply(attr, between))
    assert ground.nfsi.cache_validity & NFS_INO_INVALID_DATA


def test_a_server_without_wcc_is_taken_to_have_seen_our_write_alone(ground):
    attr = with_fields(ground.nfsi.attr, mtime=LATER, ctime=LATER)
    ground.run_for(SECOND)
    ground.inodes.nfs_post_op_update_inode_force_wcc(ground.nfsi, reply(attr), ground.sched.jiffies)
    assert ground.nfsi.attr == attr
    assert not ground.nfsi.cache_validity


def test_a_reply_without_attributes_makes_us_ask(ground):
    ground.inodes.nfs_post_op_update_inode_force_wcc(ground.nfsi, reply(None), ground.sched.jiffies)
    before = getattrs(ground)
    assert ground.inodes.nfs_revalidate_inode(ground.nfsi) == 0
    assert getattrs(ground) == before + 1


@pytest.mark.parametrize("field", ["mode", "uid"])
def test_other_rights_make_answers_of_access_invalid(ground, field):
    attr = with_fields(ground.nfsi.attr, **{field: 0o421}, ctime=LATER)
    ground.inodes.nfs_refresh_inode(ground.nfsi, reply(attr))
    assert ground.nfsi.cache_validity & NFS_INO_INVALID_ACCESS
    assert not ground.nfsi.cache_validity & NFS_INO_INVALID_DATA


# -- replies that were overtaken


def test_an_overtaken_reply_changes_no_attributes_but_makes_us_ask(ground):
    now = with_fields(ground.nfsi.attr, size=500, mtime=LATER + 9, ctime=LATER + 9)
    start = ground.sched.jiffies
    ground.run_for(SECOND)
    ground.inodes.nfs_refresh_inode(ground.nfsi, reply(now, wcc(ground.nfsi.attr)), ground.sched.jiffies)
    ground.inodes.nfs_refresh_inode(ground.nfsi, reply(with_fields(now, size=1, mtime=LATER, ctime=LATER)), start)
    assert ground.nfsi.attr == now
    assert ground.nfsi.inode.size == 500
    assert ground.nfsi.cache_validity & NFS_INO_INVALID_ATTR


def test_it_does_not_make_them_older_than_they_are(ground):
    updated = ground.nfsi.last_updated
    start = updated - 5
    ground.inodes.nfs_refresh_inode(ground.nfsi, reply(ground.nfsi.attr), start)
    assert ground.nfsi.last_updated == updated
    assert not ground.nfsi.cache_validity


def test_parallel_writes_in_order_are_a_chain_of_our_own_changes(ground):
    start = ground.nfsi.last_updated
    for step in range(1, 6):
        attr = with_fields(ground.nfsi.attr, mtime=LATER + step, ctime=LATER + step)
        ground.inodes.nfs_post_op_update_inode_force_wcc(ground.nfsi, reply(attr, wcc(ground.nfsi.attr)), start)
        assert ground.nfsi.attr == attr
    assert not ground.nfsi.cache_validity & NFS_INO_INVALID_DATA


def test_an_overtaken_reply_with_wcc_moves_the_times_it_knows(ground):
    attr = with_fields(ground.nfsi.attr, size=9, mtime=LATER, ctime=LATER)
    ground.inodes.nfs_refresh_inode(ground.nfsi, reply(attr, wcc(ground.nfsi.attr)), ground.nfsi.last_updated)
    assert wcc(ground.nfsi.attr) == wcc(attr)
    assert ground.nfsi.inode.size == 9


# -- handles that are another file's


@pytest.mark.parametrize("changed", [{"fileid": 4711}, {"ftype": 2}])
def test_another_object_behind_the_handle_makes_the_inode_stale(ground, changed):
    ground.mount.write(ground.file, 0, page_bytes(0))
    ground.machine.memory.file_io.read(ground.file, 0, PAGE)
    assert ground.inodes.nfs_refresh_inode(ground.nfsi, reply(with_fields(ground.nfsi.attr, **changed))) == -ESTALE
    assert ground.nfsi.stale
    assert ground.machine.memory.file_io.read(ground.file, 0, PAGE) == -ESTALE
    assert ground.mount.getattr(ground.nfsi) == -ESTALE
    assert ground.mount.close(ground.file) == 0


def test_in_an_overtaken_reply_it_is_an_error_only(ground):
    attr = with_fields(ground.nfsi.attr, fileid=4711)
    assert ground.inodes.nfs_refresh_inode(ground.nfsi, reply(attr), ground.nfsi.last_updated) == -EIO
    assert not ground.nfsi.stale


def test_a_new_look_at_the_name_gives_a_new_inode(ground):
    ground.inodes.nfs_invalidate_inode(ground.nfsi)
    fresh = ground.mount.open("f")
    assert fresh.private_data.nfsi is not ground.nfsi
    assert fresh.private_data.nfsi.fh == ground.nfsi.fh
    assert ground.mount.write(fresh, 0, b"new") == 3
    assert ground.mount.umount() == 0, "both are freed"
    assert ground.machine.slub.objects_in_use(ground.mount.modules.inode_cache) == 0


def test_estale_of_a_file_is_for_good(ground):
    ground.faults.error(NFS3PROC_GETATTR, NFS3ERR_STALE)
    assert ground.mount.getattr(ground.nfsi) == -ESTALE
    assert ground.nfsi.stale
    assert ground.nfsi.cache_validity & NFS_INO_INVALID_DATA
    assert ground.mount.getattr(ground.nfsi) == -ESTALE, "nobody asks again"


def test_of_a_directory_it_is_not(ground):
    ground.faults.error(NFS3PROC_GETATTR, NFS3ERR_STALE)
    assert ground.mount.getattr(ground.mount.root) == -ESTALE
    assert ground.mount.getattr(ground.mount.root).ftype == 2


def test_a_size_beyond_a_loff_t_is_cut(ground):
    assert nfs_size_to_loff_t(with_fields(ground.nfsi.attr, size=(1 << 64) - 1)) == (1 << 63) - 2


def test_zapping_the_mapping_of_a_file_without_pages_does_nothing(ground):
    ground.inodes.nfs_zap_mapping(ground.nfsi)
    assert not ground.nfsi.cache_validity
    ground.mount.write(ground.file, 0, page_bytes(0))
    ground.machine.memory.file_io.read(ground.file, 0, PAGE)
    ground.inodes.nfs_zap_mapping(ground.nfsi)
    assert ground.nfsi.cache_validity & NFS_INO_INVALID_DATA


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("mode", NFS_INO_INVALID_ACCESS | NFS_INO_INVALID_ATTR),
        ("nlink", NFS_INO_INVALID_ATTR),
        ("atime", NFS_INO_INVALID_ATIME),
        ("size", NFS_INO_INVALID_ATTR | NFS_INO_REVAL_PAGECACHE),
    ],
)
def test_what_differs_in_an_overtaken_reply_is_asked_for_later(ground, field, flag):
    attr = with_fields(ground.nfsi.attr, **{field: 77})
    known = ground.nfsi.attr
    assert ground.inodes.nfs_refresh_inode(ground.nfsi, reply(attr), ground.nfsi.last_updated) == 0
    assert ground.nfsi.cache_validity == flag
    assert ground.nfsi.attr == known


def test_a_write_that_fails_before_pages_are_dropped_is_told_by_fsync(ground):
    file_io = ground.machine.memory.file_io
    file_io.write(ground.file, 0, page_bytes(0))
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_IO)
    ground.inodes.nfs_zap_mapping(ground.nfsi)
    assert file_io.read(ground.file, 0, PAGE) == bytes(PAGE), "what the server has: the page went with its write"
    assert file_io.fsync(ground.file) == -EIO
    assert ground.kernel.judge.outcome is None
