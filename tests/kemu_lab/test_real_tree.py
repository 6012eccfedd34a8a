"""A real directory as the server's file system: the same answers as the tree in memory, and no way out."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_lab.real_tree import RealTree
from kemu_nfs.server.cred import Cred
from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.mount_proc import Export
from kemu_nfs.server.rpc_server import NfsServer
from kemu_nfs.sunrpc.nfs3_const import (
    NF3FIFO,
    NF3LNK,
    NF3SOCK,
    NFS3ERR_ACCES,
    NFS3ERR_NOTSUPP,
    NFS3ERR_STALE,
)
from nfs_speaker import Client, opaque, right_args, sattr, words

AS_ROOT = os.geteuid() == 0
ME = Cred(os.geteuid(), os.getegid(), tuple(os.getgroups()))
OTHER = 500 if AS_ROOT else ME.uid
GROUP = 100 if AS_ROOT else ME.gid


@pytest.fixture
def tree(tmp_path):
    tree = RealTree(str(tmp_path), durable=False)
    yield tree
    tree.check()
    tree.close()


@pytest.fixture
def client(tree):
    server = NfsServer(tree, exports=(Export("/export", at="/"),), all_as=tree.owner())
    return Client(server, ME.uid, ME.gid)


@pytest.fixture
def root(client):
    return client.mnt()


class Side:
    """One server, the handles that were learned from it, and who calls."""

    def __init__(self, tree, **server):
        self.tree = tree
        self.server = NfsServer(tree, **server)
        self.callers = [Client(self.server, ME.uid, ME.gid), Client(self.server, OTHER, GROUP)]
        self.callers[1].xid += 1 << 20  # two programs of one host do not share numbers
        self.handles = [self.callers[0].mnt()]

    def call(self, who, proc, args):
        results = self.callers[who].call(proc, args)
        return results.unpack_uint(), results

    def shown(self, handle):
        """What both trees must agree on; None if it is gone."""
        results = self.callers[0].call(1, opaque(handle))
        if results.unpack_uint():
            return None
        kind, mode, nlink, uid, gid = (results.unpack_uint() for _ in range(5))
        size = results.unpack_uhyper()
        return (kind, mode, uid, gid) if kind == 2 else (kind, mode, nlink, uid, gid, size)

    def play(self, step):
        """Make one call; return what it answered, as far as it must be the same everywhere."""
        proc, who, first, name, second, other, number = step
        here, there = self.handles[first % len(self.handles)], self.handles[second % len(self.handles)]
        if proc == "crash":
            return self.tree.crash(lose_unstable=True)
        if proc in ("create", "guarded", "exclusive"):
            how = {"create": words(0) + sattr(mode=0o640), "guarded": words(1) + sattr(mode=0o604, size=number)}
            args = opaque(here) + opaque(name) + how.get(proc, words(2) + b"verifier")
            return self.made(self.call(who, 8, args))
        if proc == "mkdir":
            return self.made(self.call(who, 9, opaque(here) + opaque(name) + sattr(mode=0o777 if number & 1 else 0o750)))
        if proc == "symlink":
            return self.made(self.call(who, 10, opaque(here) + opaque(name) + sattr() + opaque(other)))
        if proc == "mknod":
            kind = NF3FIFO if number & 1 else NF3SOCK
            return self.made(self.call(who, 11, opaque(here) + opaque(name) + words(kind) + sattr(mode=0o622)))
        if proc in ("remove", "rmdir"):
            return self.call(who, 12 if proc == "remove" else 13, opaque(here) + opaque(name))[0]
        if proc == "rename":
            return self.call(who, 14, opaque(here) + opaque(name) + opaque(there) + opaque(other))[0]
        if proc == "link":
            return self.call(who, 15, opaque(here) + opaque(there) + opaque(name))[0]
        if proc == "lookup":
            return self.call(who, 3, opaque(here) + opaque(name))[0]
        if proc == "readlink":
            status, results = self.call(who, 5, opaque(here))
            results.attributes()
            return status, b"" if status else results.unpack_opaque()
        if proc == "access":
            status, results = self.call(who, 4, opaque(here) + words(0x3F))
            results.attributes()
            return status, 0 if status else results.unpack_uint()
        if proc == "list":
            status, _ = self.call(who, 16, opaque(here) + struct.pack("!16xI", 8192))
            return status, () if status else sorted(self.callers[0].names(here))
        if proc == "resize":
            return self.call(who, 2, opaque(here) + sattr(size=number) + words(0))[0]
        if proc == "chmod":
            return self.call(who, 2, opaque(here) + sattr(mode=0o777 if number & 1 else 0o644) + words(0))[0]
        if proc == "commit":
            return self.call(who, 21, opaque(here) + struct.pack("!QI", number & ~4095, number & 1 and 4096))[0]
        if proc == "read":
            status, results = self.call(who, 6, opaque(here) + struct.pack("!QI", number, 5000))
            if status:
                return status
            results.attributes()
            return status, results.unpack_uint(), results.unpack_bool(), results.unpack_opaque()
        stable = 2 if number & 1 else 0
        return self.call(who, 7, Client.write_args(here, number, bytes([1 + number % 255]) * (number // 3), stable))[0]

    def made(self, answer):
        status, results = answer
        if not status and results.unpack_bool():
            self.handles.append(results.unpack_opaque())
        return status

    def everything(self):
        return [self.shown(handle) for handle in self.handles]


names = st.sampled_from([b"a", b"b", b"c", b"d", b".", b"..", b"", b"x/y", b"n" * 256, b"\xff\x01"])
steps = st.tuples(
    st.sampled_from(
        [
            *(
                "create",
                "create",
                "guarded",
                "exclusive",
                "mkdir",
                "mkdir",
                "symlink",
                "mknod",
                "remove",
                "rmdir",
                "rename",
                "rename",
            ),
            *(
                "link",
                "lookup",
                "readlink",
                "access",
                "list",
                "resize",
                "chmod",
                "commit",
                "read",
                "write",
                "write",
                "write",
                "crash",
            ),
        ]
    ),
    st.integers(0, 1),
    st.integers(0, 7),
    names,
    st.integers(0, 7),
    names,
    st.integers(0, 20000),
)


@contextmanager
def directory():
    """A directory for one example: a fixture's would be shared by all."""
    path = tempfile.mkdtemp()
    try:
        yield path
    finally:
        shutil.rmtree(path)


