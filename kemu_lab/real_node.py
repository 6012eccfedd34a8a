"""Objects of a real directory as the NFS server sees them, and how the machine's errors are told to a client.

Interface
    * ``RealNode``: what RealTree gives for a handle or a name.
    * ``status_of(error)``: an OSError as a status of RFC 1813.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable

from kemu_lab.statx import Stat
from kemu_nfs.sunrpc.nfs3_const import (
    NF3BLK,
    NF3CHR,
    NF3DIR,
    NF3FIFO,
    NF3LNK,
    NF3REG,
    NF3SOCK,
    NFS3ERR_ACCES,
    NFS3ERR_DQUOT,
    NFS3ERR_EXIST,
    NFS3ERR_FBIG,
    NFS3ERR_INVAL,
    NFS3ERR_IO,
    NFS3ERR_ISDIR,
    NFS3ERR_JUKEBOX,
    NFS3ERR_MLINK,
    NFS3ERR_NAMETOOLONG,
    NFS3ERR_NODEV,
    NFS3ERR_NOENT,
    NFS3ERR_NOSPC,
    NFS3ERR_NOTDIR,
    NFS3ERR_NOTEMPTY,
    NFS3ERR_NOTSUPP,
    NFS3ERR_NXIO,
    NFS3ERR_ROFS,
    NFS3ERR_STALE,
    NFS3ERR_XDEV,
)

FTYPES = {
    stat.S_IFREG: NF3REG,
    stat.S_IFDIR: NF3DIR,
    stat.S_IFBLK: NF3BLK,
    stat.S_IFCHR: NF3CHR,
    stat.S_IFLNK: NF3LNK,
    stat.S_IFSOCK: NF3SOCK,
    stat.S_IFIFO: NF3FIFO,
}

STATUSES = {
    errno.EPERM: NFS3ERR_ACCES,
    errno.EACCES: NFS3ERR_ACCES,
    errno.ENOENT: NFS3ERR_NOENT,
    errno.EIO: NFS3ERR_IO,
    errno.ENXIO: NFS3ERR_NXIO,
    errno.EEXIST: NFS3ERR_EXIST,
    errno.EXDEV: NFS3ERR_XDEV,
    errno.ENODEV: NFS3ERR_NODEV,
    errno.ENOTDIR: NFS3ERR_NOTDIR,
    errno.EISDIR: NFS3ERR_ISDIR,
    errno.EINVAL: NFS3ERR_INVAL,
    errno.EFBIG: NFS3ERR_FBIG,
    errno.ENOSPC: NFS3ERR_NOSPC,
    errno.EROFS: NFS3ERR_ROFS,
    errno.EMLINK: NFS3ERR_MLINK,
    errno.ENAMETOOLONG: NFS3ERR_NAMETOOLONG,
    errno.ENOTEMPTY: NFS3ERR_NOTEMPTY,
    errno.EDQUOT: NFS3ERR_DQUOT,
    errno.ESTALE: NFS3ERR_STALE,
    errno.ELOOP: NFS3ERR_STALE,  # O_NOFOLLOW: a link stands where the object was
    errno.ENOTSUP: NFS3ERR_NOTSUPP,
    errno.ENOSYS: NFS3ERR_NOTSUPP,
    # the server lacks something for now: the client shall ask again later
    errno.EMFILE: NFS3ERR_JUKEBOX,
    errno.ENFILE: NFS3ERR_JUKEBOX,
    errno.ENOMEM: NFS3ERR_JUKEBOX,
    errno.EAGAIN: NFS3ERR_JUKEBOX,
}


def status_of(error: OSError) -> int:
    """Tell a client what went wrong; what has no word of its own is an I/O error."""
    return STATUSES.get(error.errno or 0, NFS3ERR_IO)


class RealNode:
    """An object of a real directory.

    :ivar names: where it was seen: (directory, name); a directory has one at most, the root none.
    :ivar key: device, inode number and generation, by which it is known again.
    """

    __slots__ = (
        "_read", "atime_ns", "ctime_ns", "fileid", "ftype", "gid", "handle", "key", "mode", "mtime_ns", "names", "nlink", "rdev",
        "size", "uid", "used",
    )  # fmt: skip

    def __init__(self, handle: bytes, found: Stat, read: Callable[[RealNode, int, int], tuple[int, bytes]]) -> None:
        self.handle = handle
        self.key = (found.dev, found.ino, found.generation)
        self.names: list[tuple[RealNode, bytes]] = []
        self._read = read
        self.fill(found)

    def fill(self, found: Stat) -> None:
        """Take the attributes that the object has now."""
        self.ftype = FTYPES.get(stat.S_IFMT(found.mode), NF3REG)
        self.fileid = found.ino
        self.mode = found.mode & 0o7777
        self.uid = found.uid
        self.gid = found.gid
        self.nlink = found.nlink
        self.size = found.size
        self.used = found.used
        self.rdev = found.rdev
        self.atime_ns = found.atime_ns
        self.mtime_ns = found.mtime_ns
        self.ctime_ns = found.ctime_ns

    def is_same(self, found: Stat) -> bool:
        """Tell whether this was found again."""
        return self.key == (found.dev, found.ino, found.generation)

    def read_data(self, offset: int, count: int) -> bytes:
        """Read as an object in memory is read, for whoever looks at a server's files; b"" if it cannot be."""
        return self._read(self, offset, count)[1]

    def is_below(self, top: RealNode) -> bool:
        """Tell whether this is ``top`` or lies below it, as far as was seen."""
        at, steps = self, 0
        while at is not top:
            if not at.names or steps > MAX_DEPTH:
                return False
            at, steps = at.names[-1][0], steps + 1
        return True


MAX_DEPTH = 256  # directories above an object; a table that others' renames made wrong may hold a circle
