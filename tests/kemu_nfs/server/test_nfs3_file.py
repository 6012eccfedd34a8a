"""The procedures on single objects: what they answer, what they refuse, what they cost."""

from __future__ import annotations

import struct

import pytest

from kemu_nfs.sunrpc.nfs3_const import (
    NFS3ERR_ACCES,
    NFS3ERR_FBIG,
    NFS3ERR_INVAL,
    NFS3ERR_ISDIR,
    NFS3ERR_NOSPC,
    NFS3ERR_NOT_SYNC,
    NFS3ERR_PERM,
    NFS3ERR_ROFS,
    NFS_DATA_SYNC,
    NFS_FILE_SYNC,
    NFS_UNSTABLE,
)

SECOND = 1_000_000_000


def setattr_args(client, handle, guard=None, **what):
    tail = client.words(0) if guard is None else client.words(1, *guard)
    return client.opaque(handle) + client.sattr(**what) + tail


def test_getattr_shows_a_new_file(client, swapfile):
    attributes = client.getattr(swapfile)
    assert (attributes.type, attributes.mode, attributes.nlink, attributes.uid, attributes.gid) == (1, 0o644, 1, 0, 0)
    assert (attributes.size, attributes.used, attributes.fsid) == (0, 0, 1)


def test_used_counts_blocks_and_not_holes(client, swapfile):
    client.write(swapfile, 40960, b"x")
    attributes = client.getattr(swapfile)
    assert (attributes.size, attributes.used) == (40961, 4096)


def test_setattr_changes_what_it_is_told_and_nothing_else(client, swapfile):
    results = client.call(2, setattr_args(client, swapfile, mode=0o600, size=8192, mtime=77))
    assert results.unpack_uint() == 0
    before, after = results.wcc()
    assert before[0] == 0
    assert (after.mode, after.size, after.mtime, after.uid) == (0o600, 8192, (77, 0), 0)


def test_setattr_to_the_servers_time(client, clock, swapfile):
    clock.ns = 9 * SECOND
    results = client.call(2, setattr_args(client, swapfile, atime=-1, mtime=-1))
    results.unpack_uint()
    _, after = results.wcc()
    assert after.atime == after.mtime == after.ctime == (1_193_760_250, 0)


def test_setattr_obeys_its_guard(client, swapfile):
    ctime = client.getattr(swapfile).ctime
    assert client.status(2, setattr_args(client, swapfile, guard=(ctime[0], ctime[1] + 1), size=1)) == NFS3ERR_NOT_SYNC
    assert client.getattr(swapfile).size == 0
    assert client.status(2, setattr_args(client, swapfile, guard=ctime, size=1)) == 0


@pytest.mark.parametrize(
    ("what", "status"),
    [({"mode": 0o777}, NFS3ERR_PERM), ({"uid": 500}, NFS3ERR_PERM), ({"mtime": 5}, NFS3ERR_PERM), ({"size": 5}, NFS3ERR_ACCES)],
)
def test_setattr_by_a_stranger_is_refused(user, swapfile, what, status):
    assert user.status(2, setattr_args(user, swapfile, **what)) == status


def test_an_owner_may_give_his_file_to_his_groups_only(client, user, swapfile):
    client.status(2, setattr_args(client, swapfile, uid=500))
    assert user.status(2, setattr_args(user, swapfile, gid=101)) == 0
    assert user.status(2, setattr_args(user, swapfile, gid=102)) == NFS3ERR_PERM
    assert user.status(2, setattr_args(user, swapfile, uid=501)) == NFS3ERR_PERM


def test_only_a_regular_file_can_be_cut(client, root):
    link = client.call(10, client.opaque(root) + client.opaque(b"l") + client.sattr() + client.opaque(b"t"))
    link.unpack_uint(), link.unpack_bool()
    assert client.status(2, setattr_args(client, root, size=0)) == NFS3ERR_ISDIR
    assert client.status(2, setattr_args(client, link.unpack_opaque(), size=0)) == NFS3ERR_INVAL


def test_a_file_has_a_greatest_size(client, swapfile):
    assert client.status(2, setattr_args(client, swapfile, size=1 << 63)) == NFS3ERR_FBIG
    assert client.status(7, client.write_args(swapfile, (1 << 63) - 2, b"abc")) == NFS3ERR_FBIG
    assert client.status(2, setattr_args(client, swapfile, size=(1 << 63) - 1)) == 0


