"""The tree: paths, handles, and that counts of names stay right whatever is done."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu_nfs.server.cred import MAY_EXEC, MAY_READ, MAY_WRITE, Cred, permitted
from kemu_nfs.server.filetree import FileTree
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_BADHANDLE, NFS3ERR_STALE

ROOT = Cred(0, 0)


def tree():
    return FileTree(lambda: 0)


def test_paths_are_walked():
    files = tree()
    inode = files.make_file("/a/b/file", 5000)
    assert files.lookup_path("/a//b/./file") is inode
    assert files.lookup_path("/a/../../a/b/file") is inode
    assert files.lookup_path("/a/none") is None
    assert files.lookup_path("/a/b/file/x") is None
    files.check()


def test_make_file_refuses_what_is_there():
    files = tree()
    files.make_file("/f")
    with pytest.raises(KernelBug):
        files.make_file("/f")
    with pytest.raises(KernelBug):
        files.make_dir("/f/below")


def test_handles_are_stale_or_bad():
    files = tree()
    inode = files.make_file("/f")
    files.remove(files.root, b"f")
    assert files.find(inode.handle) == (NFS3ERR_STALE, None)
    assert files.find(FileTree(lambda: 0, fsid=2).root.handle)[0] == NFS3ERR_BADHANDLE
    assert files.make_file("/f").handle != inode.handle


@pytest.mark.parametrize(
    ("mode", "cred", "granted"),
    [
        (0o640, Cred(5, 7), MAY_READ | MAY_WRITE),
        (0o640, Cred(6, 7), MAY_READ),
        (0o640, Cred(6, 9, (8, 7)), MAY_READ),
        (0o640, Cred(6, 9), 0),
        (0o047, Cred(5, 7), 0),
        (0o047, Cred(6, 7), MAY_READ),
        (0o000, Cred(0, 0), MAY_READ | MAY_WRITE),
        (0o100, Cred(0, 0), MAY_READ | MAY_WRITE | MAY_EXEC),
    ],
)
def test_mode_bits(mode, cred, granted):
    inode = tree().make_file("/f", mode=mode, uid=5, gid=7)
    assert sum(bit for bit in (MAY_READ, MAY_WRITE, MAY_EXEC) if permitted(inode, cred, bit)) == granted


def test_a_setgid_directory_gives_its_group():
    files = tree()
    folder = files.make_dir("/d", mode=0o2777, gid=42)
    assert files.create(folder, b"f", 0o600, Cred(5, 5))[1].gid == 42


names = st.sampled_from([b"a", b"b", b"c", b".", b".."])
actions = st.tuples(
    st.sampled_from(["create", "mkdir", "symlink", "remove", "rmdir", "rename", "rename", "link"]),
    st.integers(0, 9),
    names,
    st.integers(0, 9),
    names,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(actions, max_size=30))
def test_whatever_is_done_the_counts_are_right(todo):
    files = tree()
    for what, first, name, second, other in todo:
        inodes = list(files.by_handle.values())
        one, two = inodes[first % len(inodes)], inodes[second % len(inodes)]
        if what in ("create", "mkdir"):
            getattr(files, what)(one, name, 0o755, ROOT)
        elif what == "symlink":
            files.symlink(one, name, b"t", 0o777, ROOT)
        elif what in ("remove", "rmdir"):
            getattr(files, what)(one, name)
        elif what == "rename":
            files.rename(one, name, two, other)
        else:
            files.link(one, two, other)
        files.check()
