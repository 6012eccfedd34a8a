"""Arguments and results of NFSv3 for files, as the client writes and reads them (2.6.23 fs/nfs/nfs3xdr.c; RFC 1813).

Interface
    * ``PROC_*``: an :class:`RpcProc` per procedure that works on a file. Arguments are what ``encode`` takes; results are
      :class:`Nfs3Result`, whose ``status`` is 0 or -errno. Procedures on names, and MOUNT's, are in nfs3xdr_names.py.
    * :class:`Fattr3`: attributes. ``nfs_stat_to_errno(status)``.
    * ``decode_status``, ``decode_post_op_attr``, ``decode_wcc_data``: parts that most results have.

Rules of this file
    * A result that breaks the protocol raises XdrError, which clnt.py makes -EIO.
    * WRITE and READ are what swap lives by: one struct for the arguments, one look at the flags of the result. Attributes stay
      bytes until somebody asks (``Fattr3`` reads them).
    * READ's data is joined by the receive path and cut out of the reply once.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import attrs

from kemu.kernel.errno import (
    EACCES,
    EBADHANDLE,
    EBADTYPE,
    EDQUOT,
    EEXIST,
    EFBIG,
    EINVAL,
    EIO,
    EISDIR,
    EJUKEBOX,
    EMFILE,
    ENAMETOOLONG,
    ENODEV,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    ENOTEMPTY,
    ENOTSUPP,
    ENOTSYNC,
    ENXIO,
    EPERM,
    EROFS,
    ESERVERFAULT,
    ESTALE,
    ETOOSMALL,
    EXDEV,
)
from kemu.mm.page import Page
from kemu_nfs.sunrpc import nfs3_const as c
from kemu_nfs.sunrpc.rpc_task import RpcProc
from kemu_nfs.sunrpc.xdr import Packer, Unpacker, XdrError

FATTR_SIZE: Final = c.NFS3_FATTR_SIZE
NFS3_READ_OVERHEAD: Final = 256  # what a READ reply is longer than its data

_UINT = struct.Struct("!I")
_WRITE_ARGS = struct.Struct("!QIII")  # offset, count, stable, and the length of the data
_READ_ARGS = struct.Struct("!QI")
_WRITE_RES = struct.Struct("!II8s")  # count, committed, verifier
_READ_RES = struct.Struct("!III")  # count, eof, and the length of the data
_FATTR = struct.Struct("!IIIIIQQQQQIIIIII")

_ERRNO: Final = {
    c.NFS3ERR_PERM: EPERM,
    c.NFS3ERR_NOENT: ENOENT,
    c.NFS3ERR_IO: EIO,
    c.NFS3ERR_NXIO: ENXIO,
    c.NFS3ERR_ACCES: EACCES,
    c.NFS3ERR_EXIST: EEXIST,
    c.NFS3ERR_XDEV: EXDEV,
    c.NFS3ERR_NODEV: ENODEV,
    c.NFS3ERR_NOTDIR: ENOTDIR,
    c.NFS3ERR_ISDIR: EISDIR,
    c.NFS3ERR_INVAL: EINVAL,
    c.NFS3ERR_FBIG: EFBIG,
    c.NFS3ERR_NOSPC: ENOSPC,
    c.NFS3ERR_ROFS: EROFS,
    c.NFS3ERR_MLINK: EMFILE,
    c.NFS3ERR_NAMETOOLONG: ENAMETOOLONG,
    c.NFS3ERR_NOTEMPTY: ENOTEMPTY,
    c.NFS3ERR_DQUOT: EDQUOT,
    c.NFS3ERR_STALE: ESTALE,
    c.NFS3ERR_BADHANDLE: EBADHANDLE,
    c.NFS3ERR_NOT_SYNC: ENOTSYNC,
    c.NFS3ERR_NOTSUPP: ENOTSUPP,
    c.NFS3ERR_TOOSMALL: ETOOSMALL,
    c.NFS3ERR_SERVERFAULT: ESERVERFAULT,
    c.NFS3ERR_BADTYPE: EBADTYPE,
    c.NFS3ERR_JUKEBOX: EJUKEBOX,
}


def nfs_stat_to_errno(status: int) -> int:
    """Return 0 or -errno for a status of the server (nfs_stat_to_errno()); an unknown one is -EIO."""
    return -_ERRNO.get(status, EIO) if status else 0


@attrs.frozen
class Fattr3:
    """``fattr3``."""

    ftype: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    used: int
    rdev: int
    fsid: int
    fileid: int
    atime: tuple[int, int]
    mtime: tuple[int, int]
    ctime: tuple[int, int]

    @classmethod
    def read(cls, data: bytes) -> Fattr3:
        """Read the 84 bytes that a server sends."""
        ftype, mode, nlink, uid, gid, size, used, rdev, fsid, fileid, *times = _FATTR.unpack(data)
        atime, mtime, ctime = (times[0], times[1]), (times[2], times[3]), (times[4], times[5])
        return cls(ftype, mode, nlink, uid, gid, size, used, rdev, fsid, fileid, atime, mtime, ctime)


class Nfs3Result:
    """What a procedure answered.

    :ivar status: 0 or -errno.
    :ivar fattr: attributes after the call, 84 bytes, or None.
    :ivar pre_op: size, mtime, ctime before the call, 24 bytes, or None.
    :ivar fh: of the object that was found or made.
    :ivar value: what else there is: access bits, FSINFO's numbers, names, what became of a directory, ...
    """

    __slots__ = ("committed", "count", "data", "eof", "fattr", "fh", "pre_op", "status", "value", "verf")

    def __init__(self, status: int) -> None:
        self.status = status
        self.fattr: bytes | None = None
        self.pre_op: bytes | None = None
        self.fh: bytes | None = None
        self.value: Any = None
        self.count = 0
        self.committed = 0
        self.verf = b""
        self.eof = False
        self.data = b""


# -- parts ---------------------------------------------------------------------------------------------------------------------


def decode_post_op_attr(reply: bytes, offset: int, result: Nfs3Result) -> int:
    """Read optional attributes; return where they end."""
    if offset + 4 > len(reply):
        raise XdrError(f"post_op_attr at byte {offset} of {len(reply)} is cut off")
    follows = reply[offset : offset + 4]
    offset += 4
    if follows == b"\0\0\0\0":
        return offset
    if follows != b"\0\0\0\1" or offset + FATTR_SIZE > len(reply):
        raise XdrError(f"post_op_attr at byte {offset - 4} of {len(reply)} cannot be read")
    result.fattr = reply[offset : offset + FATTR_SIZE]
    return offset + FATTR_SIZE


def decode_wcc_data(reply: bytes, offset: int, result: Nfs3Result) -> int:
    """Read optional attributes of before and after; return where they end."""
    if offset + 4 > len(reply):
        raise XdrError(f"wcc_data at byte {offset} of {len(reply)} is cut off")
    follows = reply[offset : offset + 4]
    offset += 4
    if follows == b"\0\0\0\1":
        if offset + 24 > len(reply):
            raise XdrError(f"wcc_attr at byte {offset} of {len(reply)} is cut off")
        result.pre_op = reply[offset : offset + 24]
        offset += 24
    elif follows != b"\0\0\0\0":
        raise XdrError(f"a boolean at byte {offset - 4} is none")
    return decode_post_op_attr(reply, offset, result)


def decode_status(reply: bytes, offset: int) -> tuple[Nfs3Result, int]:
    """Read the status that every result begins with."""
    if offset + 4 > len(reply):
        raise XdrError(f"a status at byte {offset} of {len(reply)} is cut off")
    return Nfs3Result(nfs_stat_to_errno(_UINT.unpack_from(reply, offset)[0])), offset + 4


def encode_fh(fh: bytes) -> bytes:
    """Write a file handle once; arguments below take it in this form."""
    return _UINT.pack(len(fh)) + fh + bytes(-len(fh) & 3)


def sattr3(*, mode: int | None = None, uid: int | None = None, gid: int | None = None, size: int | None = None) -> bytes:
    """Write a ``sattr3``; times are left alone."""
    packer = Packer()
    for value in (mode, uid, gid):
        packer.pack_bool(value is not None)
        if value is not None:
            packer.pack_uint(value)
    packer.pack_bool(size is not None)
    if size is not None:
        packer.pack_uhyper(size)
    packer.pack_uint(c.NFS3_DONT_CHANGE)
    packer.pack_uint(c.NFS3_DONT_CHANGE)
    return packer.bytes()


# -- READ and WRITE ------------------------------------------------------------------------------------------------------------


class WriteArgs:
    """``struct nfs_writeargs``: ``fh`` as encode_fh() gives it, and either pages or bytes."""

    __slots__ = ("count", "data", "fh", "offset", "pages", "stable")

    def __init__(
        self, fh: bytes, offset: int, count: int, stable: int, pages: list[tuple[Page, int, int]] | None, data: bytes = b""
    ) -> None:
        self.fh = fh
        self.offset = offset
        self.count = count
        self.stable = stable
        self.pages = pages
        self.data = data


class ReadArgs:
    """``struct nfs_readargs``."""

    __slots__ = ("count", "fh", "offset")

    def __init__(self, fh: bytes, offset: int, count: int) -> None:
        self.fh = fh
        self.offset = offset
        self.count = count


def _encode_write(args: WriteArgs) -> tuple[bytes, list[tuple[Page, int, int]] | None, bytes]:
    count = args.count
    head = args.fh + _WRITE_ARGS.pack(args.offset, count, args.stable, count)
    tail = bytes(-count & 3)
    if args.pages is None:
        return head + args.data + tail, None, b""
    return head, args.pages, tail


def _decode_write(reply: bytes, offset: int, args: WriteArgs) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    offset = decode_wcc_data(reply, offset, result)
    if not result.status:
        if offset + 16 > len(reply):
            raise XdrError(f"WRITE3resok at byte {offset} of {len(reply)} is cut off")
        result.count, result.committed, result.verf = _WRITE_RES.unpack_from(reply, offset)
        if result.count > args.count or result.committed > c.NFS_FILE_SYNC:
            raise XdrError(f"the server wrote {result.count} of {args.count} bytes, committed {result.committed}")
    return result


def _encode_read(args: ReadArgs) -> tuple[bytes, None, bytes]:
    return args.fh + _READ_ARGS.pack(args.offset, args.count), None, b""


def _decode_read(reply: bytes, offset: int, args: ReadArgs) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    offset = decode_post_op_attr(reply, offset, result)
    if not result.status:
        if offset + 12 > len(reply):
            raise XdrError(f"READ3resok at byte {offset} of {len(reply)} is cut off")
        count, eof, length = _READ_RES.unpack_from(reply, offset)
        offset += 12
        if eof > 1 or length != count or count > args.count or offset + count > len(reply):
            raise XdrError(f"a READ of {args.count} bytes returned {count}, {length} of data, eof {eof}")
        result.count = count
        result.eof = bool(eof)
        result.data = reply[offset : offset + count]
    return result


# -- other calls on a file -----------------------------------------------------------------------------------------------------


def encode_raw(args: bytes) -> tuple[bytes, None, bytes]:
    """Send arguments that the caller has written."""
    return args, None, b""


def decode_null(_reply: bytes, _offset: int, _args: bytes) -> Nfs3Result:
    """NULL, UMNT: nothing is said."""
    return Nfs3Result(0)


def _decode_getattr(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    if not result.status:
        result.fattr = Unpacker(reply, offset).unpack_fopaque(FATTR_SIZE)
    return result


def decode_wcc(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    """SETATTR, REMOVE: a status and wcc_data."""
    result, offset = decode_status(reply, offset)
    decode_wcc_data(reply, offset, result)
    return result


def _decode_commit(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    offset = decode_wcc_data(reply, offset, result)
    if not result.status:
        result.verf = Unpacker(reply, offset).unpack_fopaque(c.NFS3_WRITEVERFSIZE)
    return result


PROC_NULL: Final = RpcProc("NULL", c.NFS3PROC_NULL, encode_raw, decode_null)
PROC_GETATTR: Final = RpcProc("GETATTR", c.NFS3PROC_GETATTR, encode_raw, _decode_getattr, p_timer=1)
PROC_SETATTR: Final = RpcProc("SETATTR", c.NFS3PROC_SETATTR, encode_raw, decode_wcc)
PROC_READ: Final = RpcProc("READ", c.NFS3PROC_READ, _encode_read, _decode_read, 1024, (1 << 20) + NFS3_READ_OVERHEAD, p_timer=3)
PROC_WRITE: Final = RpcProc("WRITE", c.NFS3PROC_WRITE, _encode_write, _decode_write, p_timer=4)
PROC_COMMIT: Final = RpcProc("COMMIT", c.NFS3PROC_COMMIT, encode_raw, _decode_commit, p_timer=5)
