"""The attributes of a real file, with what os.stat() does not tell: when it was made (statx(2)).

Interface: ``statx(dir_fd, name)``, without following a symbolic link; an empty name means the descriptor itself.

Rules of this file
    * ``generation`` tells two objects apart that had the same inode number one after the other: the time of birth in ns. It is 0
      where the C library or the file system does not know it.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from typing import NamedTuple

AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH = 0x100, 0x1000
STATX_BASIC_STATS, STATX_BTIME = 0x7FF, 0x800
NSEC_PER_SEC = 1_000_000_000

# mask blksize attributes nlink uid gid mode - ino size blocks - ; atime btime ctime mtime; rdev, dev
_STATX = struct.Struct("=IIQIIIHHQQQQ" + "qIi" * 4 + "IIII")
_BUFFER_SIZE = 256


class Stat(NamedTuple):
    """What is known of an object; times are ns since the epoch."""

    mode: int  # with the type
    nlink: int
    uid: int
    gid: int
    dev: int
    ino: int
    generation: int
    size: int
    used: int
    rdev: tuple[int, int]
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    @property
    def is_dir(self) -> bool:
        """Tell whether it is a directory."""
        return stat.S_ISDIR(self.mode)


def _library() -> ctypes.CDLL | None:
    """Return the C library if it has statx()."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        library.statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    except (OSError, AttributeError):
        return None
    return library


_LIBC = _library()


def statx(dir_fd: int, name: bytes) -> Stat:
    """Return the attributes of ``name`` in a directory, or of the descriptor; OSError as os.stat() raises it."""
    if _LIBC is None:
        return _plain(dir_fd, name)
    buffer = ctypes.create_string_buffer(_BUFFER_SIZE)
    flags = AT_SYMLINK_NOFOLLOW if name else AT_EMPTY_PATH
    if _LIBC.statx(dir_fd, name, flags, STATX_BASIC_STATS | STATX_BTIME, buffer):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)
    (
        mask, _, _, nlink, uid, gid, mode, _, ino, size, blocks, _,
        a_sec, a_ns, _, b_sec, b_ns, _, c_sec, c_ns, _, m_sec, m_ns, _,
        rdev_major, rdev_minor, dev_major, dev_minor,
    ) = _STATX.unpack_from(buffer)  # fmt: skip
    born = b_sec * NSEC_PER_SEC + b_ns if mask & STATX_BTIME else 0
    return Stat(
        mode, nlink, uid, gid, dev_major << 20 | dev_minor, ino, born & (1 << 64) - 1, size, blocks * 512,
        (rdev_major, rdev_minor), a_sec * NSEC_PER_SEC + a_ns, m_sec * NSEC_PER_SEC + m_ns, c_sec * NSEC_PER_SEC + c_ns,
    )  # fmt: skip


def _plain(dir_fd: int, name: bytes) -> Stat:
    """Do without statx()."""
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False) if name else os.fstat(dir_fd)
    return Stat(
        found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_dev, found.st_ino, 0, found.st_size,
        found.st_blocks * 512, (os.major(found.st_rdev), os.minor(found.st_rdev)), found.st_atime_ns, found.st_mtime_ns,
        found.st_ctime_ns,
    )  # fmt: skip
