"""Calls of the running task: whose they are, and a server that says JUKEBOX."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EIO, ENOMEM, ENOTDIR
from kemu_nfs.nfs.nfs3xdr import PROC_GETATTR
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_JUKEBOX, NFS3ERR_NOTDIR, NFS3PROC_GETATTR, NFS3PROC_READ, NFS3PROC_WRITE
from nfs_ground import SECOND, mounted


@pytest.fixture
def ground():
    with mounted() as g:
        g.nfsi = g.mount.create("f")
        g.calls = g.mount.dir.calls
        before = g.mount.auth.references()
        yield g
        assert g.mount.auth.references() == before
        g.check()


def test_a_result_or_an_errno(ground):
    assert ground.calls.call(PROC_GETATTR, ground.nfsi.fh_wire).fattr == ground.nfsi.attr
    ground.faults.error(NFS3PROC_GETATTR, NFS3ERR_NOTDIR)
    assert ground.calls.call(PROC_GETATTR, ground.nfsi.fh_wire) == -ENOTDIR
    assert ground.calls.call(PROC_GETATTR, b"\0\0\0\3") == -EIO, "GARBAGE_ARGS, three times"


@pytest.mark.parametrize("times", [1, 3])
def test_a_jukebox_is_asked_every_five_seconds(ground, times):
    ground.faults.error(NFS3PROC_GETATTR, NFS3ERR_JUKEBOX, times=times)
    before = ground.sched.now
    assert ground.mount.getattr(ground.nfsi).ftype == 1
    assert (ground.sched.now - before) / SECOND == pytest.approx(5 * times, abs=0.1)
    assert ground.stats.jukebox == times


def test_reading_and_writing_by_calls_wait_for_it_too(ground):
    file = ground.mount.open("f")
    ground.faults.error(NFS3PROC_WRITE, NFS3ERR_JUKEBOX)
    ground.faults.error(NFS3PROC_READ, NFS3ERR_JUKEBOX)
    assert ground.mount.write(file, 0, b"late") == 4
    assert ground.mount.read(file, 0, 9) == b"late"
    assert ground.stats.jukebox == 2
    ground.mount.close(file)


def test_without_a_credential_nothing_is_asked(ground, monkeypatch):
    calls = ground.nfsd.server.calls
    with monkeypatch.context() as patch:
        patch.setattr(ground.mount.auth, "lookup_cred", lambda *_: None)
        assert ground.calls.call(PROC_GETATTR, ground.nfsi.fh_wire) == -ENOMEM
    assert ground.nfsd.server.calls == calls
