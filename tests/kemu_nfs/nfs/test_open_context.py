"""Openings: who is found, in which order, and what holds them."""

from __future__ import annotations

import pytest

from kemu_nfs.nfs.open_context import FMODE_READ, FMODE_WRITE
from nfs_ground import mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.nfsi = g.mount.create("f", mode=0o666)
        g.inodes = g.mount.ops.inodes
        yield g
        g.check()
        assert g.mount.umount() == 0
        assert g.mount.auth.references() == 0


def found(ground, cred=None, mode=FMODE_READ):
    ctx = ground.inodes.nfs_find_open_context(ground.nfsi, cred, mode)
    if ctx is not None:
        ground.inodes.put_nfs_open_context(ctx)
    return ctx


def test_the_first_opening_is_found_first(ground):
    first, second = (ground.mount.open("f").private_data for _ in range(2))
    assert ground.nfsi.open_files == [first, second]
    assert found(ground) is first


def test_one_whose_file_is_closed_goes_to_the_end(ground):
    first = ground.mount.open("f")
    second = ground.mount.open("f")
    ctx = first.private_data
    ctx.count += 1  # a request still uses it
    ground.mount.close(first)
    assert ground.nfsi.open_files == [second.private_data, ctx]
    assert found(ground) is second.private_data
    ground.inodes.put_nfs_open_context(ctx)
    assert ground.nfsi.open_files == [second.private_data]


def test_mode_and_credential_must_fit(ground):
    read_only = ground.mount.open("f", mode=FMODE_READ).private_data
    assert found(ground, mode=FMODE_WRITE) is None
    write_only = ground.mount.open("f", mode=FMODE_WRITE).private_data
    assert found(ground, mode=FMODE_WRITE) is write_only
    assert found(ground, mode=FMODE_READ | FMODE_WRITE) is None
    assert found(ground, read_only.cred, FMODE_READ) is read_only
    other = ground.mount.auth.lookup_cred(9, 9)
    assert found(ground, other) is None
    ground.mount.auth.put_rpccred(other)


def test_a_write_on_its_way_holds_the_opening_and_its_credential(ground):
    file = ground.mount.open("f")
    ctx = file.private_data
    ground.mount.write_buffered(file, 0, page_bytes(0))
    assert ctx.count == 2
    ground.mount.fsync(file)
    assert ctx.count == 1


def test_without_memory_nothing_is_open(ground, monkeypatch):
    before = ground.mount.auth.references()
    with monkeypatch.context() as patch:
        patch.setattr(ground.machine.slub, "kmalloc", lambda *_: None)
        assert ground.inodes.nfs_open(ground.nfsi, 0, 0, FMODE_READ) is None
    with monkeypatch.context() as patch:
        patch.setattr(ground.mount.auth, "lookup_cred", lambda *_: None)
        assert ground.inodes.nfs_open(ground.nfsi, 0, 0, FMODE_READ) is None
    assert ground.mount.auth.references() == before
    assert ground.nfsi.open_files == []
