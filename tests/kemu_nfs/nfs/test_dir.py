"""Directories of a mount: walking, making, removing, listing, and rights."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import (
    EACCES,
    EEXIST,
    EINVAL,
    EIO,
    EISDIR,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOMEM,
    ENOTDIR,
    ENOTEMPTY,
    EROFS,
    ESTALE,
    EXDEV,
)
from kemu_nfs.mount_options import mount_options
from kemu_nfs.nfs.nfs3xdr_names import DirPage
from kemu_nfs.sunrpc.nfs3_const import (
    NFS3_ACCESS_LOOKUP,
    NFS3_ACCESS_MODIFY,
    NFS3_ACCESS_READ,
    NFS3ERR_JUKEBOX,
    NFS3ERR_STALE,
    NFS3PROC_ACCESS,
    NFS3PROC_GETATTR,
    NFS3PROC_LOOKUP,
    NFS3PROC_MKDIR,
)
from nfs_ground import SECOND, mounted


@pytest.fixture
def ground():
    with mounted() as g:
        yield g
        g.check()
        assert g.mount.umount() == 0
        modules = g.mount.modules
        assert g.machine.slub.objects_in_use(modules.inode_cache) == 0
        assert g.mount.auth.references() == 0


def names(ground, folder=None, **how):
    return [entry.name for entry in ground.mount.readdir(folder or ground.mount.root, **how)]


# -- walking


def test_dots_lead_where_they_should(ground):
    mount = ground.mount
    sub = mount.mkdir("sub")
    deep = mount.mkdir("sub/deep")
    assert mount.lookup("sub/./deep") is deep
    assert mount.lookup("sub/deep/..") is sub
    assert mount.lookup("../../sub/deep/../deep") is deep
    assert mount.lookup("..") is mount.root is mount.lookup("")


def test_a_file_is_no_way_to_anywhere(ground):
    ground.mount.create("f")
    assert ground.mount.lookup("f/x") == -ENOTDIR
    assert ground.mount.create("f/x") in (-ENOTDIR, -ENOENT)
    assert ground.mount.lookup("nowhere/x") == -ENOENT


def test_symbolic_links_are_followed(ground):
    mount = ground.mount
    mount.mkdir("a")
    f = mount.create("a/f")
    mount.symlink("to_a", "a")
    mount.symlink("a/to_f", "./f")
    mount.symlink("a/back", "../to_a/to_f")
    assert mount.lookup("to_a/f") is f
    assert mount.lookup("a/back") is f
    link = mount.lookup("a/to_f", follow=False)
    assert mount.readlink(link) == "./f"
    assert mount.readlink(f) == -EINVAL
    file = mount.open("to_a/back")
    assert file.private_data.nfsi is f


def test_links_in_a_ring_and_links_out_of_the_mount(ground):
    ground.mount.symlink("x", "y")
    ground.mount.symlink("y", "x")
    ground.mount.symlink("out", "/etc/passwd")
    assert ground.mount.lookup("x") == -ELOOP
    assert ground.mount.lookup("out") == -EXDEV
    assert ground.mount.symlink("long", "x" * 5000) == -ENAMETOOLONG


def test_names_that_are_too_long_are_refused_here(ground):
    calls = ground.nfsd.server.calls
    assert ground.mount.lookup("n" * 256) == -ENAMETOOLONG
    assert ground.mount.create("\u00e9" * 128) == -ENAMETOOLONG, "bytes count, not letters"
    assert ground.nfsd.server.calls == calls
    assert not isinstance(ground.mount.create("n" * 255), int)


@pytest.mark.parametrize("path", ["", "/", ".", "sub/.."])
def test_a_name_must_be_one(ground, path):
    ground.mount.mkdir("sub")
    assert ground.mount.create(path) in (-ENOTDIR, -EINVAL)
    assert ground.mount.remove(path) in (-ENOTDIR, -EINVAL)


def test_a_lookup_without_attributes_asks_for_them(ground, monkeypatch):
    made = ground.mount.create("f")
    call = ground.mount.dir.calls.call
    asked = []

    def silent(proc, args):
        result = call(proc, args)
        asked.append(proc.name)
        if proc.name == "LOOKUP":
            result.fattr = None
        return result

    monkeypatch.setattr(ground.mount.dir.calls, "call", silent)
    ground.run_for(60 * SECOND)
    assert ground.mount.lookup("f") is made
    del ground.mount.inodes[made.fh]
    ground.mount.dir.stale.append(made)
    assert ground.mount.lookup("f").inode.ino == made.inode.ino
    assert asked == ["LOOKUP", "LOOKUP", "GETATTR"]


# -- making and removing


def test_directories_are_made_and_removed(ground):
    mount = ground.mount
    sub = mount.mkdir("sub", mode=0o700)
    assert (sub.fattr.ftype, sub.fattr.mode) == (2, 0o700)
    assert mount.mkdir("sub") == -EEXIST
    mount.create("sub/f")
    assert mount.rmdir("sub") == -ENOTEMPTY
    assert mount.remove("sub/f") == 0 == mount.rmdir("sub")
    assert mount.lookup("sub") == -ENOENT
    mount.create("f")
    assert mount.rmdir("f") == -ENOTDIR


def test_a_hard_link_is_the_same_inode(ground):
    f = ground.mount.create("f")
    assert ground.mount.link(f, "g") == 0
    assert ground.mount.lookup("g") is f
    assert ground.mount.getattr(f).nlink == 2
    assert ground.mount.remove("f") == 0
    assert ground.mount.getattr(f).nlink == 1
    assert ground.mount.link(f, "g") == -EEXIST


def test_renames(ground):
    mount = ground.mount
    f, g = mount.create("f"), mount.create("g")
    mount.mkdir("sub")
    assert mount.rename("f", "sub/h") == 0
    assert mount.lookup("f") == -ENOENT
    assert mount.lookup("sub/h") is f
    assert mount.rename("sub/h", "g") == 0, "over another"
    assert mount.lookup("g") is f
    assert mount.rename("nothing", "x") == -ENOENT
    assert mount.getattr(g) == -ESTALE


def test_a_directory_forgets_its_cached_times_with_each_change(ground):
    before = ground.mount.root.attr
    ground.mount.create("f")
    assert ground.mount.root.attr != before
    assert ground.mount.getattr(ground.mount.root, refresh=False).mtime == ground.mount.getattr(ground.mount.root).mtime


def test_a_busy_server_is_asked_again(ground):
    ground.faults.error(NFS3PROC_MKDIR, NFS3ERR_JUKEBOX, times=2)
    before = ground.sched.now
    assert not isinstance(ground.mount.mkdir("late"), int)
    assert ground.sched.now - before > 9 * SECOND


def test_a_read_only_mount_changes_nothing():
    with mounted(options=mount_options("ro")) as ground:
        ground.nfsd.server.tree.make_file("/export/f", 10)
        mount = ground.mount
        nfsi = mount.lookup("f")
        calls = ground.nfsd.server.calls
        changes = [mount.create("g"), mount.mkdir("g"), mount.remove("f"), mount.rename("f", "g"), mount.link(nfsi, "g")]
        changes += [mount.symlink("g", "f"), mount.rmdir("f"), mount.setattr(nfsi, size=0)]
        assert changes == [-EROFS] * 8
        assert ground.nfsd.server.calls == calls
        assert mount.open("f") == -EROFS
        file = mount.open("f", mode=1)
        assert mount.read(file, 0, 20) == bytes(10)


def test_a_stale_root_says_so(ground):
    ground.faults.error(NFS3PROC_LOOKUP, NFS3ERR_STALE)
    assert ground.mount.lookup("f") == -ESTALE
    assert ground.mount.lookup("f") == -ENOENT


# -- opening


def test_only_files_are_opened(ground):
    ground.mount.mkdir("sub")
    assert ground.mount.open("sub") == -EISDIR == ground.mount.open("")


# -- listing


@pytest.mark.parametrize("plus", [True, False])
def test_all_names_are_listed_over_many_pages(ground, plus):
    tree = ground.nfsd.server.tree
    for i in range(100):
        tree.make_file(f"/export/{i:03d}-{'n' * 60}")
    listed = names(ground, plus=plus)
    assert sorted(listed) == sorted([".", "..", *(f"{i:03d}-{'n' * 60}" for i in range(100))])


def test_a_list_brings_attributes(ground):
    f = ground.mount.create("f")
    ground.nfsd.server.tree.write(ground.nfsd.server.tree.lookup_path("/export/f"), 0, b"12345", True)
    (entry,) = [entry for entry in ground.mount.readdir(ground.mount.root) if entry.name == "f"]
    assert (entry.fileid, entry.fh) == (f.inode.ino, f.fh)
    assert f.inode.size == 5


def test_a_file_has_no_names(ground):
    assert ground.mount.readdir(ground.mount.create("f")) == -ENOTDIR


def test_a_list_that_goes_in_a_ring_ends(ground, monkeypatch):
    ground.mount.create("f")
    call = ground.mount.dir.calls.call

    def ring(proc, args):
        result = call(proc, args)
        if proc.name.startswith("READDIR"):
            result.value = DirPage(bytes(8), result.value.entries, eof=False)
        return result

    monkeypatch.setattr(ground.mount.dir.calls, "call", ring)
    assert ground.mount.readdir(ground.mount.root) == -ELOOP


# -- rights


def accesses(ground):
    return ground.nfsd.server.counts.get((100003, NFS3PROC_ACCESS), 0)


def test_access_is_asked_once_and_cached_by_who_asks(ground):
    nfsi = ground.mount.create("f", mode=0o640)
    everything = NFS3_ACCESS_READ | NFS3_ACCESS_MODIFY
    assert ground.mount.access(nfsi, everything) == everything
    assert ground.mount.access(nfsi, NFS3_ACCESS_READ) == NFS3_ACCESS_READ
    assert accesses(ground) == 1
    answers = []
    ground.spawn(lambda: answers.append(ground.mount.access(nfsi, everything)), uid=1000)
    ground.run_for(SECOND)
    assert answers == [0]
    assert accesses(ground) == 2


def test_a_bit_that_was_not_asked_for_is_asked_for(ground):
    nfsi = ground.mount.create("f")
    ground.mount.access(nfsi, NFS3_ACCESS_READ)
    ground.mount.access(nfsi, NFS3_ACCESS_MODIFY)
    assert accesses(ground) == 2


def test_other_rights_and_old_age_make_the_answer_invalid(ground):
    nfsi = ground.mount.create("f")
    ground.mount.access(nfsi, NFS3_ACCESS_READ)
    ground.mount.setattr(nfsi, mode=0o400)
    ground.mount.access(nfsi, NFS3_ACCESS_READ)
    assert accesses(ground) == 2
    ground.run_for(100 * SECOND)
    ground.mount.access(nfsi, NFS3_ACCESS_READ)
    assert accesses(ground) == 3


def test_access_to_a_file_that_is_gone(ground):
    nfsi = ground.mount.create("f")
    ground.nfsd.server.tree.remove(ground.nfsd.server.tree.lookup_path("/export"), b"f")
    assert ground.mount.access(nfsi, NFS3_ACCESS_READ) == -ESTALE
    assert nfsi.stale
    assert ground.mount.access(ground.mount.root, NFS3_ACCESS_LOOKUP) == NFS3_ACCESS_LOOKUP


def test_the_server_judges_each_call(ground):
    ground.mount.mkdir("private", mode=0o700)
    answers = []
    ground.spawn(lambda: answers.append(ground.mount.create("private/f")), uid=1000)
    ground.run_for(SECOND)
    assert answers == [-EACCES]


def test_a_status_that_nobody_knows_is_eio(ground):
    ground.faults.error(NFS3PROC_GETATTR, 4711)
    assert ground.mount.getattr(ground.mount.root) == -EIO


def test_without_memory_there_is_no_inode(ground, monkeypatch):
    ground.nfsd.server.tree.make_file("/export/f")
    alloc = ground.machine.slub.kmem_cache_alloc
    full = ground.mount.modules.inode_cache
    with monkeypatch.context() as patch:
        patch.setattr(ground.machine.slub, "kmem_cache_alloc", lambda cache, gfp: None if cache is full else alloc(cache, gfp))
        assert ground.mount.lookup("f") == -ENOMEM
        assert ground.mount.create("g") == -ENOMEM
    assert not isinstance(ground.mount.lookup("f"), int)


def test_a_create_whose_reply_has_no_handle_looks_the_name_up(ground, monkeypatch):
    call = ground.mount.dir.calls.call

    def without_handle(proc, args):
        result = call(proc, args)
        if proc.name == "CREATE":
            result.fh = None
        return result

    monkeypatch.setattr(ground.mount.dir.calls, "call", without_handle)
    assert ground.mount.create("f") is ground.mount.lookup("f")
