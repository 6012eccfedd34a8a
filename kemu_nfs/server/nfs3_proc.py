"""The NFSv3 program of the server: the table of its 22 procedures, and the fast way through three of them.

Interface
    * ``Nfs3Program(tree)``: what RpcServer takes.

Rules of this file
    * The fast paths serve what a swapping client sends by the thousand: GETATTR, READ and WRITE with a handle of ours, a WRITE of
      whole blocks. Whatever is not exactly of that shape, or not allowed, takes the plain way through the table; both ways give the
      same bytes and leave the same tree (a test compares them).
    * The 4096 bytes of a WRITE are cut from the record once and stored as that object; a READ joins the stored object into its
      reply, once.
"""

from __future__ import annotations

import struct

from kemu_nfs.server.cred import MAY_WRITE, Cred, permitted
from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.inode import BLOCK_SHIFT, BLOCK_SIZE
from kemu_nfs.server.nfs3_attr import NSEC_PER_SEC
from kemu_nfs.server.nfs3_dir import DirProcedures
from kemu_nfs.server.nfs3_file import ServerCosts
from kemu_nfs.server.program import FastPath, Procedure
from kemu_nfs.server.tree import HANDLE_SIZE, MAX_FILE_SIZE, Tree
from kemu_nfs.sunrpc.nfs3_const import (
    NF3REG,
    NFS3PROC_GETATTR,
    NFS3PROC_READ,
    NFS3PROC_WRITE,
    NFS_FILE_SYNC,
    NFS_UNSTABLE,
)
from kemu_nfs.sunrpc.rpc_const import NFS_PROGRAM, NFS_VERSION, RPC_LAST_STREAM_FRAGMENT, RPC_REPLY

# the mark of the record, then the reply's head up to the status: xid REPLY, ACCEPTED, verifier (NULL, 0), SUCCESS, NFS3_OK
_FATTR3 = "5IQQ2IQQ6I"
_GETATTR_REPLY = struct.Struct("!I7I" + _FATTR3)
_READ_REPLY = struct.Struct("!I7II" + _FATTR3 + "3I")
_WRITE_REPLY = struct.Struct("!I7IIQ4II" + _FATTR3 + "2I8s")

_READ_ARGS = struct.Struct("!I32sQI")
_WRITE_ARGS = struct.Struct("!I32sQIII")
_GETATTR_ARGS = struct.Struct("!I32s")

_GETATTR_MARK = RPC_LAST_STREAM_FRAGMENT | (_GETATTR_REPLY.size - 4)
_READ_MARK = RPC_LAST_STREAM_FRAGMENT | (_READ_REPLY.size - 4)
_WRITE_MARK = RPC_LAST_STREAM_FRAGMENT | (_WRITE_REPLY.size - 4)


