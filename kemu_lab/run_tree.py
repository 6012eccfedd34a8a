"""The real directory of an emulated server in a run: the same run is the same history, on whatever disk the directory lies.

Interface: :class:`RunTree`.

Rules of this file
    * What a disk alone knows does not go over the wire: objects are numbered in the order in which they are first seen, all times
      are 0, a file takes as much room as it is long, and there is always room for more. Sizes, modes, owners and data are real.
    * The client is the only one who changes the directory while the run lasts, so it misses nothing.
    * Handles do not survive the process, as who mounts anew needs none.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from kemu_lab.real_node import RealNode
from kemu_lab.real_tree import RealTree
from kemu_lab.statx import Stat
from kemu_nfs.server.tree import FsStat
from kemu_nfs.sunrpc.nfs3_const import NFS3ERR_BADHANDLE, NFS3ERR_STALE

_HANDLE: Final = struct.Struct("!4sQ")  # magic, number
_MAGIC: Final = b"keRT"
ROOM: Final = 1 << 40
OBJECTS: Final = 1 << 20


class RunNode(RealNode):
    """An object that tells nothing of its disk."""

    __slots__ = ()

    def fill(self, found: Stat) -> None:
        """Take the attributes that are the same on every disk."""
        super().fill(found)
        self.fileid = _HANDLE.unpack(self.handle)[1]
        self.used = found.size
        self.atime_ns = self.mtime_ns = self.ctime_ns = 0


class RunTree(RealTree):
    """A directory that is served to one client for one run.

    :param clock: virtual time in ns; the write verifier is made of it.
    """

    node_type = RunNode

    def __init__(self, directory: str, clock: Callable[[], int]) -> None:
        self._seen = 0
        super().__init__(directory, durable=False, clock=clock)
        self.fsid = 1

    def new_handle(self, found: Stat, serial: int) -> bytes:
        """Give the objects numbers in the order in which they come."""
        self._seen += 1
        return _HANDLE.pack(_MAGIC, self._seen)

    def _recall(self, handle: bytes, node: RealNode | None) -> tuple[int, RealNode | None]:
        """Refuse a handle that leads nowhere: stale if it was given once; nothing moves the objects, so nothing is looked for."""
        if node is not None:
            self.drop(node)
        given = len(handle) == _HANDLE.size and handle[:4] == _MAGIC and 1 <= _HANDLE.unpack(handle)[1] <= self._seen
        return NFS3ERR_STALE if given else NFS3ERR_BADHANDLE, None

    def statfs(self) -> FsStat:
        """Tell of a disk without end."""
        return FsStat(ROOM, ROOM, ROOM, OBJECTS, OBJECTS, OBJECTS)
