"""The composite types of NFSv3 as the server reads and writes them: handles, attributes, wcc data (RFC 1813, 2.6).

Interface
    * ``unpack_fh``, ``unpack_sattr3``, ``unpack_diropargs``: arguments.
    * ``pack_fattr3``, ``pack_post_op_attr``, ``pack_wcc``, ``pack_post_op_fh``: results.
    * ``may_apply()``: what SETATTR and the creating procedures may change.

Rules of this file
    * Decoders consume all of their type before anybody acts on it: what is malformed changes nothing.
    * What a decoder cannot read raises XdrError, which rpc_server.py answers with GARBAGE_ARGS.
"""

from __future__ import annotations

from kemu_nfs.server.cred import MAY_WRITE, Cred, permitted
from kemu_nfs.server.tree import MAX_FILE_SIZE, NOBODY_ID, Node, Sattr3
from kemu_nfs.sunrpc.nfs3_const import (
    NF3DIR,
    NF3REG,
    NFS3_DONT_CHANGE,
    NFS3_FHSIZE,
    NFS3_OK,
    NFS3_SET_TO_CLIENT_TIME,
    NFS3_SET_TO_SERVER_TIME,
    NFS3ERR_ACCES,
    NFS3ERR_FBIG,
    NFS3ERR_INVAL,
    NFS3ERR_ISDIR,
    NFS3ERR_PERM,
)
from kemu_nfs.sunrpc.xdr import Packer, Unpacker, XdrError

NSEC_PER_SEC = 1_000_000_000

PreOp = tuple[int, int, int]  # size, mtime and ctime before the operation


def unpack_fh(args: Unpacker) -> bytes:
    """Read a file handle of up to 64 bytes."""
    return args.unpack_opaque(NFS3_FHSIZE)


def unpack_diropargs(args: Unpacker) -> tuple[bytes, bytes]:
    """Read a directory's handle and a name; how long a name may be is for the tree to say."""
    return unpack_fh(args), args.unpack_opaque()


def _unpack_set_time(args: Unpacker, sattr: Sattr3) -> int | None:
    how = args.unpack_uint()
    if how == NFS3_DONT_CHANGE:
        return None
    if how == NFS3_SET_TO_SERVER_TIME:
        return -1
    if how == NFS3_SET_TO_CLIENT_TIME:
        seconds, rest = args.unpack_uint(), args.unpack_uint()
        sattr.invalid |= rest >= NSEC_PER_SEC
        return seconds * NSEC_PER_SEC + rest
    raise XdrError(f"time_how is {how}, allowed are 0, 1, 2")


def unpack_sattr3(args: Unpacker) -> Sattr3:
    """Read the attributes that a caller wants to set."""
    mode = args.unpack_uint() if args.unpack_bool() else None
    uid = args.unpack_uint() if args.unpack_bool() else None
    gid = args.unpack_uint() if args.unpack_bool() else None
    size = args.unpack_uhyper() if args.unpack_bool() else None
    sattr = Sattr3(mode, uid, gid, size)
    sattr.atime_ns = _unpack_set_time(args, sattr)
    sattr.mtime_ns = _unpack_set_time(args, sattr)
    sattr.invalid |= NOBODY_ID in (uid, gid)
    return sattr


def unpack_guard(args: Unpacker) -> tuple[int, int] | None:
    """Read SETATTR's guard: the ctime that the object must still have, in seconds and ns."""
    return (args.unpack_uint(), args.unpack_uint()) if args.unpack_bool() else None


def _pack_time(out: Packer, ns: int) -> None:
    seconds, rest = divmod(ns, NSEC_PER_SEC)
    out.pack_uint(seconds & 0xFFFFFFFF)
    out.pack_uint(rest)


def pack_fattr3(out: Packer, inode: Node, fsid: int) -> None:
    """Write all attributes of an object, 84 bytes."""
    for word in (inode.ftype, inode.mode, inode.nlink, inode.uid, inode.gid):
        out.pack_uint(word)
    out.pack_uhyper(inode.size)
    out.pack_uhyper(inode.used)
    out.pack_uint(inode.rdev[0])
    out.pack_uint(inode.rdev[1])
    out.pack_uhyper(fsid)
    out.pack_uhyper(inode.fileid)
    _pack_time(out, inode.atime_ns)
    _pack_time(out, inode.mtime_ns)
    _pack_time(out, inode.ctime_ns)


def pack_post_op_attr(out: Packer, inode: Node | None, fsid: int) -> None:
    """Write attributes, or that there are none."""
    if inode is None:
        out.pack_bool(False)
    else:
        out.pack_bool(True)
        pack_fattr3(out, inode, fsid)


def pack_post_op_fh(out: Packer, inode: Node) -> None:
    """Write the handle of an object."""
    out.pack_bool(True)
    out.pack_opaque(inode.handle)


def pre_op(inode: Node | None) -> PreOp | None:
    """Remember what a client compares its cache with (wcc_attr)."""
    return None if inode is None else (inode.size, inode.mtime_ns, inode.ctime_ns)


def pack_wcc(out: Packer, before: PreOp | None, inode: Node | None, fsid: int) -> None:
    """Write weak cache consistency data: a little from before, all from after."""
    if before is None:
        out.pack_bool(False)
    else:
        out.pack_bool(True)
        out.pack_uhyper(before[0])
        _pack_time(out, before[1])
        _pack_time(out, before[2])
    pack_post_op_attr(out, inode, fsid)


def may_apply(inode: Node, sattr: Sattr3, cred: Cred) -> int:
    """Judge a change of attributes: a status. The owner may change all but the owner; a writer may cut and touch."""
    if sattr.invalid:
        return NFS3ERR_INVAL
    owner = cred.uid in (0, inode.uid)
    if not owner:
        if sattr.mode is not None or sattr.uid is not None or sattr.gid is not None:
            return NFS3ERR_PERM
        if any(time is not None and time >= 0 for time in (sattr.atime_ns, sattr.mtime_ns)):
            return NFS3ERR_PERM
        if not permitted(inode, cred, MAY_WRITE):
            return NFS3ERR_ACCES
    elif cred.uid:
        if sattr.uid is not None and sattr.uid != inode.uid:
            return NFS3ERR_PERM
        if sattr.gid is not None and sattr.gid not in (inode.gid, cred.gid) and sattr.gid not in cred.gids:
            return NFS3ERR_PERM
    if sattr.size is not None:
        if inode.ftype == NF3DIR:
            return NFS3ERR_ISDIR
        if inode.ftype != NF3REG:
            return NFS3ERR_INVAL
        if sattr.size > MAX_FILE_SIZE:
            return NFS3ERR_FBIG
    return NFS3_OK
