"""The server's file system in memory: inodes, names, file handles, permissions.

Interface
    * ``FileTree(clock)``: the tree; ``clock()`` gives ns.
    * ``make_dir(path)``, ``make_file(path, size)``, ``lookup_path(path)``: for whoever sets up a server.
    * All of tree.py's protocol: names, data, attributes, and ``crash(lose_unstable)``, a loss of power.

Rules of this file
    * A file handle is 32 bytes: a magic, the file system's number, the file's number, the generation. A file's number is never
      used twice, so a handle of a removed file is stale for ever.
    * ``..`` in the root of the tree or of an export is that root: no name leads out of an export.
    * Left out: quotas, access lists, hard limits on names per directory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from kemu.errors import KernelBug
from kemu_nfs.server.cred import Cred
from kemu_nfs.server.inode import BLOCK_SHIFT, Inode
from kemu_nfs.server.tree import LINK_MAX, Entry, FsStat, Sattr3, block_range, check_name
from kemu_nfs.sunrpc.nfs3_const import (
    NF3DIR,
    NF3LNK,
    NF3REG,
    NFS3_OK,
    NFS3ERR_ACCES,
    NFS3ERR_BADHANDLE,
    NFS3ERR_EXIST,
    NFS3ERR_INVAL,
    NFS3ERR_ISDIR,
    NFS3ERR_MLINK,
    NFS3ERR_NOENT,
    NFS3ERR_NOSPC,
    NFS3ERR_NOTDIR,
    NFS3ERR_NOTEMPTY,
    NFS3ERR_STALE,
)

EPOCH_NS = 1_193_760_241_000_000_000  # 30 October 2007, 16:04:01 UTC: what a server's clock shows at virtual time 0
MAX_FILES = 1 << 20

_HANDLE = struct.Struct("!4sIQI12x")
_MAGIC = b"kemu"


class FileTree:
    """A file system.

    :param clock: gives the time in ns; the server's clock starts at EPOCH_NS.
    :param capacity: bytes of file data that fit; as many objects fit as ``max_files`` says.
    :param bounded: refuse what does not fit (NFS3ERR_NOSPC); without it the limits are only told.
    """

    def __init__(self, clock: Callable[[], int], *, fsid: int = 1, capacity: int = 1 << 40, bounded: bool = False) -> None:
        self.clock = clock
        self.fsid = fsid
        self.capacity = capacity
        self.bounded = bounded
        self.max_files = MAX_FILES
        self.by_handle: dict[bytes, Inode] = {}
        self.exported: dict[int, str] = {}  # fileid of an export's root -> its path
        self._next_fileid = 2
        self.root = self._new(NF3DIR, 0o755, 0, 0)
        self.root.parent = self.root

    def now(self) -> int:
        """Tell the time of day in ns, as attributes show it."""
        return EPOCH_NS + self.clock()

    def _new(self, ftype: int, mode: int, uid: int, gid: int) -> Inode:
        """Make an object that has no name yet."""
        fileid = self._next_fileid
        self._next_fileid = fileid + 1
        handle = _HANDLE.pack(_MAGIC, self.fsid, fileid, 1)
        inode = Inode(ftype, fileid, handle, mode & 0o7777, uid, gid, self.now())
        self.by_handle[handle] = inode
        return inode

    # handles and paths

    def find(self, handle: bytes) -> tuple[int, Inode | None]:
        """Find the object of a handle (fh_verify())."""
        inode = self.by_handle.get(handle)
        return (NFS3_OK, inode) if inode is not None else (self._fh_status(handle), None)

    def _fh_status(self, handle: bytes) -> int:
        """Say why a handle that is not in ``by_handle`` is refused: STALE if it was once ours, else BADHANDLE."""
        if len(handle) != _HANDLE.size or handle[28:].strip(b"\0"):
            return NFS3ERR_BADHANDLE
        magic, fsid, fileid, generation = _HANDLE.unpack(handle)
        ours = magic == _MAGIC and fsid == self.fsid and generation == 1 and 2 <= fileid < self._next_fileid
        return NFS3ERR_STALE if ours else NFS3ERR_BADHANDLE

    def lookup_path(self, path: str) -> Inode | None:
        """Walk an absolute path, for whoever sets up a server; links are not followed, ``..`` stops at the root."""
        inode = self.root
        for name in path.encode().split(b"/"):
            if not name:
                continue
            status, found = self.lookup(inode, name)
            if status or found is None:
                return None
            inode = found
        return inode

    def add_export(self, path: str) -> None:
        """Make a directory the top of what clients see from it; it is made if it is not there."""
        self.exported[self.make_dir(path).fileid] = path

    def make_dir(self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Inode:
        """Make a directory and those above it, or find it."""
        inode = self.root
        for name in path.encode().split(b"/"):
            if not name:
                continue
            status, found = self.lookup(inode, name)
            if status == NFS3ERR_NOENT:
                status, found = self.mkdir(inode, name, mode, Cred(uid, gid))
            if status or found is None or found.ftype != NF3DIR:
                raise KernelBug(f"cannot make the directory {path}")
            inode = found
        return inode

    def make_file(self, path: str, size: int = 0, *, mode: int = 0o600, uid: int = 0, gid: int = 0) -> Inode:
        """Make a regular file of ``size`` bytes without data, for whoever sets up a server."""
        folder, _, name = path.rpartition("/")
        status, inode = self.create(self.make_dir(folder), name.encode(), mode, Cred(uid, gid))
        if status or inode is None:
            raise KernelBug(f"cannot make the file {path}: status {status}")
        inode.resize(size)
        return inode

    # names

    def lookup(self, folder: Inode, name: bytes) -> tuple[int, Inode | None]:
        """Find a name in a directory."""
        if folder.ftype != NF3DIR:
            return NFS3ERR_NOTDIR, None
        if name == b".":
            return NFS3_OK, folder
        if name == b"..":
            # the parent of an export's root is outside of what the client may see
            return NFS3_OK, folder if folder.fileid in self.exported else folder.parent
        status = check_name(name)
        if status:
            return status, None
        entry = folder.entries.get(name)
        return (NFS3_OK, entry.inode) if entry is not None else (NFS3ERR_NOENT, None)

    def _may_add(self, folder: Inode, name: bytes) -> int:
        """Judge whether a new name can be entered: a status."""
        if folder.ftype != NF3DIR:
            return NFS3ERR_NOTDIR
        if name in (b".", b".."):
            return NFS3ERR_EXIST
        status = check_name(name)
        if status:
            return status
        return NFS3ERR_EXIST if name in folder.entries else NFS3_OK

    def _touch(self, *inodes: Inode) -> None:
        """Note that directories changed: mtime and ctime are now."""
        now = self.now()
        for inode in inodes:
            inode.mtime_ns = inode.ctime_ns = now

    def _make(self, folder: Inode, name: bytes, ftype: int, mode: int, cred: Cred) -> tuple[int, Inode | None]:
        status = self._may_add(folder, name)
        if status:
            return status, None
        if self.bounded and len(self.by_handle) >= self.max_files:
            return NFS3ERR_NOSPC, None
        gid = folder.gid if folder.mode & 0o2000 else cred.gid
        inode = self._new(ftype, mode, cred.uid, gid)
        folder.add_entry(name, inode)
        self._touch(folder)
        return NFS3_OK, inode

    def create(self, folder: Inode, name: bytes, mode: int, cred: Cred, verf: bytes | None = None) -> tuple[int, Inode | None]:
        """Make an empty regular file."""
        status, inode = self._make(folder, name, NF3REG, mode, cred)
        if inode is not None:
            inode.create_verf = verf
        return status, inode

    def created_with(self, inode: Inode, verf: bytes) -> bool:
        """Tell whether a file was made by an EXCLUSIVE CREATE with this verifier."""
        return inode.create_verf == verf

    def mkdir(self, folder: Inode, name: bytes, mode: int, cred: Cred) -> tuple[int, Inode | None]:
        """Make an empty directory."""
        if folder.nlink >= LINK_MAX:
            return NFS3ERR_MLINK, None
        status, inode = self._make(folder, name, NF3DIR, mode | folder.mode & 0o2000, cred)
        if inode is not None:
            inode.parent = folder
            folder.nlink += 1
        return status, inode

    def symlink(self, folder: Inode, name: bytes, target: bytes, mode: int, cred: Cred) -> tuple[int, Inode | None]:
        """Make a symbolic link; the server never follows it."""
        if not target or b"\0" in target:
            return self._may_add(folder, name) or NFS3ERR_ACCES, None  # no such link can be; SYMLINK has no better word
        status, inode = self._make(folder, name, NF3LNK, mode, cred)
        if inode is not None:
            inode.target = target
            inode.size = len(target)
        return status, inode

    def mknod(
        self, folder: Inode, name: bytes, ftype: int, mode: int, rdev: tuple[int, int], cred: Cred
    ) -> tuple[int, Inode | None]:
        """Make a device, a fifo or a socket."""
        status, inode = self._make(folder, name, ftype, mode, cred)
        if inode is not None:
            inode.rdev = rdev
        return status, inode

    def link(self, inode: Inode, folder: Inode, name: bytes) -> int:
        """Give an object that is no directory a further name."""
        if inode.ftype == NF3DIR:
            return NFS3ERR_ISDIR
        status = self._may_add(folder, name)
        if status:
            return status
        if inode.nlink >= LINK_MAX:
            return NFS3ERR_MLINK
        folder.add_entry(name, inode)
        inode.nlink += 1
        inode.ctime_ns = self.now()
        self._touch(folder)
        return NFS3_OK

    def _drop(self, inode: Inode) -> None:
        """Take one name from an object; without any it is gone, and its handle is stale."""
        inode.nlink -= 1
        inode.ctime_ns = self.now()
        if inode.nlink == 0 or inode.ftype == NF3DIR:
            inode.nlink = 0
            del self.by_handle[inode.handle]

    def remove(self, folder: Inode, name: bytes) -> int:
        """Take away a name of an object that is no directory."""
        if name in (b".", b".."):
            return NFS3ERR_INVAL
        status, inode = self.lookup(folder, name)
        if status or inode is None:
            return status
        if inode.ftype == NF3DIR:
            return NFS3ERR_ISDIR
        del folder.entries[name]
        self._drop(inode)
        self._touch(folder)
        return NFS3_OK

    def rmdir(self, folder: Inode, name: bytes) -> int:
        """Take away an empty directory."""
        if name == b".":
            return NFS3ERR_INVAL
        if name == b"..":
            return NFS3ERR_EXIST  # RFC 1813, 3.3.13
        status, inode = self.lookup(folder, name)
        if status or inode is None:
            return status
        if inode.ftype != NF3DIR:
            return NFS3ERR_NOTDIR
        if inode.entries:
            return NFS3ERR_NOTEMPTY
        del folder.entries[name]
        folder.nlink -= 1
        self._drop(inode)
        self._touch(folder)
        return NFS3_OK

    def rename(self, source: Inode, old: bytes, goal: Inode, new: bytes) -> int:
        """Move a name; what bore the new name goes, if it is of the same kind and, as a directory, empty."""
        if old in (b".", b"..") or new in (b".", b".."):
            return NFS3ERR_INVAL
        status, inode = self.lookup(source, old)
        if status or inode is None:
            return status
        status, victim = self.lookup(goal, new)
        if status not in (NFS3_OK, NFS3ERR_NOENT):
            return status
        if victim is inode:
            return NFS3_OK
        if inode.ftype == NF3DIR and self._is_below(goal, inode):
            return NFS3ERR_INVAL
        if inode.ftype == NF3DIR and victim is None and goal is not source and goal.nlink >= LINK_MAX:
            return NFS3ERR_MLINK
        if victim is not None:
            if (victim.ftype == NF3DIR) != (inode.ftype == NF3DIR):
                return NFS3ERR_EXIST
            status = self.rmdir(goal, new) if victim.ftype == NF3DIR else self.remove(goal, new)
            if status:
                return status
        del source.entries[old]
        goal.add_entry(new, inode)
        if inode.ftype == NF3DIR:
            source.nlink -= 1
            goal.nlink += 1
            inode.parent = goal
        inode.ctime_ns = self.now()
        self._touch(source, goal)
        return NFS3_OK

    def _is_below(self, inode: Inode, top: Inode) -> bool:
        """Tell whether ``inode`` is ``top`` or lies below it."""
        while inode is not top:
            if inode.parent is None or inode.parent is inode:
                return False
            inode = inode.parent
        return True

    def entries(self, folder: Inode, cookie: int) -> tuple[int, Iterable[Entry]]:
        """List (cookie, name, fileid) of the names after ``cookie``."""
        return NFS3_OK, (
            (entry.cookie, entry.name, entry.inode.fileid) for entry in folder.entries.values() if entry.cookie > cookie
        )

    # data and attributes

    def readlink(self, inode: Inode) -> tuple[int, bytes]:
        """Tell where a symbolic link leads."""
        return NFS3_OK, inode.target

    def read(self, inode: Inode, offset: int, count: int) -> tuple[int, bytes]:
        """Read from a file."""
        return NFS3_OK, inode.read_data(offset, count)

    def write(self, inode: Inode, offset: int, data: bytes, stable: bool) -> tuple[int, int]:
        """Write to a file, if there is room for all of it."""
        if not self.has_room(inode, offset, len(data)):
            return NFS3ERR_NOSPC, 0
        if data:
            inode.write_data(offset, data, stable)
            inode.mtime_ns = inode.ctime_ns = self.now()
        return NFS3_OK, len(data)

    def commit(self, inode: Inode, offset: int, count: int) -> tuple[int, int]:
        """Make a part of a file stable."""
        return NFS3_OK, inode.commit(*block_range(offset, count, BLOCK_SHIFT))

    def set_attributes(self, inode: Inode, sattr: Sattr3) -> int:
        """Change attributes; a file that changes its owner is no longer set-user-id."""
        now = self.now()
        if sattr.uid is not None or sattr.gid is not None:
            inode.uid = inode.uid if sattr.uid is None else sattr.uid
            inode.gid = inode.gid if sattr.gid is None else sattr.gid
            if inode.ftype != NF3DIR:
                inode.mode &= ~0o6000
        if sattr.mode is not None:
            inode.mode = sattr.mode & 0o7777
        if sattr.size is not None:
            inode.resize(sattr.size)
            inode.mtime_ns = now
        if sattr.atime_ns is not None:
            inode.atime_ns = now if sattr.atime_ns < 0 else sattr.atime_ns
        if sattr.mtime_ns is not None:
            inode.mtime_ns = now if sattr.mtime_ns < 0 else sattr.mtime_ns
        inode.ctime_ns = now
        return NFS3_OK

    # the whole

    def statfs(self) -> FsStat:
        """Tell how full it is."""
        free = max(0, self.capacity - self.used_bytes())
        files_free = max(0, self.max_files - len(self.by_handle))
        return FsStat(self.capacity, free, free, self.max_files, files_free, files_free)

    def used_bytes(self) -> int:
        """Bytes of file data that are stored."""
        return sum(len(inode.blocks) for inode in self.by_handle.values()) << BLOCK_SHIFT

    def has_room(self, inode: Inode, offset: int, count: int) -> bool:
        """Tell whether a write fits: the blocks that it would add, against what is left."""
        if not self.bounded or not count:
            return True
        first, last = offset >> BLOCK_SHIFT, (offset + count - 1) >> BLOCK_SHIFT
        fresh = sum(block not in inode.blocks for block in range(first, last + 1))
        return not fresh or self.used_bytes() + (fresh << BLOCK_SHIFT) <= self.capacity

    def crash(self, lose_unstable: bool) -> int:
        """Let the power fail: what no COMMIT made stable is lost, or happened to be written; return the blocks lost."""
        files = [inode for inode in self.by_handle.values() if inode.ftype == NF3REG]
        if lose_unstable:
            return sum(inode.lose_unstable() for inode in files)
        for inode in files:
            inode.commit()
        return 0

    def check(self) -> None:
        """Assert the tree's invariants: every object has a name, and the counts of names are right."""
        names = {inode.fileid: 0 for inode in self.by_handle.values()}
        for folder in self.by_handle.values():
            folder.check()
            if folder.ftype == NF3DIR:
                names[folder.fileid] += 2  # its own name and "."; the root is its own parent
            for name, entry in folder.entries.items():
                if entry.inode.handle not in self.by_handle:
                    raise KernelBug(f"the name {name!r} leads to an object that is gone")
                if entry.inode.ftype == NF3DIR:
                    names[folder.fileid] += 1
                    if entry.inode.parent is not folder:
                        raise KernelBug(f"directory {name!r} has another parent")
                else:
                    names[entry.inode.fileid] += 1
        for inode in self.by_handle.values():
            if inode.nlink != names[inode.fileid]:
                raise KernelBug(f"object {inode.fileid} has nlink {inode.nlink}, and {names[inode.fileid]} names lead to it")