@settings(max_examples=50, deadline=None)
@given(st.lists(steps, max_size=25))
def test_the_same_calls_get_the_same_answers_as_in_memory(todo):
    with directory() as path:
        real_tree = RealTree(path, durable=False, keep_undo=True)
        memory_tree = FileTree(lambda: 0)
        memory_tree.make_dir("/export", uid=ME.uid, gid=ME.gid)
        memory, real = Side(memory_tree), Side(real_tree, exports=(Export("/export", at="/"),), all_as=real_tree.owner())
        memory.call(0, 2, opaque(memory.handles[0]) + sattr(mode=0o755) + words(0))
        real.call(0, 2, opaque(real.handles[0]) + sattr(mode=0o755) + words(0))
        for step in todo:
            if step[0] == "chmod" and (memory.shown(memory.handles[step[2] % len(memory.handles)]) or (0,))[0] == NF3LNK:
                continue  # Linux gives links no mode; see test_a_link_has_no_mode
            assert memory.play(step) == real.play(step), step
            assert memory.everything() == real.everything(), step
            memory_tree.check()
            real_tree.check()
        real_tree.close()


def test_a_link_has_no_mode(client, root):
    results = client.call(10, opaque(root) + opaque(b"l") + sattr() + opaque(b"t"))
    results.unpack_uint(), results.unpack_bool()
    assert client.status(2, opaque(results.unpack_opaque()) + sattr(mode=0o600) + words(0)) == NFS3ERR_NOTSUPP


# no way out