def test_access_tells_rights_by_mode(client, user, root):
    handle = client.create(root, b"f", client.sattr(mode=0o754, gid=101))
    ask = client.opaque(handle) + client.words(0x3F)

    def granted(who):
        results = who.call(4, ask)
        results.unpack_uint()
        results.attributes()
        return results.unpack_uint()

    assert granted(client) == 0x01 | 0x04 | 0x08 | 0x20
    assert granted(user) == 0x01 | 0x20
    results = user.call(4, client.opaque(root) + client.words(0x3F))
    results.unpack_uint()
    results.attributes()
    assert results.unpack_uint() == 0x01 | 0x02


def test_access_answers_only_what_was_asked(client, root):
    results = client.call(4, client.opaque(root) + client.words(0x02))
    results.unpack_uint()
    results.attributes()
    assert results.unpack_uint() == 0x02


def test_readlink(client, root, swapfile):
    client.call(10, client.opaque(root) + client.opaque(b"l") + client.sattr() + client.opaque(b"some/where"))
    results = client.call(5, client.opaque(client.lookup(root, b"l")))
    assert results.unpack_uint() == 0
    assert results.attributes().size == 10
    assert results.unpack_opaque() == b"some/where"
    assert client.status(5, client.opaque(swapfile)) == NFS3ERR_INVAL


def test_what_was_written_is_read(client, swapfile):
    assert client.write(swapfile, 4096, b"ab" * 2048)[:2] == (4096, NFS_FILE_SYNC)
    assert client.read(swapfile, 4096, 4096) == (b"ab" * 2048, True)
    assert client.read(swapfile, 0, 4096) == (bytes(4096), False)
    assert client.read(swapfile, 4095, 3) == (b"\0ab", False)


def test_a_read_ends_with_the_file(client, swapfile):
    client.write(swapfile, 0, b"x" * 5000)
    assert client.read(swapfile, 4096, 4096) == (b"x" * 904, True)
    assert client.read(swapfile, 5000, 4096) == (b"", True)
    assert client.read(swapfile, (1 << 64) - 1, 4096) == (b"", True)


def test_a_read_is_cut_at_rsize(client, swapfile):
    client.status(2, setattr_args(client, swapfile, size=1 << 20))
    data, eof = client.read(swapfile, 0, 0xFFFFFFFF)
    assert (len(data), eof) == (32768, False)


def test_wcc_shows_before_and_after(client, clock, swapfile):
    client.write(swapfile, 0, b"a" * 10)
    old = client.getattr(swapfile)
    clock.ns = 5 * SECOND + 7
    results = client.call(7, client.write_args(swapfile, 10, b"b" * 10))
    assert results.unpack_uint() == 0
    before, after = results.wcc()
    assert before == (10, old.mtime, old.ctime)
    assert after.size == 20
    assert after.mtime == after.ctime == (1_193_760_246, 7)


def test_wcc_comes_with_a_refusal_too(user, swapfile):
    results = user.call(7, user.write_args(swapfile, 0, b"x"))
    assert results.unpack_uint() == NFS3ERR_ACCES
    before, after = results.wcc()
    assert before[0] == after.size == 0


@pytest.mark.parametrize("stable", [NFS_UNSTABLE, NFS_DATA_SYNC, NFS_FILE_SYNC])
def test_a_write_is_committed_as_far_as_was_asked(client, swapfile, stable):
    count, committed, _ = client.write(swapfile, 0, b"x" * 100, stable)
    assert count == 100
    assert committed == (NFS_FILE_SYNC if stable else NFS_UNSTABLE)


def test_an_unknown_stable_how_is_garbage(client, swapfile):
    reply = client.send(client.record(7, client.write_args(swapfile, 0, b"x", 3)))
    assert struct.unpack("!6I", reply)[5] == 4


def test_a_write_whose_count_lies_is_refused(client, swapfile):
    args = client.opaque(swapfile) + struct.pack("!QII", 0, 4096, 2) + client.opaque(b"x" * 100)
    assert client.status(7, args) == NFS3ERR_INVAL
    assert client.getattr(swapfile).size == 0


