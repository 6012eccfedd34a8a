"""Data and attributes in a real directory: on the disk when it is said, errors told, nothing beyond what was asked."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from kemu.errors import ConfigError
from kemu_lab import real_files
from kemu_lab.real_tree import RealTree, cookie_of
from kemu_nfs.server.cred import Cred
from kemu_nfs.server.mount_proc import Export
from kemu_nfs.server.rpc_server import NfsServer
from kemu_nfs.server.tree import Sattr3
from kemu_nfs.sunrpc.nfs3_const import (
    NF3BLK,
    NF3CHR,
    NF3DIR,
    NFS3_OK,
    NFS3ERR_ACCES,
    NFS3ERR_DQUOT,
    NFS3ERR_IO,
    NFS3ERR_NOSPC,
    NFS3ERR_NOTSUPP,
    NFS3ERR_ROFS,
)
from nfs_speaker import Client, opaque, sattr, words

ME = Cred(os.geteuid(), os.getegid())


@pytest.fixture
def tree(tmp_path):
    tree = RealTree(str(tmp_path), durable=False, keep_undo=True)
    yield tree
    tree.check()
    tree.close()


@pytest.fixture
def file(tree):
    status, node = tree.create(tree.root, b"f", 0o600, ME)
    assert status == NFS3_OK
    return node


def test_data_is_in_the_file(tree, file, tmp_path):
    assert tree.write(file, 0, b"page" * 1024, stable=True) == (NFS3_OK, 4096)
    assert (tmp_path / "f").read_bytes() == b"page" * 1024
    assert file.size == 4096


def test_a_hole_takes_no_room_and_reads_as_zeros(tree, file):
    tree.write(file, 1 << 30, b"end", stable=True)
    assert (file.size, tree.read(file, 4096, 8)) == ((1 << 30) + 3, (NFS3_OK, bytes(8)))
    assert file.used < 1 << 20


@pytest.mark.parametrize("offset", [10, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_beyond_the_end_there_is_nothing(tree, file, offset):
    tree.write(file, 0, b"data", stable=True)
    assert tree.read(file, offset, 100) == (NFS3_OK, b"")


def test_a_file_may_not_be_larger_than_the_file_system_lets_it(tmp_path):
    tree = RealTree(str(tmp_path), durable=False)
    client = Client(NfsServer(tree, exports=(Export("/export", at="/"),), all_as=tree.owner()), ME.uid, ME.gid)
    handle = client.create(client.mnt(), b"f")
    assert client.status(2, opaque(handle) + sattr(size=(1 << 64) - 1) + words(0)) == 27
    assert client.status(7, client.write_args(handle, (1 << 64) - 8, b"12345678")) == 27
    assert client.status(7, client.write_args(handle, (1 << 63) - 9, b"12345678")) in (0, 22, 27)  # as the disk has it
    tree.close()


def test_stable_means_fsync_and_unstable_waits_for_commit(tmp_path, monkeypatch):
    tree = RealTree(str(tmp_path), durable=True)
    synced = []
    real_fsync = os.fsync
    monkeypatch.setattr(
        real_files.os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())) or real_fsync(fd)
    )
    _, node = tree.create(tree.root, b"f", 0o600, ME)
    assert synced == [str(tmp_path / "f"), str(tmp_path)]  # the file, then its name
    synced.clear()
    tree.write(node, 0, b"1", stable=True)
    assert synced == [str(tmp_path / "f")]
    tree.write(node, 0, b"2", stable=False)
    assert len(synced) == 1
    assert tree.commit(node, 0, 0) == (NFS3_OK, 1)
    assert len(synced) == 2
    assert tree.commit(node, 0, 0) == (NFS3_OK, 0)
    assert len(synced) == 2
    tree.write(node, 0, b"3", stable=False)
    tree.close()
    assert len(synced) == 3


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.ENOSPC, NFS3ERR_NOSPC), (errno.EDQUOT, NFS3ERR_DQUOT), (errno.EROFS, NFS3ERR_ROFS), (errno.EIO, NFS3ERR_IO)],
)
def test_an_error_of_the_disk_is_told(tree, file, monkeypatch, number, status):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(real_files.os, "pwrite", fail)
    assert tree.write(file, 0, b"data", stable=True) == (status, 0)
    monkeypatch.undo()
    monkeypatch.setattr(real_files.os, "fsync", fail)
    tree.durable = True
    assert tree.write(file, 0, b"data", stable=True) == (status, 0)
    assert tree.create(tree.root, b"g", 0o600, ME) == (status, None)
    monkeypatch.undo()
    tree.durable = False


def test_a_disk_that_becomes_full_within_a_write_makes_it_short(tree, file, monkeypatch):
    real_pwrite = os.pwrite
    left = [5]

    def pwrite(fd, data, offset):
        if not left[0]:
            raise OSError(errno.ENOSPC, "full")
        done = real_pwrite(fd, data[: left[0]], offset)
        left[0] -= done
        return done

    monkeypatch.setattr(real_files.os, "pwrite", pwrite)
    assert tree.write(file, 0, b"123456789", stable=True) == (NFS3_OK, 5)
    assert tree.write(file, 5, b"6789", stable=True) == (NFS3ERR_NOSPC, 0)
    assert tree.read(file, 0, 9) == (NFS3_OK, b"12345")


def test_an_emulated_crash_loses_what_was_not_committed(tree, file, tmp_path):
    tree.write(file, 0, b"s" * 8192, stable=True)
    tree.write(file, 4096, b"u" * 8192, stable=False)
    assert (tmp_path / "f").read_bytes() == b"s" * 4096 + b"u" * 8192
    assert tree.crash(lose_unstable=True) == 2
    assert (tmp_path / "f").read_bytes() == b"s" * 8192
    tree.write(file, 0, b"u" * 4096, stable=False)
    assert tree.crash(lose_unstable=False) == 0
    assert (tmp_path / "f").read_bytes() == b"u" * 4096 + b"s" * 4096


def test_what_is_remembered_of_unstable_writes_is_bounded(tree, file, monkeypatch):
    monkeypatch.setattr(real_files, "MAX_UNDO", 4)
    for block in range(8):
        tree.write(file, 4096 * block, b"u" * 4096, stable=False)
    assert tree.crash(lose_unstable=True) < 8  # some became stable of themselves, as they may


def test_few_files_are_open_at_a_time(tree, monkeypatch):
    monkeypatch.setattr(real_files, "MAX_OPEN", 3)
    nodes = [tree.create(tree.root, b"f%d" % number, 0o600, ME)[1] for number in range(6)]
    for _ in range(2):
        for number, node in enumerate(nodes):
            tree.write(node, 0, b"%d" % number, stable=False)
            assert tree.read(node, 0, 9) == (NFS3_OK, b"%d" % number)
            tree.check()


def test_a_file_is_never_set_user_id(tree, file, tmp_path):
    tree.create(tree.root, b"g", 0o6755, ME)
    assert tree.set_attributes(file, Sattr3(mode=0o6711)) == NFS3_OK
    assert [(tmp_path / name).stat().st_mode & 0o7777 for name in "gf"] == [0o755, 0o711]


@pytest.mark.parametrize("kind", [NF3CHR, NF3BLK])
def test_devices_are_not_made(tree, tmp_path, kind):
    assert tree.mknod(tree.root, b"dev", kind, 0o666, (1, 3), ME) == (NFS3ERR_NOTSUPP, None)
    assert list(tmp_path.iterdir()) == []


def test_times_can_be_set_one_at_a_time(tree, file):
    tree.set_attributes(file, Sattr3(atime_ns=5, mtime_ns=6))
    tree.set_attributes(file, Sattr3(mtime_ns=7))
    assert (file.atime_ns, file.mtime_ns) == (5, 7)
    tree.clock = lambda: 99
    tree.set_attributes(file, Sattr3(atime_ns=-1))
    assert (file.atime_ns, file.mtime_ns) == (99, 7)


def test_the_time_and_mode_of_the_top_can_be_set(tree, tmp_path):
    assert tree.set_attributes(tree.root, Sattr3(mode=0o700, mtime_ns=3_000_000_000)) == NFS3_OK
    assert (tmp_path.stat().st_mode & 0o777, tmp_path.stat().st_mtime) == (0o700, 3)


def test_an_exclusive_create_can_be_repeated_after_a_restart(tmp_path):
    for again in range(2):
        tree = RealTree(str(tmp_path), durable=False)
        client = Client(NfsServer(tree, exports=(Export("/export", at="/"),), all_as=tree.owner()), ME.uid, ME.gid)
        args = opaque(client.mnt()) + opaque(b"f") + words(2)
        assert client.status(8, args + b"\xffverf\xff12") == 0
        assert client.status(8, args + b"another1") == 17
        assert again or (tmp_path / "f").exists()
        tree.close()


def test_a_directory_is_listed_in_pieces_while_it_changes(tree, tmp_path):
    """Each name that is there all the time comes once; in another process, the same cookie goes on at the same place."""
    for number in range(50):
        (tmp_path / f"f{number}").write_bytes(b"")
    listed = sorted((cookie_of(b"f%d" % number), b"f%d" % number) for number in range(50))
    first = [(cookie, name) for cookie, name, _ in tree.entries(tree.root, 0)[1]][:20]
    assert first == listed[:20]
    (tmp_path / os.fsdecode(first[3][1])).unlink()
    (tmp_path / "new").write_bytes(b"")
    other = RealTree(str(tmp_path), durable=False)
    for each in (tree, other):
        rest = [name for _, name, _ in each.entries(each.root, first[-1][0])[1]]
        assert [name for name in rest if name != b"new"] == [name for _, name in listed[20:]]
    other.close()
    assert b"new" in [name for _, name, _ in tree.entries(tree.root, 0)[1]]


def test_names_need_not_be_text(tree, tmp_path):
    name = bytes(byte for byte in range(1, 256) if byte != 0x2F)[:200]
    _, node = tree.create(tree.root, name, 0o600, ME)
    assert [found for _, found, _ in tree.entries(tree.root, 0)[1]] == [name]
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [name]
    assert tree.lookup(tree.root, name) == (NFS3_OK, node)


def test_fsstat_tells_what_the_disk_tells(tree, tmp_path):
    full, known = tree.statfs(), os.statvfs(tmp_path)
    assert full.total_bytes == known.f_blocks * known.f_frsize
    assert full.total_files == known.f_files


def test_only_a_directory_can_be_exported(tree, file):
    for path in ("/f", "/nothing"):
        with pytest.raises(ConfigError, match="no directory"):
            tree.add_export(path)
    assert tree.lookup_path("/f") is file


def test_a_whole_file_can_be_looked_at(tree, file):
    tree.write(file, 0, b"page" * 2048, stable=True)
    assert tree.lookup_path("/f").read_data(4096, 4096) == b"page" * 1024


USER = """
    import os, sys
    sys.path[:0] = {path!r}
    from kemu_lab.real_tree import RealTree
    from kemu_nfs.server.mount_proc import Export
    from kemu_nfs.server.rpc_server import NfsServer
    from nfs_speaker import Client, opaque, sattr, words
    import struct
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    tree = RealTree(sys.argv[1], durable=False)
    client = Client(NfsServer(tree, exports=(Export("/export", at="/"),), all_as=tree.owner()), 0, 0)
    top = client.mnt()
    mine = client.create(top, b"mine", sattr(mode=0o600, uid=0))
    assert client.getattr(mine).uid == os.geteuid()
    assert client.status(2, opaque(mine) + sattr(uid=0) + words(0)) == 1  # PERM, though "root" asked
    client.write(mine, 0, b"data")
    client.status(2, opaque(mine) + sattr(mode=0) + words(0))
    assert client.status(6, opaque(mine) + struct.pack("!QI", 0, 1)) == 13  # ACCES: the machine does not let this process
    foreign = client.lookup(top, b"foreign")
    assert client.status(7, client.write_args(foreign, 0, b"x")) == 13
    closed = client.lookup(top, b"closed")
    assert client.status(3, opaque(closed) + opaque(b"x")) == 13
    assert client.status(12, opaque(closed) + opaque(b"x")) == 13
    unread = client.lookup(top, b"unread")
    assert client.status(16, opaque(unread) + struct.pack("!16xI", 4096)) == 13
    print("ok")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="files of somebody else are made by root")
