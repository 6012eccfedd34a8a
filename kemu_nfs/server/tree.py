"""What the server asks of a file system, and what all of them share.

Interface
    * ``Node``, ``Tree``: the protocols. filetree.py is a tree in memory; kemu_lab's real_tree.py is one on a real directory.
    * ``Sattr3``: attributes to be set. ``check_name()``: which names may exist.

Rules of this file
    * A method returns a status of RFC 1813 (0 is success), with what it found or made; it never raises for what a client asked.
    * A node's attributes are true when ``find()`` or ``lookup()`` gave it, and true again after each method that changed it.
    * Permissions are not the tree's business but the procedures' (cred.py), except those that only the tree can know.
    * Handles have HANDLE_SIZE bytes. One that was never given is BADHANDLE, one whose object is gone is STALE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import attrs

from kemu_nfs.server.cred import Cred
from kemu_nfs.sunrpc.nfs3_const import NFS3_OK, NFS3ERR_ACCES, NFS3ERR_NAMETOOLONG

NAME_MAX = 255
LINK_MAX = 32000
HANDLE_SIZE = 32
MAX_FILE_SIZE = (1 << 63) - 1
NOBODY_ID = 0xFFFFFFFF  # (uid_t)-1: "leave it alone" to chown(), so nobody's number

FIRST_COOKIE = 3  # READDIR: 1 is ".", 2 is ".."
Entry = tuple[int, bytes, int]  # cookie, name, fileid


@attrs.define(eq=False)
class Sattr3:
    """``struct sattr3``: None leaves an attribute alone; a time of -1 is the server's own.

    :param invalid: it holds a time that does not exist (a billion nanoseconds and more).
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    invalid: bool = False


@attrs.frozen
class FsStat:
    """How full a file system is: bytes and objects, what is free, and what of it may be used."""

    total_bytes: int
    free_bytes: int
    avail_bytes: int
    total_files: int
    free_files: int
    avail_files: int


class Node(Protocol):
    """An object: its type, its handle, and the attributes of fattr3. Times are ns since the epoch."""

    ftype: int
    fileid: int
    handle: bytes
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    rdev: tuple[int, int]
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    @property
    def used(self) -> int:
        """Bytes of storage that the object takes."""
        ...


class Tree(Protocol):
    """A file system. Nodes are Any here: each tree takes only its own kind, which a protocol cannot say."""

    fsid: int

    def now(self) -> int:
        """Tell the time of day in ns, as attributes show it."""
        ...

    def find(self, handle: bytes) -> tuple[int, Any]:
        """Find the object of a handle (fh_verify())."""
        ...

    def add_export(self, path: str) -> None:
        """Make a directory the top of what clients see from it: its ``..`` is itself. ConfigError if it cannot be."""
        ...

    def lookup_path(self, path: str) -> Any:
        """Walk an absolute path without following links; None if it leads nowhere."""
        ...

    def lookup(self, folder: Any, name: bytes) -> tuple[int, Any]:
        """Find a name, ``.`` and ``..`` too."""
        ...

    def entries(self, folder: Any, cookie: int) -> tuple[int, Iterable[Entry]]:
        """List (cookie, name, fileid) of the names after ``cookie``, in the order of their cookies, without ``.`` and ``..``."""
        ...

    def create(self, folder: Any, name: bytes, mode: int, cred: Cred, verf: bytes | None = None) -> tuple[int, Any]:
        """Make an empty regular file, remembering the verifier of an EXCLUSIVE CREATE."""
        ...

    def created_with(self, node: Any, verf: bytes) -> bool:
        """Tell whether a regular file was made by an EXCLUSIVE CREATE with this verifier."""
        ...

    def mkdir(self, folder: Any, name: bytes, mode: int, cred: Cred) -> tuple[int, Any]:
        """Make an empty directory."""
        ...

    def symlink(self, folder: Any, name: bytes, target: bytes, mode: int, cred: Cred) -> tuple[int, Any]:
        """Make a symbolic link."""
        ...

    def mknod(self, folder: Any, name: bytes, ftype: int, mode: int, rdev: tuple[int, int], cred: Cred) -> tuple[int, Any]:
        """Make a device, a fifo or a socket."""
        ...

    def link(self, node: Any, folder: Any, name: bytes) -> int:
        """Give an object that is no directory a further name."""
        ...

    def remove(self, folder: Any, name: bytes) -> int:
        """Take away a name of an object that is no directory."""
        ...

    def rmdir(self, folder: Any, name: bytes) -> int:
        """Take away an empty directory."""
        ...

    def rename(self, source: Any, old: bytes, goal: Any, new: bytes) -> int:
        """Move a name."""
        ...

    def readlink(self, node: Any) -> tuple[int, bytes]:
        """Tell where a symbolic link leads."""
        ...

    def read(self, node: Any, offset: int, count: int) -> tuple[int, bytes]:
        """Read from a regular file; short only at its end."""
        ...

    def write(self, node: Any, offset: int, data: bytes, stable: bool) -> tuple[int, int]:
        """Write to a regular file; give how many bytes."""
        ...

    def commit(self, node: Any, offset: int, count: int) -> tuple[int, int]:
        """Make a part of a regular file stable, to its end if ``count`` is 0; give how many blocks had to be written."""
        ...

    def set_attributes(self, node: Any, sattr: Sattr3) -> int:
        """Change attributes."""
        ...

    def statfs(self) -> FsStat:
        """Tell how full it is."""
        ...

    def crash(self, lose_unstable: bool) -> int:
        """Let the power fail; return how many blocks were lost."""
        ...

    def check(self) -> None:
        """Assert the invariants."""
        ...


def check_name(name: bytes) -> int:
    """Judge a name that a call wants to make, remove or look up: a status (RFC 1813, 3.2)."""
    if len(name) > NAME_MAX:
        return NFS3ERR_NAMETOOLONG
    if not name or b"/" in name or b"\0" in name:
        return NFS3ERR_ACCES
    return NFS3_OK


def block_range(offset: int, count: int, shift: int) -> tuple[int, int | None]:
    """Give the first block of a COMMIT's range, and the last; None for the end of the file."""
    return offset >> shift, (offset + count - 1) >> shift if count else None