def test_a_write_of_nothing_succeeds_and_changes_nothing(client, clock, swapfile):
    old = client.getattr(swapfile)
    clock.ns = 1
    assert client.write(swapfile, 5000, b"")[0] == 0
    new = client.getattr(swapfile)
    assert (new.size, new.mtime) == (0, old.mtime)


def test_a_write_beyond_wsize_is_short(client, swapfile):
    assert client.write(swapfile, 0, b"x" * 40000)[0] == 32768
    assert client.getattr(swapfile).size == 32768


def test_reading_and_writing_a_directory_is_refused(client, root):
    assert client.status(6, client.opaque(root) + struct.pack("!QI", 0, 1)) == NFS3ERR_ISDIR
    assert client.status(7, client.write_args(root, 0, b"x")) == NFS3ERR_ISDIR
    assert client.status(21, client.opaque(root) + struct.pack("!QI", 0, 0)) == NFS3ERR_ISDIR


def test_permission_is_asked_but_not_of_the_owner(client, user, root):
    handle = client.create(root, b"private", client.sattr(mode=0o600))
    read = client.opaque(handle) + struct.pack("!QI", 0, 1)
    assert user.status(6, read) == NFS3ERR_ACCES
    assert user.status(21, read) == NFS3ERR_ACCES
    client.status(2, setattr_args(client, handle, mode=0, uid=500))
    assert user.status(6, read) == 0
    assert user.status(7, user.write_args(handle, 0, b"x")) == 0


def test_a_full_file_system_refuses(server, client, swapfile):
    server.tree.bounded, server.tree.capacity = True, 8192
    assert client.status(7, client.write_args(swapfile, 0, b"x" * 8192)) == 0
    assert client.status(7, client.write_args(swapfile, 8192, b"x")) == NFS3ERR_NOSPC
    assert client.status(7, client.write_args(swapfile, 0, b"y" * 8192)) == 0


def test_a_read_only_server_refuses_every_change(server, client, root, swapfile):
    server.nfs.read_only = True
    name = client.opaque(root) + client.opaque(b"n")
    for proc, args in (
        (2, setattr_args(client, swapfile, size=1)),
        (7, client.write_args(swapfile, 0, b"x" * 4096)),
        (8, name + client.words(0) + client.sattr()),
        (9, name + client.sattr()),
        (12, name),
        (14, name + name),
    ):
        assert client.status(proc, args) == NFS3ERR_ROFS


def test_commit_makes_stable_and_tells_the_same_verifier(client, server, swapfile):
    verifier = client.write(swapfile, 0, b"x" * 8192, NFS_UNSTABLE)[2]
    results = client.call(21, client.opaque(swapfile) + struct.pack("!QI", 0, 0))
    assert results.unpack_uint() == 0
    results.wcc()
    assert results.unpack_fopaque(8) == verifier
    server.crash(lose_unstable=True)
    assert client.read(swapfile, 0, 8192)[0] == b"x" * 8192


def test_a_loss_of_power_takes_what_was_not_committed(client, server, swapfile):
    client.write(swapfile, 0, b"1" * 4096)
    verifier = client.write(swapfile, 0, b"2" * 8192, NFS_UNSTABLE)[2]
    assert client.read(swapfile, 0, 4096)[0] == b"2" * 4096
    assert server.crash(lose_unstable=True) == 2
    assert client.read(swapfile, 0, 8192) == (b"1" * 4096, True)
    assert client.write(swapfile, 0, b"3" * 4096)[2] != verifier


def test_a_restart_keeps_data_and_changes_the_verifier(client, server, swapfile):
    verifier = client.write(swapfile, 0, b"2" * 8192, NFS_UNSTABLE)[2]
    assert server.crash(lose_unstable=False) == 0
    assert client.read(swapfile, 0, 8192)[0] == b"2" * 8192
    assert client.write(swapfile, 0, b"3")[2] != verifier


def test_the_disk_is_paid_by_who_uses_it(client, root, swapfile):
    client.write(swapfile, 0, b"x" * 4096)
    assert client.cost_ns == 1_000_000
    client.write(swapfile, 0, b"x" * 4096, NFS_UNSTABLE)
    assert client.cost_ns == 0
    client.read(swapfile, 0, 4096)
    assert client.cost_ns == 100_000
    client.getattr(swapfile)
    assert client.cost_ns == 0
    client.create(root, b"new")
    assert client.cost_ns == 1_000_000


