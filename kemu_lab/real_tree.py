"""A real directory as the file system of the NFS server: the same protocol as the tree in memory (kemu_nfs/server/tree.py).

Interface
    * ``RealTree(directory)``: what NfsServer takes. ``owner()``: as whom it must treat callers. ``close()``.

Rules of this file
    * Nothing outside of the directory can be reached (real_table.py). ``..`` of the directory, and of an export, is itself;
      symbolic links are told to clients and never followed.
    * What an object is allowed to be: set-user-id is never set on files, and devices are not made, since the machine would honour
      both.
    * A process that is not root cannot make files of others: its server treats every caller as its own user (``owner()``), and the
      machine itself judges. As root it gives new objects to the caller.
    * What the answer calls stable is on the disk: fsync() of file and directory (``durable``).
    * ``keep_undo`` is for emulated crashes: an unstable write remembers what it replaced. A real loss of power needs no such help.
    * The verifier of an EXCLUSIVE CREATE stands in the times of the file, as 2.6.23's nfsd keeps it, so it survives a restart too.
    * READDIR's cookies are hashes of the names, in whose order names are listed: right for ever, whatever comes and goes.
    * Every call goes the whole way by name: a depth of d costs 2 * d system calls.
    * Left out: access lists, extended attributes, other devices below the directory, what lies more than 256 directories deep,
      limits of names and links other than those of the tree in memory. Times and inode numbers are this machine's, so a run on such
      a tree has another history each time.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable

from kemu.errors import ConfigError
from kemu_lab.real_files import RealFiles
from kemu_lab.real_node import RealNode, status_of
from kemu_lab.statx import statx
from kemu_nfs.server.cred import Cred
from kemu_nfs.server.tree import FIRST_COOKIE, Entry, FsStat, check_name
from kemu_nfs.sunrpc.nfs3_const import (
    NF3DIR,
    NF3FIFO,
    NF3SOCK,
    NFS3_OK,
    NFS3ERR_ACCES,
    NFS3ERR_EXIST,
    NFS3ERR_INVAL,
    NFS3ERR_ISDIR,
    NFS3ERR_NOENT,
    NFS3ERR_NOTDIR,
    NFS3ERR_NOTSUPP,
)

MAX_LISTED = 8  # directories whose names are kept between two READDIRs
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def cookie_of(name: bytes) -> int:
    """Give a name its place among those of a directory."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 2 | FIRST_COOKIE + 1


def _verf_times(verf: bytes) -> tuple[int, int]:
    """Hide a verifier in atime and mtime; the top bits are lost, since not every file system holds them."""
    words = (int.from_bytes(verf[4:8], "big"), int.from_bytes(verf[:4], "big"))
    return (words[0] & 0x7FFFFFFF) * 10**9, (words[1] & 0x7FFFFFFF) * 10**9


