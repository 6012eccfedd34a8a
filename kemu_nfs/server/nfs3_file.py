"""The NFSv3 procedures that work on one object (RFC 1813, 3.3).

GETATTR SETATTR ACCESS READLINK READ WRITE COMMIT FSSTAT FSINFO PATHCONF.

Interface
    * ``FileProcedures``: one method per procedure, ``method(call, args, out)``; nfs3_proc.py puts them into its table.

Rules of this file
    * Each procedure decodes everything, then acts, then encodes. What is malformed therefore changes nothing.
    * ``call.cost_ns`` is set by whoever needs the disk: that is where a server's time goes (costs: ServerCosts).
    * The owner may always read and write, as with a file that was opened before its mode changed: NFS has no open.
    * Reading does not change atime (as mounted noatime): a disk would have to write for each read.
    * Left out: a write leaves the set-user-id bit alone, where a kernel takes it away.
"""

from __future__ import annotations

import struct

import attrs

from kemu_nfs.server.cred import MAY_EXEC, MAY_READ, MAY_WRITE, Cred, permitted
from kemu_nfs.server.inode import BLOCK_SIZE
from kemu_nfs.server.nfs3_attr import (
    NSEC_PER_SEC,
    may_apply,
    pack_fattr3,
    pack_post_op_attr,
    pack_wcc,
    pre_op,
    unpack_fh,
    unpack_guard,
    unpack_sattr3,
)
from kemu_nfs.server.program import Call
from kemu_nfs.server.tree import LINK_MAX, MAX_FILE_SIZE, NAME_MAX, Node, Tree
from kemu_nfs.sunrpc.nfs3_const import (
    NF3DIR,
    NF3LNK,
    NF3REG,
    NFS3_ACCESS_DELETE,
    NFS3_ACCESS_EXECUTE,
    NFS3_ACCESS_EXTEND,
    NFS3_ACCESS_LOOKUP,
    NFS3_ACCESS_MODIFY,
    NFS3_ACCESS_READ,
    NFS3_FSF_CANSETTIME,
    NFS3_FSF_HOMOGENEOUS,
    NFS3_FSF_LINK,
    NFS3_FSF_SYMLINK,
    NFS3_OK,
    NFS3ERR_ACCES,
    NFS3ERR_FBIG,
    NFS3ERR_INVAL,
    NFS3ERR_ISDIR,
    NFS3ERR_NOT_SYNC,
    NFS3ERR_ROFS,
    NFS_FILE_SYNC,
    NFS_UNSTABLE,
)
from kemu_nfs.sunrpc.xdr import Packer, Unpacker, XdrError


@attrs.frozen
class ServerCosts:
    """What work costs the server's disk, in ns. Illustrative: a disk with a write cache that is really flushed.

    :param write_sync: a WRITE that is stable when it is answered; the number that the main job's arithmetic uses.
    :param commit_block: for each block that a COMMIT still has to write, above ``write_sync`` for the first.
    :param read: a READ that the server's cache does not answer at once.
    :param metadata: a change of names or attributes.
    """

    write_sync: int = 1_000_000
    commit_block: int = 50_000
    read: int = 100_000
    metadata: int = 1_000_000


