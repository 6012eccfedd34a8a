"""What /proc tells of NFS mounts (2.6.23 fs/nfs/client.c, fs/namespace.c).

Interface: :class:`ProcNfs`: ``appear()`` when something is mounted, ``vanish()`` when it goes.

Rules of this file
    * /proc/mounts has a line for each mount, /proc/fs/nfsfs/servers one for each server, /proc/fs/nfsfs/volumes one for each volume
      with its fsid, in the kernel's columns. Only what kemu has mounted is there.
    * Reading changes nothing and asks nobody.
    * Left out: /proc/self/mountstats, the cache column's yes (no FS-Cache).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.fs.proc import Proc, ProcFile

if TYPE_CHECKING:
    from collections.abc import Callable

MOUNTS: Final = "/proc/mounts"
SERVERS: Final = "/proc/fs/nfsfs/servers"
VOLUMES: Final = "/proc/fs/nfsfs/volumes"
_SERVERS_HEAD: Final = "NV SERVER   PORT USE HOSTNAME\n"
_VOLUMES_HEAD: Final = "NV SERVER   PORT DEV     FSID              FSC\n"


class ProcNfs:
    """One mount's part of /proc.

    :param mounts: all mounts of the machine that are shown. :param proc: the machine's; None: it has none.
    :param address: the server's; :param port: its NFS port. :param name: its name. :param path: "export mountpoint".
    :param options: writes the options that are in use. :param fsid: tells the volume's fsid.
    """

    def __init__(
        self,
        mounts: list[ProcNfs],
        proc: Proc | None,
        address: int,
        port: int,
        name: str,
        path: str,
        options: Callable[[], str],
        fsid: Callable[[], int],
    ) -> None:
        self.mounts = mounts
        self.proc = proc
        self.address = address
        self.port = port
        self.name = name
        self.path = path
        self.options = options
        self.fsid = fsid

    def appear(self) -> None:
        """Show the mount; the files come with the first."""
        if self.proc is None:
            return
        mounts = self.mounts
        mounts.append(self)
        if len(mounts) > 1:
            return
        self.proc.add(MOUNTS, ProcFile(lambda: _lines("", mounts, ProcNfs.mount_line)))
        self.proc.add(SERVERS, ProcFile(lambda: _lines(_SERVERS_HEAD, mounts, ProcNfs.server_line)))
        self.proc.add(VOLUMES, ProcFile(lambda: _lines(_VOLUMES_HEAD, mounts, ProcNfs.volume_line)))

    def vanish(self) -> None:
        """Show it no longer; the files go with the last."""
        mounts = self.mounts
        if self.proc is None or self not in mounts:
            return
        mounts.remove(self)
        if not mounts:
            for path in (MOUNTS, SERVERS, VOLUMES):
                self.proc.remove(path)

    def mount_line(self) -> str:
        """Write the line of /proc/mounts (show_vfsmnt(), nfs_show_options())."""
        return f"{self.name}:{self.path} nfs {self.options()} 0 0\n"

    def server_line(self) -> str:
        """Write the line of a server (nfs_server_list_show())."""
        return f"v3 {self.address:08x} {self.port:4x} {1:3d} {self.name}\n"

    def volume_line(self) -> str:
        """Write the line of a volume (nfs_volume_list_show()); devices without a disk are numbered from 0:16 on."""
        number = self.mounts.index(self) + 16
        return f"v3 {self.address:08x} {self.port:4x} {f'0:{number}':<7s} {f'{self.fsid():x}:0':<17s} no\n"


def _lines(head: str, mounts: list[ProcNfs], line: Callable[[ProcNfs], str]) -> str:
    return head + "".join([line(mount) for mount in mounts])
