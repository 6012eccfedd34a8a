"""Which handle means which object of a real directory, and the way to it that cannot lead out.

Interface
    * ``NodeTable``: below RealTree (real_tree.py). ``node()``, ``find()``, ``inside(folder)``, ``drop()``.

Rules of this file
    * A handle holds the inode number and the time of birth (statx.py), nothing of this process: it survives a restart. The names
      that lead to it are kept in a table; an object that is not in it, or not where it was, is looked for in the whole tree, at
      most once a second and among MAX_SCAN names. An object that is made in the place of a removed one within the clock's tick
      gets a serial number, and its handle alone does not survive a restart.
    * Every way begins at the directory that is served and opens one name after the other, never following a link (O_NOFOLLOW). At
      its end the object must be the one that the handle means. Who renames directories while it is walked can make the walk fail,
      not leave.
    * A directory on another device (something is mounted there) is refused: inode numbers would mean two objects.
    * The table has an entry for each object that a client asked for, so it is bounded by the tree.
"""

from __future__ import annotations

import errno
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from kemu.errors import ConfigError
from kemu_lab.real_node import MAX_DEPTH, RealNode, status_of
from kemu_lab.statx import Stat, statx
from kemu_nfs.sunrpc.nfs3_const import NFS3_OK, NFS3ERR_ACCES, NFS3ERR_BADHANDLE, NFS3ERR_STALE

MAX_SCAN = 200_000
SCAN_PAUSE = 1.0  # seconds
MAX_DEAD = 4096