class FileProcedures:
    """Procedures on single objects.

    :param tree: the file system.
    :param rsize: the longest READ and WRITE, also what FSINFO tells.
    :param read_only: refuse what changes something (NFS3ERR_ROFS).
    """

    def __init__(self, tree: Tree, *, costs: ServerCosts | None = None, rsize: int = 32768, read_only: bool = False) -> None:
        self.tree = tree
        self.costs = costs or ServerCosts()
        self.rsize = rsize
        self.read_only = read_only
        self.instance = 0
        self.write_verf = bytes(8)
        self.reboot()

    def reboot(self) -> None:
        """Start a new life: the write verifier changes, so that clients send again what was not committed."""
        self.instance += 1
        self.write_verf = struct.pack("!II", self.tree.now() // 1_000_000_000 & 0xFFFFFFFF, self.instance)

    def _regular(self, handle: bytes) -> tuple[int, Node | None]:
        """Find a regular file; the object is returned with its status also when it is something else."""
        status, inode = self.tree.find(handle)
        if inode is not None and inode.ftype != NF3REG:
            status = NFS3ERR_ISDIR if inode.ftype == NF3DIR else NFS3ERR_INVAL
        return status, inode

    def null(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Do nothing (procedure 0)."""

    def getattr(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Tell the attributes of an object (procedure 1)."""
        status, inode = self.tree.find(unpack_fh(args))
        out.pack_uint(status)
        if inode is not None:
            pack_fattr3(out, inode, self.tree.fsid)

    def setattr(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Change attributes, if the guard still holds (procedure 2)."""
        handle = unpack_fh(args)
        sattr = unpack_sattr3(args)
        guard = unpack_guard(args)
        status, inode = self.tree.find(handle)
        before = pre_op(inode)
        if inode is not None:
            if self.read_only:
                status = NFS3ERR_ROFS
            elif guard is not None and guard != divmod(inode.ctime_ns, NSEC_PER_SEC):
                status = NFS3ERR_NOT_SYNC
            else:
                status = may_apply(inode, sattr, call.cred) or self.tree.set_attributes(inode, sattr)
            if not status:
                call.cost_ns = self.costs.metadata
        out.pack_uint(status)
        pack_wcc(out, before, inode, self.tree.fsid)

    def access(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Tell which of the asked rights the caller has (procedure 4)."""
        handle = unpack_fh(args)
        asked = args.unpack_uint()
        status, inode = self.tree.find(handle)
        out.pack_uint(status)
        pack_post_op_attr(out, inode, self.tree.fsid)
        if inode is None:
            return
        granted = 0
        if permitted(inode, call.cred, MAY_READ):
            granted |= NFS3_ACCESS_READ
        if permitted(inode, call.cred, MAY_WRITE) and not self.read_only:
            granted |= NFS3_ACCESS_MODIFY | NFS3_ACCESS_EXTEND
            granted |= NFS3_ACCESS_DELETE if inode.ftype == NF3DIR else 0
        if permitted(inode, call.cred, MAY_EXEC):
            granted |= NFS3_ACCESS_LOOKUP if inode.ftype == NF3DIR else NFS3_ACCESS_EXECUTE
        out.pack_uint(asked & granted)

    def readlink(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Tell where a symbolic link leads (procedure 5)."""
        status, inode = self.tree.find(unpack_fh(args))
        target = b""
        if inode is not None:
            status, target = self.tree.readlink(inode) if inode.ftype == NF3LNK else (NFS3ERR_INVAL, b"")
        out.pack_uint(status)
        pack_post_op_attr(out, inode, self.tree.fsid)
        if not status:
            out.pack_opaque(target)

    def read(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Read from a file; short at the end and beyond ``rsize`` (procedure 6)."""
        handle = unpack_fh(args)
        offset = args.unpack_uhyper()
        count = args.unpack_uint()
        status, inode = self._regular(handle)
        data = b""
        if inode is not None and not status:
            if self.may_read(inode, call.cred):
                status, data = self.tree.read(inode, offset, min(count, self.rsize))
            else:
                status = NFS3ERR_ACCES
        out.pack_uint(status)
        pack_post_op_attr(out, inode, self.tree.fsid)
        if inode is None or status:
            return
        call.cost_ns = self.costs.read
        out.pack_uint(len(data))
        out.pack_bool(offset + len(data) >= inode.size)
        out.pack_opaque(data)

    def write(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Write to a file: at once to the disk, or until a COMMIT only to memory (procedure 7)."""
        handle = unpack_fh(args)
        offset = args.unpack_uhyper()
        count = args.unpack_uint()
        stable_how = args.unpack_uint()
        if stable_how > NFS_FILE_SYNC:
            raise XdrError(f"stable_how is {stable_how}, allowed are 0, 1, 2")
        data = args.unpack_opaque()
        status, inode = self._regular(handle)
        before = pre_op(inode)
        if inode is not None and not status:
            status = self._may_write(inode, call.cred, offset, count, data)
            if not status:
                status, count = self.tree.write(inode, offset, data[: self.rsize], stable_how != NFS_UNSTABLE)
        if inode is None or status:
            out.pack_uint(status)
            pack_wcc(out, before, inode, self.tree.fsid)
            return
        if stable_how != NFS_UNSTABLE:
            call.cost_ns = self.costs.write_sync
        out.pack_uint(NFS3_OK)
        pack_wcc(out, before, inode, self.tree.fsid)
        out.pack_uint(count)
        out.pack_uint(NFS_UNSTABLE if stable_how == NFS_UNSTABLE else NFS_FILE_SYNC)
        out.pack_fopaque(self.write_verf)

    def may_read(self, inode: Node, cred: Cred) -> bool:
        """Tell whether a caller may read a file: its owner always, and who may execute it."""
        return cred.uid in (0, inode.uid) or permitted(inode, cred, MAY_READ) or permitted(inode, cred, MAY_EXEC)

    def _may_write(self, inode: Node, cred: Cred, offset: int, count: int, data: bytes) -> int:
        """Judge a WRITE: a status."""
        if self.read_only:
            return NFS3ERR_ROFS
        if cred.uid not in (0, inode.uid) and not permitted(inode, cred, MAY_WRITE):
            return NFS3ERR_ACCES
        if count != len(data):
            return NFS3ERR_INVAL
        if offset + count > MAX_FILE_SIZE:
            return NFS3ERR_FBIG
        return NFS3_OK

    def commit(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Make stable what UNSTABLE writes left in memory, in a part of a file (procedure 21)."""
        handle = unpack_fh(args)
        offset = args.unpack_uhyper()
        count = args.unpack_uint()
        status, inode = self._regular(handle)
        before = pre_op(inode)
        if inode is not None and not status:
            if call.cred.uid not in (0, inode.uid) and not permitted(inode, call.cred, MAY_WRITE):
                status = NFS3ERR_ACCES
            else:
                status, blocks = self.tree.commit(inode, offset, count)
                call.cost_ns = self.costs.write_sync + (blocks - 1) * self.costs.commit_block if blocks else 0
        out.pack_uint(status)
        pack_wcc(out, before, inode, self.tree.fsid)
        if not status:
            out.pack_fopaque(self.write_verf)

    def fsstat(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Tell how full the file system is (procedure 18)."""
        status, inode = self.tree.find(unpack_fh(args))
        out.pack_uint(status)
        pack_post_op_attr(out, inode, self.tree.fsid)
        if inode is None:
            return
        full = self.tree.statfs()
        for number in (full.total_bytes, full.free_bytes, full.avail_bytes, full.total_files, full.free_files, full.avail_files):
            out.pack_uhyper(number)
        out.pack_uint(0)  # invarsec: it may change at any time

    def fsinfo(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Tell the sizes that the server takes and prefers (procedure 19)."""
        status, inode = self.tree.find(unpack_fh(args))
        out.pack_uint(status)
        pack_post_op_attr(out, inode, self.tree.fsid)
        if inode is None:
            return
        # rtmax rtpref rtmult wtmax wtpref wtmult dtpref
        for number in (self.rsize, self.rsize, BLOCK_SIZE, self.rsize, self.rsize, BLOCK_SIZE, BLOCK_SIZE):
            out.pack_uint(number)
        out.pack_uhyper(MAX_FILE_SIZE)
        out.pack_uint(0)
        out.pack_uint(1)  # times are exact to a nanosecond
        out.pack_uint(NFS3_FSF_LINK | NFS3_FSF_SYMLINK | NFS3_FSF_HOMOGENEOUS | NFS3_FSF_CANSETTIME)

    def pathconf(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Tell what names and links may be (procedure 20)."""
        status, inode = self.tree.find(unpack_fh(args))
        out.pack_uint(status)
        pack_post_op_attr(out, inode, self.tree.fsid)
        if inode is None:
            return
        out.pack_uint(LINK_MAX)
        out.pack_uint(NAME_MAX)
        for answer in (True, True, False, True):  # no_trunc, chown_restricted, case_insensitive, case_preserving
            out.pack_bool(answer)
