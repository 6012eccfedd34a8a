"""Files that are removed while they are open: another name, until the last opening goes."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EBUSY, EISDIR, ENOENT, ENOMEM
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_IO, NFS3ERR_JUKEBOX, NFS3PROC_REMOVE, NFS3PROC_RENAME
from nfs_ground import PAGE, SECOND, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.nfsi = g.mount.create("f")
        g.file = g.mount.open("f")
        g.mount.write(g.file, 0, page_bytes(0))
        yield g
        g.check()
        assert g.mount.root is None or g.mount.umount() == 0
        assert g.mount.auth.references() == 0
        assert g.mount.dir.unlinker.pending == 0


def names(ground):
    return sorted(name.decode() for name in folder(ground).entries if name not in (b".", b".."))


def folder(ground):
    return ground.nfsd.server.tree.lookup_path("/export")


def test_an_open_file_gets_another_name_and_loses_it_with_the_last_close(ground):
    second = ground.mount.open("f")
    assert ground.mount.remove("f") == 0
    assert names(ground) == [f".nfs{ground.nfsi.inode.ino:016x}{1:08x}"]
    assert ground.mount.lookup("f") == -ENOENT
    assert ground.mount.read(ground.file, 0, PAGE) == page_bytes(0)
    ground.mount.close(ground.file)
    ground.wait_for_calls()
    assert len(names(ground)) == 1, "the second opening holds it"
    assert ground.mount.write(second, 0, b"still") == 5
    ground.mount.close(second)
    ground.wait_for_calls()
    assert names(ground) == []


def test_a_closed_file_is_removed_at_once(ground):
    ground.mount.close(ground.file)
    assert ground.mount.remove("f") == 0
    assert names(ground) == []


def test_a_name_that_is_taken_is_passed_over(ground):
    taken = f".nfs{ground.nfsi.inode.ino:016x}{1:08x}"
    ground.nfsd.server.tree.make_file(f"/export/{taken}")
    assert ground.mount.remove("f") == 0
    assert names(ground) == [taken, taken[:-1] + "2"]


def test_the_other_name_cannot_be_removed_while_it_is_needed(ground):
    ground.mount.remove("f")
    assert ground.mount.remove(names(ground)[0]) == -EBUSY


def test_a_file_that_is_overwritten_by_a_rename_lives_on(ground):
    ground.mount.create("g")
    assert ground.mount.rename("g", "f") == 0
    assert ground.mount.read(ground.file, 0, PAGE) == page_bytes(0)
    assert len(names(ground)) == 2
    ground.mount.close(ground.file)
    ground.wait_for_calls()
    assert names(ground) == ["f"]


def test_a_rename_onto_itself_changes_nothing(ground):
    assert ground.mount.link(ground.nfsi, "g") == 0
    assert ground.mount.rename("g", "f") == 0
    assert names(ground) == ["f", "g"]


def test_what_is_not_there_replaces_nothing(ground):
    assert ground.mount.rename("nothing", "f") == -ENOENT
    assert names(ground) == ["f"]


def test_a_directory_is_not_overwritten_by_a_file_that_is_open(ground):
    sub = ground.mount.mkdir("sub")
    sub.open_files.append(ground.file.private_data)  # as opendir() would
    assert ground.mount.rename("f", "sub") == -EISDIR
    sub.open_files.clear()


def test_a_rename_that_the_server_refuses_leaves_all_as_it_was(ground):
    ground.faults.error(NFS3PROC_RENAME, NFS3ERR_IO)
    assert ground.mount.remove("f") < 0
    assert names(ground) == ["f"]
    assert ground.nfsi.silly is None


def test_a_busy_server_is_asked_again(ground):
    ground.faults.error(NFS3PROC_REMOVE, NFS3ERR_JUKEBOX, times=2)
    ground.mount.remove("f")
    ground.mount.close(ground.file)
    ground.run_for(SECOND)
    assert ground.mount.dir.unlinker.pending == 1
    ground.wait_for_calls()
    assert names(ground) == []


def test_umount_waits_for_the_removal(ground):
    ground.mount.remove("f")
    assert ground.mount.umount() == 0
    assert names(ground) == []


def test_what_is_still_to_be_written_holds_the_file(ground):
    """The context's last reference is a request's: its removal starts in the callback of a WRITE."""
    ground.mount.write_buffered(ground.file, 0, b"late")
    ground.mount.remove("f")
    ctx = ground.file.private_data
    ctx.count += 1
    ground.mount.close(ground.file)
    assert len(names(ground)) == 1
    ground.mount.ops.inodes.put_nfs_open_context(ctx)
    ground.wait_for_calls()
    assert names(ground) == []


def test_a_swap_file_that_is_removed_goes_on():
    with mounted() as ground:
        file = ground.swapon()
        ground.process()
        assert ground.mount.remove("swap") == 0
        for vpn in range(5):
            ground.write(vpn, page_bytes(vpn))
            ground.swap_out(vpn)
        assert [ground.read(vpn) for vpn in range(5)] == [page_bytes(vpn) for vpn in range(5)]
        assert ground.machine.swapfile.swapoff(file) == 0
        ground.mount.close(file)
        ground.wait_for_calls()
        assert names(ground) == []


def test_without_memory_the_name_stays(ground, monkeypatch):
    unlinker, root = ground.mount.dir.unlinker, ground.mount.root
    with monkeypatch.context() as patch:
        patch.setattr(ground.machine.slub, "kmalloc", lambda *_: None)
        assert unlinker.nfs_sillyrename(root, "f", ground.nfsi) == -ENOMEM
    with monkeypatch.context() as patch:
        patch.setattr(ground.mount.auth, "lookup_cred", lambda *_: None)
        assert unlinker.nfs_sillyrename(root, "f", ground.nfsi) == -ENOMEM
    assert names(ground) == ["f"]
