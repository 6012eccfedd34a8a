"""Arguments and results of NFSv3's procedures on names and file systems, and of MOUNT (2.6.23 fs/nfs/nfs3xdr.c, mount_clnt.c).

Interface
    * ``PROC_*``: LOOKUP ACCESS READLINK CREATE MKDIR SYMLINK REMOVE RMDIR RENAME LINK READDIR READDIRPLUS FSSTAT FSINFO PATHCONF,
      and MOUNT's NULL, MNT, UMNT. Arguments are XDR already: ``diropargs(fh, name)`` and its relatives write them.
    * :class:`DirEntry`, :class:`DirPage`, :class:`FsStat`, :class:`FsInfo`, :class:`PathConf`: ``Nfs3Result.value``.

Rules of this file
    * A result that breaks the protocol raises XdrError, which clnt.py makes -EIO. Of a call that failed only the status is read.
    * ``fattr`` is of the object; what became of its directory is a result of its own, in ``value``: attributes of after and before.
      RENAME has two of them. REMOVE and RMDIR speak of the directory only.
    * A list of names is bounded by the reply's length, not by its word. A name that is empty, too long, or has a slash or a zero
      byte is none. A page without names that does not end the list would go on for ever: it is refused too.
    * Left out: MKNOD, exclusive CREATE.
"""

from __future__ import annotations

from typing import Final

import attrs

from kemu.kernel.errno import ENAMETOOLONG
from kemu_nfs.nfs.nfs3xdr import (
    Nfs3Result,
    decode_null,
    decode_post_op_attr,
    decode_status,
    decode_wcc,
    decode_wcc_data,
    encode_raw,
)
from kemu_nfs.sunrpc import nfs3_const as c
from kemu_nfs.sunrpc.rpc_task import RpcProc
from kemu_nfs.sunrpc.xdr import Packer, Unpacker, XdrError

READDIR_LIMIT: Final = (1 << 16) + 256  # bytes of the longest list of names that is taken


@attrs.frozen
class DirEntry:
    """``entry3`` or ``entryplus3``.

    :ivar fattr: 84 bytes, or None where the server gave none; ``fh`` likewise.
    """

    name: str
    fileid: int
    cookie: int
    fattr: bytes | None = None
    fh: bytes | None = None


@attrs.frozen
class DirPage:
    """What one READDIR brought."""

    verf: bytes
    entries: list[DirEntry]
    eof: bool


@attrs.frozen
class FsStat:
    """``FSSTAT3resok``."""

    tbytes: int
    fbytes: int
    abytes: int
    tfiles: int
    ffiles: int
    afiles: int


@attrs.frozen
class FsInfo:
    """``FSINFO3resok``."""

    rtmax: int
    rtpref: int
    rtmult: int
    wtmax: int
    wtpref: int
    wtmult: int
    dtpref: int
    maxfilesize: int


@attrs.frozen
class PathConf:
    """``PATHCONF3resok``, as far as it is asked for."""

    linkmax: int
    name_max: int


# -- arguments -----------------------------------------------------------------------------------------------------------------


def diropargs(fh_wire: bytes, name: str, *rest: bytes) -> bytes:
    """Write a directory's handle, a name, and what follows."""
    packer = Packer()
    packer.pack_raw(fh_wire)
    packer.pack_string(name)
    for part in rest:
        packer.pack_raw(part)
    return packer.bytes()


def string(text: str) -> bytes:
    """Write a string."""
    packer = Packer()
    packer.pack_string(text)
    return packer.bytes()


def uint(value: int) -> bytes:
    """Write a number."""
    return value.to_bytes(4, "big")


def readdirargs(fh_wire: bytes, cookie: int, verf: bytes, *counts: int) -> bytes:
    """Write where a list of names goes on and how much of it is wanted."""
    return fh_wire + cookie.to_bytes(8, "big") + verf + b"".join(uint(count) for count in counts)


# -- results -------------------------------------------------------------------------------------------------------------------