def test_a_server_that_is_not_root_may_what_its_user_may():
    path = tempfile.mkdtemp()
    try:
        Path(path).chmod(0o777)
        Path(path, "foreign").write_bytes(b"")
        Path(path, "foreign").chmod(0o644)
        Path(path, "closed").mkdir(0o700)
        Path(path, "unread").mkdir()
        Path(path, "unread").chmod(0o711)
        program = textwrap.dedent(USER).format(path=sys.path)
        done = subprocess.run([sys.executable, "-c", program, path], check=False, capture_output=True, text=True, timeout=60)
        assert done.stdout == "ok\n", done.stderr
    finally:
        subprocess.run(["rm", "-rf", path], check=True, timeout=10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_as_root_new_objects_belong_to_the_caller(tmp_path):
    tree = RealTree(str(tmp_path), durable=False)
    tmp_path.chmod(0o777)
    client = Client(NfsServer(tree, exports=(Export("/export", at="/"),), all_as=tree.owner()), 500, 100)
    top = client.mnt()
    client.create(top, b"f")
    client.mkdir(top, b"d")
    client.call(10, opaque(top) + opaque(b"l") + sattr() + opaque(b"t"))
    for name in "fdl":
        assert ((tmp_path / name).lstat().st_uid, (tmp_path / name).lstat().st_gid) == (500, 100)
    assert client.status(12, opaque(top) + opaque(b"f")) == 0
    assert tree.lookup(tree.root, b"d")[1].ftype == NF3DIR
    tmp_path.chmod(0o755)
    assert client.status(13, opaque(top) + opaque(b"d")) == NFS3ERR_ACCES
    tree.close()