_HANDLE = struct.Struct("!4sIQQII")  # magic, file system, inode number, generation, serial, device if it is not the root's
_MAGIC = b"keRD"
_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NodeTable:
    """The objects of one directory that clients have seen.

    :param root: the directory; ConfigError if it is none.
    :ivar node_type: what an object becomes.
    """

    node_type: type[RealNode] = RealNode

    def __init__(self, root: str) -> None:
        try:
            self.root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"the directory {root!r} cannot be served: {why}") from None
        found = statx(self.root_fd, b"")
        self.dev = found.dev
        self.fsid = zlib.crc32(struct.pack("!QQ", found.ino, found.generation))
        self.by_handle: dict[bytes, RealNode] = {}
        self._by_key: dict[tuple[int, int, int], RealNode] = {}
        self._serials: dict[tuple[int, int, int], int] = {}  # of objects that were removed, how often
        self._index: dict[int, tuple[bytes, ...]] = {}
        self._scanned = -SCAN_PAUSE
        self.root = self.node(found, None, b"")

    def read(self, node: RealNode, offset: int, count: int) -> tuple[int, bytes]:
        """Read a file's data; the tree above knows how."""
        raise NotImplementedError

    def node(self, found: Stat, folder: RealNode | None, name: bytes) -> RealNode:
        """Return the node of an object that was found under a name."""
        key = (found.dev, found.ino, found.generation)
        node = self._by_key.get(key)
        if node is None:
            handle = self.new_handle(found, self._serials.get(key, 0))
            node = self._by_key[key] = self.by_handle[handle] = self.node_type(handle, found, self.read)
        else:
            node.fill(found)
        if folder is not None and node is not self.root:
            if found.is_dir:
                node.names = [(folder, name)]
            elif (folder, name) not in node.names:
                node.names.append((folder, name))
        return node

    def new_handle(self, found: Stat, serial: int) -> bytes:
        """Make the handle of an object that was not seen before."""
        dev = 0 if found.dev == self.dev else found.dev & 0xFFFFFFFF
        return _HANDLE.pack(_MAGIC, self.fsid, found.ino, found.generation, serial, dev)

    def drop(self, node: RealNode) -> None:
        """Forget an object that is gone: its handle is stale from now on, whoever gets its number."""
        self.by_handle.pop(node.handle, None)
        self._by_key.pop(node.key, None)
        self._serials[node.key] = self._serials.get(node.key, 0) + 1
        if len(self._serials) > MAX_DEAD:
            del self._serials[next(iter(self._serials))]

    # the way to an object

    @contextmanager
    def inside(self, folder: RealNode) -> Iterator[int]:
        """Open a directory for what is done in it; OSError if it is not there any more."""
        way: list[bytes] = []
        at = folder
        while at is not self.root:
            if not at.names or len(way) > MAX_DEPTH:
                raise OSError(errno.ESTALE, "no way leads there")
            at, name = at.names[-1]
            way.append(name)
        fd = os.open(b".", _WAY, dir_fd=self.root_fd)
        try:
            for name in reversed(way):
                below = os.open(name, _WAY, dir_fd=fd)
                os.close(fd)
                fd = below
            if not folder.is_same(statx(fd, b"")):
                raise OSError(errno.ESTALE, "another directory stands there")
            yield fd
        finally:
            os.close(fd)

    def refresh(self, node: RealNode) -> bool:
        """Read an object's attributes again; False if it is under none of its names."""
        if node is self.root:
            node.fill(statx(self.root_fd, b""))
            return True
        for place in node.names[::-1]:
            try:
                with self.inside(place[0]) as fd:
                    found = statx(fd, place[1])
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP):
                    raise
            else:
                if node.is_same(found):
                    node.fill(found)
                    return True
            node.names.remove(place)
        return False

    def find(self, handle: bytes) -> tuple[int, RealNode | None]:
        """Find the object of a handle, wherever it is now."""
        node = self.by_handle.get(handle)
        try:
            if node is not None and self.refresh(node):
                return NFS3_OK, node
            return self._recall(handle, node)
        except OSError as error:
            return status_of(error), None

    def _recall(self, handle: bytes, node: RealNode | None) -> tuple[int, RealNode | None]:
        """Find an object that an earlier life knew, or that somebody else moved."""
        if len(handle) != _HANDLE.size:
            return NFS3ERR_BADHANDLE, None
        magic, fsid, ino, _, _, _ = _HANDLE.unpack(handle)
        if magic != _MAGIC or fsid != self.fsid:
            return NFS3ERR_BADHANDLE, None
        if time.monotonic() - self._scanned >= SCAN_PAUSE:
            self._scan()
        way = self._index.get(ino)
        if way is not None:
            status, found = self.walk(way)
            if found is not None and found.handle == handle:
                return status, found
        if node is not None:
            self.drop(node)
        return NFS3ERR_STALE, None

    def _scan(self) -> None:
        """Note for each object of the tree one name."""
        self._index = {}
        ways: list[tuple[bytes, ...]] = [()]
        while ways and len(self._index) < MAX_SCAN:
            way = ways.pop()
            status, folder = self.walk(way)
            if status or folder is None:
                continue
            try:
                with self.inside(folder) as fd:
                    listed = self._entries_of(fd)
            except OSError:
                continue  # who may not read it does not find what is in it
            for name, ino, is_dir in listed:
                self._index[ino] = (*way, name)
                if is_dir and len(way) < MAX_DEPTH:
                    ways.append((*way, name))
        self._scanned = time.monotonic()

    @staticmethod
    def _entries_of(fd: int) -> list[tuple[bytes, int, bool]]:
        """List (name, inode number, is a directory) of an open directory."""
        readable = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            with os.scandir(readable) as found:
                return [(os.fsencode(entry.name), entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in found]
        finally:
            os.close(readable)

    def step(self, folder: RealNode, name: bytes) -> tuple[int, RealNode | None]:
        """Find one name, which is a plain one, in a directory."""
        try:
            with self.inside(folder) as fd:
                found = statx(fd, name)
        except OSError as error:
            return status_of(error), None
        if found.is_dir and found.dev != self.dev:
            return NFS3ERR_ACCES, None
        return NFS3_OK, self.node(found, folder, name)

    def walk(self, way: tuple[bytes, ...]) -> tuple[int, RealNode | None]:
        """Follow plain names from the root."""
        status, node = NFS3_OK, self.root
        for name in way:
            status, found = self.step(node, name)
            if found is None:
                return status, None
            node = found
        return status, node
