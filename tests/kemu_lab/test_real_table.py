"""Handles of a real directory: they mean one object for ever, in this process and the next."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kemu.errors import ConfigError
from kemu_lab import real_table
from kemu_lab.real_tree import RealTree
from kemu_nfs.server.cred import Cred
from kemu_nfs.sunrpc.nfs3_const import NFS3_OK, NFS3ERR_ACCES, NFS3ERR_BADHANDLE, NFS3ERR_STALE

ME = Cred(os.geteuid(), os.getegid())


@pytest.fixture
def open_tree(tmp_path):
    """Open the directory as often as processes would."""
    trees = []

    def build():
        trees.append(RealTree(str(tmp_path), durable=False))
        return trees[-1]

    yield build
    for tree in trees:
        tree.check()
        tree.close()


@pytest.fixture
def tree(open_tree):
    return open_tree()


def found(tree, *names):
    status, node = tree.walk(names)
    assert status == NFS3_OK
    return node


def test_a_handle_survives_the_process(open_tree, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "f").write_bytes(b"data")
    first, second = open_tree(), open_tree()
    for names in ((), (b"a",), (b"a", b"b"), (b"a", b"b", b"f")):
        handle = found(first, *names).handle
        status, node = second.find(handle)
        assert status == NFS3_OK
        assert node.handle == handle
    assert second.read(node, 0, 10) == (NFS3_OK, b"data")


def test_a_handle_is_not_of_this_process_alone_nor_of_another_directory(open_tree, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "f").write_bytes(b"")
    handle = found(open_tree(), b"f").handle
    other = RealTree(str(tmp_path / "a"), durable=False)
    assert other.find(handle) == (NFS3ERR_BADHANDLE, None)
    other.close()


def test_a_removed_object_is_stale_and_who_gets_its_number_is_another(tree):
    """A file system gives inode numbers again, often at once."""
    handles = []
    for _ in range(20):
        _, node = tree.create(tree.root, b"f", 0o600, ME)
        handles.append(node.handle)
        assert tree.remove(tree.root, b"f") == NFS3_OK
    assert len(set(handles)) == 20
    tree.create(tree.root, b"f", 0o600, ME)
    assert [tree.find(handle)[0] for handle in handles] == [NFS3ERR_STALE] * 20


def test_a_stale_handle_stays_stale_in_the_next_process(open_tree):
    first = open_tree()
    _, node = first.create(first.root, b"f", 0o600, ME)
    first.remove(first.root, b"f")
    assert open_tree().find(node.handle) == (NFS3ERR_STALE, None)


@pytest.mark.parametrize("handle", [b"", b"x", b"keRD", bytes(32), b"\xff" * 32, b"kemu" + bytes(28), bytes(64)])
def test_what_was_never_a_handle_is_bad(tree, handle):
    assert tree.find(handle) == (NFS3ERR_BADHANDLE, None)


def test_who_is_moved_by_somebody_else_is_found_again(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(real_table, "SCAN_PAUSE", 0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"data")
    folder, file = found(tree, b"a"), found(tree, b"a", b"f")
    (tmp_path / "a").rename(tmp_path / "b" / "c")
    (tmp_path / "b" / "c" / "f").rename(tmp_path / "g")
    assert tree.find(folder.handle) == (NFS3_OK, folder)
    assert tree.find(file.handle) == (NFS3_OK, file)
    assert tree.read(file, 0, 4) == (NFS3_OK, b"data")


def test_one_name_of_two_may_go(tree, tmp_path):
    (tmp_path / "f").write_bytes(b"data")
    file = found(tree, b"f")
    assert tree.link(file, tree.root, b"g") == NFS3_OK
    assert tree.remove(tree.root, b"f") == NFS3_OK
    assert tree.find(file.handle) == (NFS3_OK, file)
    assert file.nlink == 1
    assert found(tree, b"g") is file


def test_the_tree_is_looked_through_once_a_second_at_most(tree, monkeypatch):
    _, node = tree.create(tree.root, b"f", 0o600, ME)
    gone = node.handle
    tree.remove(tree.root, b"f")
    scans = []
    monkeypatch.setattr(tree, "_scan", lambda: scans.append(1) or setattr(tree, "_scanned", real_table.time.monotonic()))
    for _ in range(50):
        tree.find(gone)
    assert len(scans) == 1


def test_a_tree_that_is_too_large_is_looked_through_in_part(open_tree, tmp_path, monkeypatch):
    for number in range(20):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}" / "f").write_bytes(b"")
    handles = [found(open_tree(), b"d%d" % number, b"f").handle for number in range(20)]
    monkeypatch.setattr(real_table, "MAX_SCAN", 25)
    tree = open_tree()
    statuses = [tree.find(handle)[0] for handle in handles]
    assert NFS3ERR_STALE in statuses
    assert set(statuses) <= {NFS3_OK, NFS3ERR_STALE}


def test_a_directory_on_another_device_is_refused(tree, tmp_path):
    (tmp_path / "d").mkdir()
    found(tree, b"d")
    tree.dev += 1  # as if something were mounted on it
    assert tree.step(tree.root, b"d") == (NFS3ERR_ACCES, None)
    tree.dev -= 1


def test_a_circle_in_the_table_has_an_end(tree, tmp_path):
    """Who moves directories behind the server's back can make it believe that two lie in each other."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    a, b = found(tree, b"a"), found(tree, b"a", b"b")
    a.names = [(b, b"a")]
    assert tree.step(b, b"x")[0] == NFS3ERR_STALE
    assert not b.is_below(tree.root)
    assert tree.find(b.handle)[0] == NFS3_OK  # looked for, and found


def test_no_descriptor_is_left_open(open_tree, tmp_path):
    (tmp_path / "a").mkdir()
    tree = open_tree()
    before = len(list(Path("/proc/self/fd").iterdir()))
    folder = found(tree, b"a")
    for number in range(30):
        name = b"f%d" % number
        _, node = tree.create(folder, name, 0o600, ME)
        tree.write(node, 0, b"x", stable=False)
        tree.lookup(folder, b"nothing")
        tree.step(node, b"below a file")
        tree.entries(folder, 0)
        tree.rename(folder, name, tree.root, name)
        tree.remove(tree.root, name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("path", ["", "nothing", "/nothing/at/all", "a\0b"])
def test_what_is_no_directory_cannot_be_served(path):
    with pytest.raises(ConfigError, match="cannot be served"):
        RealTree(path)


def test_a_file_cannot_be_served(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(ConfigError, match="Not a directory"):
        RealTree(str(tmp_path / "f"))
