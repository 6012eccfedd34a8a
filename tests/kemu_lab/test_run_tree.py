"""A real directory under an emulated server: what goes over the wire is the same on every disk, and at any time of day."""

from __future__ import annotations

import os

import pytest

from kemu_lab.run_tree import RunTree
from kemu_nfs.server.cred import Cred
from kemu_nfs.server.tree import Sattr3
from kemu_nfs.sunrpc.nfs3_const import NFS3_OK, NFS3ERR_STALE

ME = Cred(os.geteuid(), os.getegid(), ())


def told(node):
    """Give what an answer holds of an object."""
    times = (node.atime_ns, node.mtime_ns, node.ctime_ns)
    return node.handle, node.fileid, node.mode, node.nlink, node.size, node.used, times


def story(directory):
    """Make, write, enlarge and remove something; return all that was told."""
    directory.mkdir()
    tree = RunTree(str(directory), lambda: 7)
    try:
        tree.add_export("/")
        heard = [tree.fsid, tree.now(), told(tree.root), tree.statfs()]
        _, file = tree.create(tree.root, b"swapfile", 0o600, ME)
        heard.append(told(file))
        heard.append(tree.write(file, 0, b"x" * 5000, stable=True))
        tree.set_attributes(file, Sattr3(size=1 << 20, mtime_ns=-1))
        heard.append(told(file))
        heard.append((tree.read(file, 4990, 100), told(tree.root)))
        tree.remove(tree.root, b"swapfile")
        heard.append(tree.find(file.handle))
        _, again = tree.create(tree.root, b"swapfile", 0o600, ME)
        heard.append(told(again))
        assert again.handle != file.handle
        tree.check()
        return heard
    finally:
        tree.close()


def test_two_directories_tell_the_same(tmp_path):
    (tmp_path / "between").write_bytes(b"takes an inode")
    assert story(tmp_path / "a") == story(tmp_path / "b")


def test_the_data_is_real(tmp_path):
    tree = RunTree(str(tmp_path), lambda: 0)
    _, file = tree.create(tree.root, b"swapfile", 0o600, ME)
    tree.write(file, 10, b"page", stable=True)
    assert (tmp_path / "swapfile").read_bytes() == bytes(10) + b"page"
    tree.close()


def test_a_handle_is_found_until_its_object_is_gone(tmp_path):
    tree = RunTree(str(tmp_path), lambda: 0)
    _, file = tree.create(tree.root, b"swapfile", 0o600, ME)
    assert tree.find(file.handle) == (NFS3_OK, file)
    tree.remove(tree.root, b"swapfile")
    assert tree.find(file.handle)[0] == NFS3ERR_STALE
    tree.close()


@pytest.mark.parametrize("handle", [b"", b"keRT" + bytes(8), b"keRT" + b"\xff" * 8, bytes(64)])
def test_a_handle_that_was_never_given_is_an_error(handle, tmp_path):
    tree = RunTree(str(tmp_path), lambda: 0)
    status, node = tree.find(handle)
    assert status != NFS3_OK
    assert node is None
    tree.close()