def test_a_commit_costs_by_the_blocks_that_it_writes(client, swapfile):
    args = client.opaque(swapfile) + struct.pack("!QI", 0, 0)
    client.write(swapfile, 0, b"x" * 16384, NFS_UNSTABLE)
    client.status(21, args)
    assert client.cost_ns == 1_000_000 + 3 * 50_000
    client.status(21, args)
    assert client.cost_ns == 0


def test_fsstat_fsinfo_pathconf(client, root, swapfile):
    client.write(swapfile, 0, b"x" * 8192)
    results = client.call(18, client.opaque(root))
    results.unpack_uint()
    results.attributes()
    total, free = results.unpack_uhyper(), results.unpack_uhyper()
    assert total - free == 8192
    results = client.call(19, client.opaque(root))
    results.unpack_uint()
    results.attributes()
    assert [results.unpack_uint() for _ in range(7)] == [32768, 32768, 4096, 32768, 32768, 4096, 4096]
    assert results.unpack_uhyper() == (1 << 63) - 1
    assert [results.unpack_uint() for _ in range(3)] == [0, 1, 0x1B]
    results.done()
    results = client.call(20, client.opaque(root))
    results.unpack_uint()
    results.attributes()
    assert [results.unpack_uint() for _ in range(6)] == [32000, 255, 1, 1, 0, 1]
    results.done()


def commit(client, handle, offset, count):
    results = client.call(21, client.opaque(handle) + struct.pack("!QI", offset, count))
    assert results.unpack_uint() == 0


def test_commit_keeps_to_its_range(client, server, swapfile):
    for block in range(4):
        client.write(swapfile, 4096 * block, bytes([block + 1]) * 4096, NFS_UNSTABLE)
    commit(client, swapfile, 4096, 4096)
    server.crash(lose_unstable=True)
    assert client.read(swapfile, 0, 32768)[0] == bytes(4096) + b"\2" * 4096


def test_commit_with_count_0_goes_to_the_end(client, server, swapfile):
    for block in range(4):
        client.write(swapfile, 4096 * block, bytes([block + 1]) * 4096, NFS_UNSTABLE)
    commit(client, swapfile, 8192 + 100, 0)
    server.crash(lose_unstable=True)
    assert client.read(swapfile, 0, 32768)[0] == bytes(8192) + b"\3" * 4096 + b"\4" * 4096


def test_commit_at_the_end_of_all_offsets_does_no_harm(client, server, swapfile):
    client.write(swapfile, 0, b"u" * 4096, NFS_UNSTABLE)
    commit(client, swapfile, (1 << 64) - 1, 0xFFFFFFFF)
    assert server.crash(lose_unstable=True) == 1


def test_a_time_that_cannot_be_is_refused(client, swapfile):
    """The largest seconds with more than a second of nanoseconds would not even fit into an answer."""
    args = client.opaque(swapfile) + client.words(0, 0, 0, 0) + client.words(2, 0xFFFFFFFF, 0xFFFFFFFF) + client.words(0, 0)
    assert client.status(2, args) == NFS3ERR_INVAL
    args = client.opaque(swapfile) + client.words(0, 0, 0, 0) + client.words(2, 0xFFFFFFFF, 999_999_999) + client.words(0, 0)
    assert client.status(2, args) == 0
    assert client.getattr(swapfile).atime == (0xFFFFFFFF, 999_999_999)


def test_a_guard_is_compared_as_it_is_written(client, swapfile):
    """A second less and a billion nanoseconds more are not the same time."""
    seconds, rest = client.getattr(swapfile).ctime
    assert client.status(2, setattr_args(client, swapfile, guard=(seconds - 1, rest + SECOND), size=1)) == NFS3ERR_NOT_SYNC


def test_a_file_that_changes_its_owner_is_no_longer_set_user_id(client, root):
    handle = client.create(root, b"tool", client.sattr(mode=0o6755))
    assert client.getattr(handle).mode == 0o6755
    client.status(2, setattr_args(client, handle, uid=500))
    assert client.getattr(handle).mode == 0o755
