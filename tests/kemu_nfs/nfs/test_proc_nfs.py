"""/proc/mounts and /proc/fs/nfsfs: what is mounted, while it is."""

from __future__ import annotations

import pytest

from kemu.errors import ConfigError
from kemu_nfs.mount import NfsMount
from kemu_nfs.mount_options import mount_options
from nfs_ground import SERVER_IP, mounted

FILES = ["/proc/fs/nfsfs/servers", "/proc/fs/nfsfs/volumes", "/proc/mounts"]


def test_a_mount_is_shown_while_it_is_there():
    with mounted(options=mount_options("hard,rsize=8192")) as ground:
        proc = ground.machine.proc
        assert [path for path in proc.paths() if path in FILES] == FILES
        assert proc.read("/proc/mounts") == (
            "10.0.0.2:/export /mnt nfs rw,vers=3,rsize=8192,wsize=32768,hard,proto=tcp,timeo=600,retrans=2,sec=sys,"
            "addr=10.0.0.2 0 0\n"
        )
        assert proc.read("/proc/fs/nfsfs/servers").splitlines() == [
            "NV SERVER   PORT USE HOSTNAME",
            "v3 0a000002  801   1 10.0.0.2",
        ]
        assert proc.read("/proc/fs/nfsfs/volumes").splitlines() == [
            "NV SERVER   PORT DEV     FSID              FSC",
            "v3 0a000002  801 0:16    1:0               no",
        ]
        assert ground.mount.umount() == 0
        assert not [path for path in proc.paths() if path in FILES]
        with pytest.raises(ConfigError):
            proc.read("/proc/mounts")


def test_two_mounts_are_two_lines():
    with mounted() as ground:
        second = NfsMount(ground.machine, ground.stack, SERVER_IP, mountpoint="/two", modules=ground.mount.modules)
        assert second.mount() == 0
        lines = ground.machine.proc.read("/proc/mounts").splitlines()
        assert [line.split()[1] for line in lines] == ["/mnt", "/two"]
        assert ground.mount.umount() == 0
        assert ground.machine.proc.read("/proc/mounts").split()[1] == "/two"
        assert second.umount() == 0