def _decode_lookup(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    if not result.status:
        unpacker = Unpacker(reply, offset)
        result.fh = unpacker.unpack_opaque(c.NFS3_FHSIZE)
        offset = decode_post_op_attr(reply, unpacker.offset, result)
        result.value = folder = Nfs3Result(0)
        decode_post_op_attr(reply, offset, folder)
    return result


def _decode_create(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    """CREATE, MKDIR, SYMLINK."""
    result, offset = decode_status(reply, offset)
    if not result.status:
        unpacker = Unpacker(reply, offset)
        if unpacker.unpack_bool():
            result.fh = unpacker.unpack_opaque(c.NFS3_FHSIZE)
        offset = decode_post_op_attr(reply, unpacker.offset, result)
        result.value = folder = Nfs3Result(0)
        decode_wcc_data(reply, offset, folder)
    return result


def _decode_rename(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    if not result.status:
        result.value = (Nfs3Result(0), Nfs3Result(0))
        offset = decode_wcc_data(reply, offset, result.value[0])
        decode_wcc_data(reply, offset, result.value[1])
    return result


def _decode_link(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    if not result.status:
        offset = decode_post_op_attr(reply, offset, result)
        result.value = folder = Nfs3Result(0)
        decode_wcc_data(reply, offset, folder)
    return result


def _decode_access(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    offset = decode_post_op_attr(reply, offset, result)
    if not result.status:
        result.value = Unpacker(reply, offset).unpack_uint()
    return result


def _decode_readlink(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    if not result.status:
        unpacker = Unpacker(reply, decode_post_op_attr(reply, offset, result))
        path = unpacker.unpack_opaque()
        if not 0 < len(path) <= c.NFS3_MAXPATHLEN:
            result.status = -ENAMETOOLONG
        result.value = path.decode("utf-8", "surrogateescape")
    return result


def _decode_name(unpacker: Unpacker) -> str:
    name = unpacker.unpack_opaque(c.NFS3_MAXNAMLEN)
    if not name or b"/" in name or b"\0" in name:
        raise XdrError(f"{name!r} at byte {unpacker.offset} cannot be a name")
    return name.decode("utf-8", "surrogateescape")


def _decode_entry(unpacker: Unpacker, *, plus: bool) -> DirEntry:
    fileid = unpacker.unpack_uhyper()
    name = _decode_name(unpacker)
    cookie = unpacker.unpack_uhyper()
    if not plus:
        return DirEntry(name, fileid, cookie)
    attributes = Nfs3Result(0)
    unpacker.offset = decode_post_op_attr(unpacker.data, unpacker.offset, attributes)
    fh = unpacker.unpack_opaque(c.NFS3_FHSIZE) if unpacker.unpack_bool() else None
    return DirEntry(name, fileid, cookie, attributes.fattr, fh)


def _decode_names(reply: bytes, offset: int, *, plus: bool) -> Nfs3Result:
    """READDIR and READDIRPLUS."""
    result, offset = decode_status(reply, offset)
    if result.status:
        return result
    unpacker = Unpacker(reply, decode_post_op_attr(reply, offset, result))
    verf = unpacker.unpack_fopaque(c.NFS3_COOKIEVERFSIZE)
    entries = []
    while unpacker.unpack_bool():
        entries.append(_decode_entry(unpacker, plus=plus))
    eof = unpacker.unpack_bool()
    if not entries and not eof:
        raise XdrError("a page of a directory has no names and does not end the list")
    result.value = DirPage(verf, entries, eof)
    return result


def _decode_readdir(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    return _decode_names(reply, offset, plus=False)


def _decode_readdirplus(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    return _decode_names(reply, offset, plus=True)


def _decode_fsstat(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    offset = decode_post_op_attr(reply, offset, result)
    if not result.status:
        unpacker = Unpacker(reply, offset)
        result.value = FsStat(*(unpacker.unpack_uhyper() for _ in range(6)))
    return result


def _decode_fsinfo(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    offset = decode_post_op_attr(reply, offset, result)
    if not result.status:
        unpacker = Unpacker(reply, offset)
        rtmax, rtpref, rtmult, wtmax, wtpref, wtmult, dtpref = (unpacker.unpack_uint() for _ in range(7))
        result.value = FsInfo(rtmax, rtpref, rtmult, wtmax, wtpref, wtmult, dtpref, unpacker.unpack_uhyper())
    return result


def _decode_pathconf(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    offset = decode_post_op_attr(reply, offset, result)
    if not result.status:
        unpacker = Unpacker(reply, offset)
        result.value = PathConf(unpacker.unpack_uint(), unpacker.unpack_uint())
    return result


def _decode_mnt(reply: bytes, offset: int, _args: bytes) -> Nfs3Result:
    result, offset = decode_status(reply, offset)
    if not result.status:
        unpacker = Unpacker(reply, offset)
        result.fh = unpacker.unpack_opaque(c.NFS3_FHSIZE)
        flavors = unpacker.unpack_uint()
        if flavors > 16:
            raise XdrError(f"the server names {flavors} authentication flavors")
        result.value = [unpacker.unpack_uint() for _ in range(flavors)]
    return result


PROC_LOOKUP: Final = RpcProc("LOOKUP", c.NFS3PROC_LOOKUP, encode_raw, _decode_lookup, p_timer=2)
PROC_ACCESS: Final = RpcProc("ACCESS", c.NFS3PROC_ACCESS, encode_raw, _decode_access, p_timer=1)
PROC_READLINK: Final = RpcProc("READLINK", c.NFS3PROC_READLINK, encode_raw, _decode_readlink, p_timer=3)
PROC_CREATE: Final = RpcProc("CREATE", c.NFS3PROC_CREATE, encode_raw, _decode_create)
PROC_MKDIR: Final = RpcProc("MKDIR", c.NFS3PROC_MKDIR, encode_raw, _decode_create)
PROC_SYMLINK: Final = RpcProc("SYMLINK", c.NFS3PROC_SYMLINK, encode_raw, _decode_create)
PROC_REMOVE: Final = RpcProc("REMOVE", c.NFS3PROC_REMOVE, encode_raw, decode_wcc)
PROC_RMDIR: Final = RpcProc("RMDIR", c.NFS3PROC_RMDIR, encode_raw, decode_wcc)
PROC_RENAME: Final = RpcProc("RENAME", c.NFS3PROC_RENAME, encode_raw, _decode_rename)
PROC_LINK: Final = RpcProc("LINK", c.NFS3PROC_LINK, encode_raw, _decode_link)
PROC_READDIR: Final = RpcProc("READDIR", c.NFS3PROC_READDIR, encode_raw, _decode_readdir, 1024, READDIR_LIMIT, p_timer=3)
PROC_READDIRPLUS: Final = RpcProc(
    "READDIRPLUS", c.NFS3PROC_READDIRPLUS, encode_raw, _decode_readdirplus, 1024, READDIR_LIMIT, p_timer=3
)
PROC_FSSTAT: Final = RpcProc("FSSTAT", c.NFS3PROC_FSSTAT, encode_raw, _decode_fsstat)
PROC_FSINFO: Final = RpcProc("FSINFO", c.NFS3PROC_FSINFO, encode_raw, _decode_fsinfo)
PROC_PATHCONF: Final = RpcProc("PATHCONF", c.NFS3PROC_PATHCONF, encode_raw, _decode_pathconf)

PROC_MOUNT_NULL: Final = RpcProc("MOUNT NULL", c.MOUNT3PROC_NULL, encode_raw, decode_null)
PROC_MNT: Final = RpcProc("MNT", c.MOUNT3PROC_MNT, encode_raw, _decode_mnt)
PROC_UMNT: Final = RpcProc("UMNT", c.MOUNT3PROC_UMNT, encode_raw, decode_null)