@pytest.fixture
def outside(tmp_path):
    """A directory to be served, beside a file that nobody may reach."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret").write_bytes(b"secret")
    return inside


@pytest.fixture
def confined(outside):
    tree = RealTree(str(outside), durable=False)
    yield Client(NfsServer(tree, exports=(Export("/export", at="/"),), all_as=tree.owner()), ME.uid, ME.gid)
    tree.check()
    tree.close()


def below(path):
    """All that is beside and below a directory, with contents: what an escape would change."""
    found = {}
    for folder, _, files in os.walk(path):
        found[folder] = None
        for name in files:
            at = Path(folder, name)
            found[str(at)] = at.read_bytes() if stat.S_ISREG(at.lstat().st_mode) else at.lstat().st_mode
    return found


def test_the_parent_of_the_top_is_the_top(confined):
    top = confined.mnt()
    assert confined.lookup(top, b"..") == top
    assert confined.mnt(b"/export/../../export/..//export/.") == top


@pytest.mark.parametrize(
    "path", [b"/", b"/etc", b"/export/../etc", b"export/../../etc", b"/export/\0/etc", b"/export/l", b"/other"]
)
def test_a_mount_does_not_lead_out(confined, outside, path):
    (outside / "l").symlink_to(outside.parent / "other")
    assert confined.status(1, opaque(path), prog=100005) in (NFS3ERR_ACCES, 20)


def test_a_link_that_leads_out_is_told_and_not_followed(confined, outside):
    (outside / "out").symlink_to("../other")
    (outside / "file").symlink_to("../secret")
    top = confined.mnt()
    out, file = confined.lookup(top, b"out"), confined.lookup(top, b"file")
    assert confined.getattr(out).type == confined.getattr(file).type == NF3LNK
    assert confined.status(3, opaque(out) + opaque(b"secret")) == 20
    assert confined.status(6, opaque(file) + struct.pack("!QI", 0, 10)) == 22
    assert confined.status(7, confined.write_args(file, 0, b"x")) == 22
    assert confined.status(8, opaque(out) + opaque(b"new") + words(0) + sattr()) == 20
    assert (outside.parent / "secret").read_bytes() == b"secret"


def test_a_directory_that_became_a_link_is_stale(confined, outside):
    (outside / "d").mkdir()
    (outside / "d" / "secret").write_bytes(b"mine")
    folder = confined.lookup(confined.mnt(), b"d")
    file = confined.lookup(folder, b"secret")
    (outside / "d").rename(outside.parent / "gone")
    (outside / "d").symlink_to("../other")
    for proc, args in (
        (1, opaque(file)),
        (3, opaque(folder) + opaque(b"secret")),
        (6, opaque(file) + struct.pack("!QI", 0, 9)),
        (8, opaque(folder) + opaque(b"new") + words(0) + sattr()),
        (12, opaque(folder) + opaque(b"secret")),
        (16, opaque(folder) + struct.pack("!16xI", 4096)),
    ):
        assert confined.status(proc, args) == NFS3ERR_STALE
    assert (outside.parent / "other" / "secret").exists()


def test_a_file_that_was_moved_out_is_stale_though_it_was_open(confined, outside):
    (outside / "f").write_bytes(b"12345")
    file = confined.lookup(confined.mnt(), b"f")
    assert confined.read(file, 0, 5)[0] == b"12345"
    (outside / "f").rename(outside.parent / "f")
    assert confined.status(6, opaque(file) + struct.pack("!QI", 0, 5)) == NFS3ERR_STALE
    assert confined.status(7, confined.write_args(file, 0, b"xxxxx")) == NFS3ERR_STALE
    assert (outside.parent / "f").read_bytes() == b"12345"


parts = st.sampled_from([b"..", b".", b"/", b"secret", b"other", b"out", b"\0", b"in", b"\xff", b"%2e%2e", b"\\", b"~", b" "])
wild = st.one_of(st.lists(parts, max_size=5).map(b"".join), st.lists(parts, max_size=5).map(b"/".join), st.binary(max_size=12))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), wild, wild), min_size=1, max_size=10))
def test_no_name_reaches_anything_outside(todo):
    with directory() as path:
        inside = Path(path, "inside")
        (inside / "in").mkdir(parents=True)
        (Path(path) / "secret").write_bytes(b"secret")
        (Path(path) / "other").mkdir()
        (inside / "out").symlink_to("../other")
        tree = RealTree(str(inside), durable=False)
        client = Client(NfsServer(tree, exports=(Export("/export", at="/"),), all_as=tree.owner()), ME.uid, ME.gid)
        handles = [client.mnt()]
        handles += [client.lookup(handles[0], name) for name in (b"in", b"out")]
        before = {at: data for at, data in below(path).items() if not at.startswith(str(inside))}
        for what, name, other in todo:
            handle = handles[what % len(handles)]
            results = client.call(3, opaque(handle) + opaque(name))
            if not results.unpack_uint():
                handles.append(results.unpack_opaque())
            client.call(8, opaque(handle) + opaque(name) + words(what % 2) + sattr(mode=0o600))
            client.call(9, opaque(handle) + opaque(other) + sattr())
            client.call(10, opaque(handle) + opaque(name) + sattr() + opaque(other))
            client.call(14, opaque(handle) + opaque(name) + opaque(handles[-1]) + opaque(other))
            client.call(15, opaque(handles[-1]) + opaque(handle) + opaque(other))
            client.call(12, opaque(handle) + opaque(name))
            client.call(13, opaque(handle) + opaque(other))
            client.call(7, client.write_args(handles[-1], 0, b"evil"))
            results = client.call(1, opaque(name), prog=100005)
            if not results.unpack_uint():
                handles.append(results.unpack_opaque())
        assert {at: data for at, data in below(path).items() if not at.startswith(str(inside))} == before
        inside_inodes = {at.lstat().st_ino for at in [inside, *inside.rglob("*")]}
        for handle in handles:
            status, node = tree.find(handle)
            assert status or node.fileid in inside_inodes
        tree.check()
        tree.close()


numbers = st.sampled_from([0, 1, 2, 3, 7, 64, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 21), st.lists(st.tuples(st.integers(10, 45), numbers), min_size=1, max_size=3), st.booleans())
def test_any_word_of_a_call_may_be_anything(proc, changes, keep_undo):
    """The real directory answers, keeps serving, and what it refused changed nothing."""
    with directory() as path:
        tree = RealTree(path, durable=False, keep_undo=keep_undo)
        client = Client(NfsServer(tree, exports=(Export("/export", at="/"),), all_as=tree.owner()), ME.uid, ME.gid)
        top = client.mnt()
        file, folder = client.create(top, b"file"), client.mkdir(top, b"folder")
        client.write(file, 0, b"data" * 100)
        record = bytearray(client.record(proc, right_args(proc, folder, file)))
        for place, value in changes:
            at = 4 * place % (len(record) // 4 * 4)
            record[at : at + 4] = value.to_bytes(4, "big")
        before = below(path)
        reply = client.send(bytes(record))
        if reply is None or reply[8:12] != bytes(4) or reply[20:24] != bytes(4) or reply[24:28] != bytes(4):
            assert below(path) == before
        assert client.getattr(top).type == 2
        tree.check()
        tree.close()
