"""The data and the attributes of files in a real directory: between the table of objects and the tree (real_tree.py).

Interface
    * ``RealFiles``: ``read write commit set_attributes crash close`` of kemu_nfs/server/tree.py's protocol.

Rules of this file
    * Files stay open between calls, MAX_OPEN of them; the least recently used is closed. The object behind a name is compared with
      the handle when it is opened, and by find() on every call.
    * Unstable data lies in the machine's page cache until COMMIT's fsync(). A file that is closed with such data is synced then.
    * A write that the disk takes in part is a short write; the client sends the rest again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from kemu.errors import KernelBug
from kemu_lab.real_node import RealNode, status_of
from kemu_lab.real_table import NodeTable
from kemu_lab.statx import statx
from kemu_lab.undo import BLOCK_SHIFT, Undo
from kemu_nfs.server.tree import Sattr3, block_range
from kemu_nfs.sunrpc.nfs3_const import NF3LNK, NF3REG, NFS3_OK, NFS3ERR_NOTSUPP, NFS3ERR_PERM

MAX_OPEN = 64
MAX_UNDO = 1 << 14  # blocks that are remembered of one file; more, and it is made stable
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class RealFiles(NodeTable):
    """Files of a directory."""

    def __init__(self, directory: str, *, durable: bool, keep_undo: bool, clock: Callable[[], int]) -> None:
        super().__init__(directory)
        self.as_root = os.geteuid() == 0
        self.durable = durable
        self.clock = clock
        self.keep_undo = keep_undo
        self._fds: OrderedDict[tuple[bytes, bool], int] = OrderedDict()  # (handle, for writing)
        self._undo: dict[bytes, Undo] = {}
        self._dirty: dict[bytes, None] = {}  # handles of files with unstable data

    def sync_dir(self, fd: int) -> None:
        """Bring a directory's names to the disk."""
        if self.durable:
            names = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                os.fsync(names)
            finally:
                os.close(names)

    # open files

    def _open(self, node: RealNode, writing: bool) -> int:
        """Give a descriptor of a file; it stays the table's."""
        key = (node.handle, writing)
        fd = self._fds.get(key)
        if fd is not None:
            self._fds.move_to_end(key)
            return fd
        folder, name = node.names[-1]
        with self.inside(folder) as at:
            if not writing:
                fd = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=at)
            else:
                try:
                    fd = os.open(name, os.O_RDWR | _FLAGS, dir_fd=at)
                except PermissionError:
                    fd = os.open(name, os.O_WRONLY | _FLAGS, dir_fd=at)
        try:
            self._expect_file(node, fd)
            while len(self._fds) >= MAX_OPEN:
                self._close(next(iter(self._fds)))
        except OSError:
            os.close(fd)
            raise
        self._fds[key] = fd
        return fd

    @staticmethod
    def _expect_file(node: RealNode, fd: int) -> None:
        """Insist that this is the regular file that was meant."""
        found = statx(fd, b"")
        if not node.is_same(found) or not stat.S_ISREG(found.mode):
            raise OSError(errno.ESTALE, "another object stands there")

    def _close(self, key: tuple[bytes, bool]) -> None:
        """Close one descriptor; a file must not lose an error of the disk with it."""
        fd = self._fds.pop(key)
        try:
            if key[1] and key[0] in self._dirty and self.durable:
                os.fsync(fd)
        finally:
            os.close(fd)

    def close_file(self, node: RealNode) -> None:
        """Close an object that is gone, with what was not stable of it."""
        self._dirty.pop(node.handle, None)
        self._undo.pop(node.handle, None)
        for writing in (False, True):
            if (node.handle, writing) in self._fds:
                self._close((node.handle, writing))

    def close(self) -> None:
        """End: what is unstable goes to the disk."""
        while self._fds:
            self._close(next(iter(self._fds)))
        os.close(self.root_fd)

    # data

    def read(self, node: RealNode, offset: int, count: int) -> tuple[int, bytes]:
        """Read from a file; short only at its end."""
        if node.ftype != NF3REG or offset >= node.size or not count:
            return NFS3_OK, b""
        try:
            fd = self._open(node, writing=False)
            data = os.pread(fd, count, offset)
            while len(data) < min(count, node.size - offset):
                more = os.pread(fd, count - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            return status_of(error), b""
        return NFS3_OK, data

    def write(self, node: RealNode, offset: int, data: bytes, stable: bool) -> tuple[int, int]:
        """Write to a file; give how many bytes."""
        if not data:
            return NFS3_OK, 0
        undo = self._undo.get(node.handle)
        try:
            fd = self._open(node, writing=True)
            if self.keep_undo and not stable:
                if undo is None:
                    undo = self._undo[node.handle] = Undo(node.size)
                undo.remember(fd, offset, len(data))
            done = self._write_all(fd, offset, data)
            if stable:
                if self.durable:
                    os.fsync(fd)
            else:
                self._dirty[node.handle] = None
                if undo is not None and len(undo.blocks) > MAX_UNDO:
                    self.commit(node, 0, 0)
            self.refresh(node)
        except OSError as error:
            return status_of(error), 0
        if stable and undo is not None:
            undo.settle(offset, done, node.size)
        return NFS3_OK, done

    @staticmethod
    def _write_all(fd: int, offset: int, data: bytes) -> int:
        """Write as much as the disk takes; an error counts only if nothing was written."""
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(fd, data[done:] if done else data, offset + done)
            except OSError:
                if not done:
                    raise
                break
        return done

    def commit(self, node: RealNode, offset: int, count: int) -> tuple[int, int]:
        """Bring a part of a file to the disk; fsync() takes all of it, which is allowed."""
        undo = self._undo.get(node.handle)
        blocks = int(node.handle in self._dirty)
        try:
            if blocks and self.durable:
                os.fsync(self._open(node, writing=True))
        except OSError as error:
            return status_of(error), 0
        if undo is not None:
            blocks = undo.commit(*block_range(offset, count, BLOCK_SHIFT), node.size)
            if not undo.blocks:
                del self._undo[node.handle]
        if undo is None or not undo.blocks:
            self._dirty.pop(node.handle, None)
        return NFS3_OK, blocks

    # attributes

    def chmod(self, fd: int, name: bytes, mode: int) -> None:
        """Change the mode of what stands in a directory, never through a link."""
        at = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            if stat.S_ISLNK(statx(at, b"").mode):
                raise OSError(errno.ENOTSUP, "a link has no mode")
            Path(f"/proc/self/fd/{at}").chmod(mode)  # the one way that needs no permission to read and follows no name
        finally:
            os.close(at)

    def set_attributes(self, node: RealNode, sattr: Sattr3) -> int:
        """Change attributes, the size first: what fails later leaves a file that is right but for its mode or times."""
        uid = -1 if sattr.uid is None or sattr.uid == node.uid else sattr.uid
        gid = -1 if sattr.gid is None or sattr.gid == node.gid else sattr.gid
        if sattr.mode is not None and node.ftype == NF3LNK:
            return NFS3ERR_NOTSUPP
        try:
            if sattr.size is not None:
                self._resize(node, sattr.size)
            if node is self.root:
                self._change(self.root_fd, b".", node, sattr, (uid, gid))
            else:
                folder, name = node.names[-1]
                with self.inside(folder) as fd:
                    self._change(fd, name, node, sattr, (uid, gid))
            self.refresh(node)
        except PermissionError as error:
            return NFS3ERR_PERM if error.errno == errno.EPERM else status_of(error)
        except OSError as error:
            return status_of(error)
        return NFS3_OK

    def _change(self, fd: int, name: bytes, node: RealNode, sattr: Sattr3, owner: tuple[int, int]) -> None:
        """Change owner, mode and times of what stands in a directory."""
        if not node.is_same(statx(fd, name)):
            raise OSError(errno.ESTALE, "another object stands there")
        if owner != (-1, -1):
            os.chown(name, *owner, dir_fd=fd, follow_symlinks=False)
        if sattr.mode is not None:
            self.chmod(fd, name, sattr.mode & (0o1777 if node.ftype == NF3REG else 0o3777))
        if sattr.atime_ns is not None or sattr.mtime_ns is not None:
            now = self.now()
            times = [
                old if wanted is None else now if wanted < 0 else wanted
                for old, wanted in ((node.atime_ns, sattr.atime_ns), (node.mtime_ns, sattr.mtime_ns))
            ]
            os.utime(name, ns=(times[0], times[1]), dir_fd=fd, follow_symlinks=False)

    def _resize(self, node: RealNode, size: int) -> None:
        """Cut a file or extend it by a hole, on the disk too."""
        fd = self._open(node, writing=True)
        os.ftruncate(fd, size)
        if self.durable:
            os.fsync(fd)
        if node.handle in self._undo:
            self._undo[node.handle].cut(size)

    def now(self) -> int:
        """Tell the time of day in ns."""
        return self.clock()

    # the whole

    def crash(self, lose_unstable: bool) -> int:
        """Let the emulated power fail: what was not stable is as it was before, if it was remembered; return the blocks lost."""
        lost = 0
        for handle, undo in self._undo.items():
            node = self.by_handle.get(handle)
            if lose_unstable and node is not None and self.refresh(node):
                lost += undo.restore(self._open(node, writing=True))
        self._undo.clear()
        for key in list(self._fds):
            self._close(key)
        self._dirty.clear()
        return lost

    def check(self) -> None:
        """Assert that not too much is open, and that only files with unstable data are remembered."""
        if len(self._fds) > MAX_OPEN:
            raise KernelBug(f"{len(self._fds)} files are open, allowed are {MAX_OPEN}")
        for handle in self._undo:
            if handle not in self.by_handle:
                raise KernelBug("unstable data of a file that is gone is remembered")
        for handle, node in self.by_handle.items():
            if node.handle != handle or (not node.names and node is not self.root):
                raise KernelBug(f"object {node.fileid} has no way to it")