class Nfs3Program(DirProcedures):
    """NFS version 3.

    :param needs_cred: answer AUTH_TOOWEAK to callers without AUTH_SYS, except for NULL.
    :param use_fast: take the fast paths; they know the tree in memory only.
    """

    files: FileTree  # what the fast paths work on, if there are any

    def __init__(
        self,
        tree: Tree,
        *,
        costs: ServerCosts | None = None,
        rsize: int = 32768,
        read_only: bool = False,
        needs_cred: bool = True,
        use_fast: bool = True,
    ) -> None:
        super().__init__(tree, costs=costs, rsize=rsize, read_only=read_only)
        self.number = NFS_PROGRAM
        self.versions = (NFS_VERSION, NFS_VERSION)
        self.needs_cred = needs_cred
        self.fast_cost_ns = 0
        # in the order of their numbers; cached are those that 2.6.23 fs/nfsd/nfs3proc.c marks RC_REPLBUFF or RC_REPLSTAT
        table = (
            Procedure("NULL", self.null),
            Procedure("GETATTR", self.getattr),
            Procedure("SETATTR", self.setattr, cached=True, failure_words=2),
            Procedure("LOOKUP", self.lookup, failure_words=1),
            Procedure("ACCESS", self.access, failure_words=1),
            Procedure("READLINK", self.readlink, failure_words=1),
            Procedure("READ", self.read, failure_words=1),
            Procedure("WRITE", self.write, cached=True, failure_words=2),
            Procedure("CREATE", self.create, cached=True, failure_words=2),
            Procedure("MKDIR", self.mkdir, cached=True, failure_words=2),
            Procedure("SYMLINK", self.symlink, cached=True, failure_words=2),
            Procedure("MKNOD", self.mknod, cached=True, failure_words=2),
            Procedure("REMOVE", self.remove, cached=True, failure_words=2),
            Procedure("RMDIR", self.rmdir, cached=True, failure_words=2),
            Procedure("RENAME", self.rename, cached=True, failure_words=4),
            Procedure("LINK", self.link, cached=True, failure_words=3),
            Procedure("READDIR", self.readdir, failure_words=1),
            Procedure("READDIRPLUS", self.readdirplus, failure_words=1),
            Procedure("FSSTAT", self.fsstat, failure_words=1),
            Procedure("FSINFO", self.fsinfo, failure_words=1),
            Procedure("PATHCONF", self.pathconf, failure_words=1),
            Procedure("COMMIT", self.commit, failure_words=2),
        )
        self.procedures: dict[int, Procedure] = dict(enumerate(table))
        self.fast: dict[int, FastPath] = {}
        if use_fast and isinstance(tree, FileTree):
            self.files = tree
            self.fast = {NFS3PROC_GETATTR: self.fast_getattr, NFS3PROC_READ: self.fast_read, NFS3PROC_WRITE: self.fast_write}

    def fast_getattr(self, xid: int, record: bytes, position: int, cred: Cred) -> bytes | None:
        """GETATTR of an object of ours."""
        if len(record) != position + 36:
            return None
        length, handle = _GETATTR_ARGS.unpack_from(record, position)
        inode = self.files.by_handle.get(handle)
        if inode is None or length != HANDLE_SIZE:
            return None
        self.fast_cost_ns = 0
        rdev = inode.rdev
        return _GETATTR_REPLY.pack(
            _GETATTR_MARK, xid, RPC_REPLY, 0, 0, 0, 0, 0,
            inode.ftype, inode.mode, inode.nlink, inode.uid, inode.gid, inode.size, inode.used, rdev[0], rdev[1],
            self.files.fsid, inode.fileid,
            *divmod(inode.atime_ns, NSEC_PER_SEC), *divmod(inode.mtime_ns, NSEC_PER_SEC), *divmod(inode.ctime_ns, NSEC_PER_SEC),
        )  # fmt: skip

    def fast_read(self, xid: int, record: bytes, position: int, cred: Cred) -> bytes | None:
        """READ of a regular file that the caller may read."""
        if len(record) != position + 48:
            return None
        length, handle, offset, count = _READ_ARGS.unpack_from(record, position)
        inode = self.files.by_handle.get(handle)
        if inode is None or length != HANDLE_SIZE or inode.ftype != NF3REG:
            return None
        if cred.uid and cred.uid != inode.uid and not self.may_read(inode, cred):
            return None
        data = inode.read_data(offset, min(self.rsize, count))
        size = len(data)
        if size & 3:
            return None
        self.fast_cost_ns = self.costs.read
        head = _READ_REPLY.pack(
            _READ_MARK + size, xid, RPC_REPLY, 0, 0, 0, 0, 0,
            1, NF3REG, inode.mode, inode.nlink, inode.uid, inode.gid, inode.size, inode.used, 0, 0, self.files.fsid, inode.fileid,
            *divmod(inode.atime_ns, NSEC_PER_SEC), *divmod(inode.mtime_ns, NSEC_PER_SEC), *divmod(inode.ctime_ns, NSEC_PER_SEC),
            size, offset + size >= inode.size, size,
        )  # fmt: skip
        return b"".join((head, data))

    def fast_write(self, xid: int, record: bytes, position: int, cred: Cred) -> bytes | None:
        """WRITE of whole blocks to a regular file that the caller may write."""
        if len(record) < position + 56:
            return None
        length, handle, offset, count, stable_how, size = _WRITE_ARGS.unpack_from(record, position)
        inode = self.files.by_handle.get(handle)
        if (
            inode is None
            or length != HANDLE_SIZE
            or inode.ftype != NF3REG
            or (offset | count) & (BLOCK_SIZE - 1)
            or count != size
            or not 0 < count <= self.rsize
            or len(record) != position + 56 + size
            or stable_how > NFS_FILE_SYNC
            or offset + count > MAX_FILE_SIZE
            or self.read_only
            or self.files.bounded
            or (cred.uid and cred.uid != inode.uid and not permitted(inode, cred, MAY_WRITE))
        ):
            return None
        old_size, old_mtime, old_ctime = inode.size, inode.mtime_ns, inode.ctime_ns
        if size == BLOCK_SIZE and stable_how and not inode.undo:
            inode.blocks[offset >> BLOCK_SHIFT] = record[position + 56 :]
            if offset + BLOCK_SIZE > old_size:
                inode.size = offset + BLOCK_SIZE
            inode.stable_size = inode.size
        else:
            inode.write_data(offset, record[position + 56 :], stable_how != NFS_UNSTABLE)
        inode.mtime_ns = inode.ctime_ns = now = self.files.now()
        seconds, rest = divmod(now, NSEC_PER_SEC)
        self.fast_cost_ns = self.costs.write_sync if stable_how else 0
        return _WRITE_REPLY.pack(
            _WRITE_MARK, xid, RPC_REPLY, 0, 0, 0, 0, 0,
            1, old_size, *divmod(old_mtime, NSEC_PER_SEC), *divmod(old_ctime, NSEC_PER_SEC),
            1, NF3REG, inode.mode, inode.nlink, inode.uid, inode.gid, inode.size, inode.used, 0, 0, self.files.fsid, inode.fileid,
            *divmod(inode.atime_ns, NSEC_PER_SEC), seconds, rest, seconds, rest,
            size, NFS_FILE_SYNC if stable_how else NFS_UNSTABLE, self.write_verf,
        )  # fmt: skip