class RealTree(RealFiles):
    """A directory of this machine.

    :param directory: its path; ConfigError if it cannot be served.
    :param durable: fsync() what is called stable.
    :param keep_undo: remember what unstable writes replace, for ``crash(lose_unstable=True)``.
    :param clock: the time of day in ns.
    """

    def __init__(
        self, directory: str, *, durable: bool = True, keep_undo: bool = False, clock: Callable[[], int] = time.time_ns
    ) -> None:
        super().__init__(directory, durable=durable, keep_undo=keep_undo, clock=clock)
        self._exported: list[RealNode] = []
        self._listings: OrderedDict[bytes, list[Entry]] = OrderedDict()

    def owner(self) -> Cred | None:
        """Tell as whom all callers act: this process's user; None for root, who can act as each."""
        return None if self.as_root else Cred(os.geteuid(), os.getegid(), tuple(os.getgroups()))

    # paths

    def add_export(self, path: str) -> None:
        """Make a directory the top of what clients see from it."""
        node = self.lookup_path(path)
        if node is None or node.ftype != NF3DIR:
            raise ConfigError(f"there is no directory {path!r} to export")
        self._exported.append(node)

    def lookup_path(self, path: str) -> RealNode | None:
        """Walk an absolute path without following links."""
        node = self.root
        for name in os.fsencode(path).split(b"/"):
            if name:
                status, found = self.lookup(node, name)
                if status or found is None:
                    return None
                node = found
        return node

    def lookup(self, folder: RealNode, name: bytes) -> tuple[int, RealNode | None]:
        """Find a name in a directory."""
        if folder.ftype != NF3DIR:
            return NFS3ERR_NOTDIR, None
        if name == b".":
            return NFS3_OK, folder
        if name == b"..":
            return NFS3_OK, folder if folder in self._exported or not folder.names else folder.names[-1][0]
        status = check_name(name)
        return (status, None) if status else self.step(folder, name)

    def entries(self, folder: RealNode, cookie: int) -> tuple[int, list[Entry]]:
        """List the names after ``cookie``; a directory is read when its listing begins, and again if that was forgotten."""
        listing = self._listings.get(folder.handle)
        if listing is None or cookie < FIRST_COOKIE:
            try:
                with self.inside(folder) as fd:
                    found = self._entries_of(fd)
            except OSError as error:
                return status_of(error), []
            listing = self._listings[folder.handle] = sorted((cookie_of(name), name, ino) for name, ino, _ in found)
            if len(self._listings) > MAX_LISTED:
                self._listings.popitem(last=False)
        self._listings.move_to_end(folder.handle)
        return NFS3_OK, listing[bisect_right(listing, (cookie, b"\xff" * 256, 0)) :]

    # new names

    def _may_add(self, folder: RealNode, name: bytes) -> int:
        """Judge a new name: a status. That it exists already is for the machine to say."""
        if folder.ftype != NF3DIR:
            return NFS3ERR_NOTDIR
        return NFS3ERR_EXIST if name in (b".", b"..") else check_name(name)

    def _make(
        self, folder: RealNode, name: bytes, make: Callable[[int], None], cred: Cred, *, own: bool = True
    ) -> tuple[int, RealNode | None]:
        """Make something with ``make(directory)``, give it to the caller if it was not yet, and say what it became."""
        status = self._may_add(folder, name)
        if status:
            return status, None
        try:
            with self.inside(folder) as fd:
                make(fd)
                if self.as_root and own:
                    os.chown(name, cred.uid, self._group(folder, cred), dir_fd=fd, follow_symlinks=False)
                self.sync_dir(fd)
                found = statx(fd, name)
            self.refresh(folder)
        except OSError as error:
            return status_of(error), None
        self._listings.pop(folder.handle, None)
        return NFS3_OK, self.node(found, folder, name)

    @staticmethod
    def _group(folder: RealNode, cred: Cred) -> int:
        """Choose the group of a new object."""
        return folder.gid if folder.mode & stat.S_ISGID else cred.gid

    def create(
        self, folder: RealNode, name: bytes, mode: int, cred: Cred, verf: bytes | None = None
    ) -> tuple[int, RealNode | None]:
        """Make an empty regular file."""

        def make(fd: int) -> None:
            file = os.open(name, _NEW_FILE, 0o600, dir_fd=fd)
            try:
                if self.as_root:
                    os.fchown(file, cred.uid, self._group(folder, cred))
                os.fchmod(file, mode & 0o1777)
                if verf is not None:
                    os.utime(file, ns=_verf_times(verf))
                if self.durable:
                    os.fsync(file)
            finally:
                os.close(file)

        return self._make(folder, name, make, cred, own=False)

    def created_with(self, node: RealNode, verf: bytes) -> bool:
        """Tell whether a file was made by an EXCLUSIVE CREATE with this verifier."""
        return (node.atime_ns, node.mtime_ns) == _verf_times(verf)

    def mkdir(self, folder: RealNode, name: bytes, mode: int, cred: Cred) -> tuple[int, RealNode | None]:
        """Make an empty directory."""

        def make(fd: int) -> None:
            os.mkdir(name, 0o700, dir_fd=fd)
            below = os.open(name, _OPEN_DIR, dir_fd=fd)
            try:
                if self.as_root:
                    os.fchown(below, cred.uid, self._group(folder, cred))
                os.fchmod(below, mode & 0o3777 | folder.mode & stat.S_ISGID)
            finally:
                os.close(below)

        return self._make(folder, name, make, cred, own=False)

    def symlink(self, folder: RealNode, name: bytes, target: bytes, mode: int, cred: Cred) -> tuple[int, RealNode | None]:
        """Make a symbolic link; it may say anything, the server never follows it."""
        if not target or b"\0" in target:
            status = self._may_add(folder, name)
            return status or (NFS3ERR_ACCES if self.lookup(folder, name)[0] else NFS3ERR_EXIST), None
        return self._make(folder, name, lambda fd: os.symlink(target, name, dir_fd=fd), cred)

    def mknod(
        self, folder: RealNode, name: bytes, ftype: int, mode: int, rdev: tuple[int, int], cred: Cred
    ) -> tuple[int, RealNode | None]:
        """Make a fifo or a socket; devices are not made."""
        kinds = {NF3FIFO: stat.S_IFIFO, NF3SOCK: stat.S_IFSOCK}
        if ftype not in kinds:
            return self._may_add(folder, name) or NFS3ERR_NOTSUPP, None

        def make(fd: int) -> None:
            os.mknod(name, kinds[ftype] | 0o600, dir_fd=fd)
            self.chmod(fd, name, mode & 0o1777)

        return self._make(folder, name, make, cred)

    def link(self, node: RealNode, folder: RealNode, name: bytes) -> int:
        """Give an object that is no directory a further name."""
        if node.ftype == NF3DIR:
            return NFS3ERR_ISDIR
        status = self._may_add(folder, name)
        if status:
            return status
        try:
            with self.inside(node.names[-1][0]) as here, self.inside(folder) as there:
                os.link(node.names[-1][1], name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
                self.sync_dir(there)
            node.names.append((folder, name))
            self.refresh(node)
            self.refresh(folder)
        except OSError as error:
            return status_of(error)
        self._listings.pop(folder.handle, None)
        return NFS3_OK

    # names that go

    def _forget(self, node: RealNode, folder: RealNode, name: bytes) -> None:
        """Take a name from an object; without any it is gone."""
        self._listings.pop(folder.handle, None)
        if (folder, name) in node.names:
            node.names.remove((folder, name))
        if node.nlink <= 1 or node.ftype == NF3DIR:
            self.close_file(node)
            self.drop(node)

    def _unlink(self, folder: RealNode, name: bytes, take: Callable[[bytes, int], None], directory: bool) -> int:
        """REMOVE and RMDIR, of a plain name."""
        status, node = self.lookup(folder, name)
        if status or node is None:
            return status
        if (node.ftype == NF3DIR) != directory:
            return NFS3ERR_NOTDIR if directory else NFS3ERR_ISDIR
        try:
            with self.inside(folder) as fd:
                take(name, fd)
                self.sync_dir(fd)
            self._forget(node, folder, name)
            self.refresh(folder)
        except OSError as error:
            return status_of(error)
        return NFS3_OK

    def remove(self, folder: RealNode, name: bytes) -> int:
        """Take away a name of an object that is no directory."""
        if name in (b".", b".."):
            return NFS3ERR_INVAL
        return self._unlink(folder, name, lambda name, fd: os.unlink(name, dir_fd=fd), directory=False)

    def rmdir(self, folder: RealNode, name: bytes) -> int:
        """Take away an empty directory."""
        if name in (b".", b".."):
            return NFS3ERR_INVAL if name == b"." else NFS3ERR_EXIST
        return self._unlink(folder, name, lambda name, fd: os.rmdir(name, dir_fd=fd), directory=True)

    def rename(self, source: RealNode, old: bytes, goal: RealNode, new: bytes) -> int:
        """Move a name; what bore the new name goes, if it is of the same kind and, as a directory, empty."""
        if old in (b".", b"..") or new in (b".", b".."):
            return NFS3ERR_INVAL
        status, node = self.lookup(source, old)
        if status or node is None:
            return status
        status, victim = self.lookup(goal, new)
        if status not in (NFS3_OK, NFS3ERR_NOENT):
            return status
        if victim is node:
            return NFS3_OK
        if node.ftype == NF3DIR and goal.is_below(node):
            return NFS3ERR_INVAL
        if victim is not None and (victim.ftype == NF3DIR) != (node.ftype == NF3DIR):
            return NFS3ERR_EXIST
        try:
            with self.inside(source) as here, self.inside(goal) as there:
                os.rename(old, new, src_dir_fd=here, dst_dir_fd=there)
                self.sync_dir(there)
                self.sync_dir(here)
            if victim is not None:
                self._forget(victim, goal, new)
            node.names = [place for place in node.names if place != (source, old)] if node.ftype != NF3DIR else []
            node.names.append((goal, new))
            self.refresh(source)
            self.refresh(goal)
        except OSError as error:
            return status_of(error)
        self._listings.pop(source.handle, None)
        self._listings.pop(goal.handle, None)
        return NFS3_OK

    def readlink(self, node: RealNode) -> tuple[int, bytes]:
        """Tell where a symbolic link leads."""
        folder, name = node.names[-1]
        try:
            with self.inside(folder) as fd:
                return NFS3_OK, os.readlink(name, dir_fd=fd)
        except OSError as error:
            return status_of(error), b""

    def statfs(self) -> FsStat:
        """Tell how full it is; what this process may use is what a client may."""
        try:
            full = os.fstatvfs(self.root_fd)
        except OSError:
            return FsStat(0, 0, 0, 0, 0, 0)  # FSSTAT cannot fail for a handle that is right
        return FsStat(
            full.f_blocks * full.f_frsize,
            full.f_bfree * full.f_frsize,
            full.f_bavail * full.f_frsize,
            full.f_files,
            full.f_ffree,
            full.f_favail,
        )
