"""The NFSv3 procedures that work on names (RFC 1813, 3.3).

LOOKUP CREATE MKDIR SYMLINK MKNOD REMOVE RMDIR RENAME LINK READDIR READDIRPLUS.

Interface
    * ``DirProcedures``: one method per procedure, ``method(call, args, out)``, above FileProcedures.

Rules of this file
    * Decode everything, then act, then encode, as in nfs3_file.py.
    * A directory that changes is written to the disk before the answer: every change costs ``costs.metadata``.
    * READDIR's cookies stay right while names come and go, so its verifier is always zero; a call that goes on with another
      one (it is not ours) gets BAD_COOKIE.
    * What a caller may be told of a directory's names is bounded by his ``count``, or ``dircount`` and ``maxcount``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from kemu_nfs.server.cred import MAY_EXEC, MAY_READ, MAY_WRITE, permitted
from kemu_nfs.server.nfs3_attr import (
    PreOp,
    may_apply,
    pack_post_op_attr,
    pack_post_op_fh,
    pack_wcc,
    pre_op,
    unpack_diropargs,
    unpack_fh,
    unpack_sattr3,
)
from kemu_nfs.server.nfs3_file import FileProcedures
from kemu_nfs.server.program import Call
from kemu_nfs.server.tree import HANDLE_SIZE, Entry, Node, Sattr3
from kemu_nfs.sunrpc.nfs3_const import (
    NF3BLK,
    NF3CHR,
    NF3DIR,
    NF3FIFO,
    NF3REG,
    NF3SOCK,
    NFS3_CREATE_EXCLUSIVE,
    NFS3_CREATE_GUARDED,
    NFS3_MAXPATHLEN,
    NFS3_OK,
    NFS3ERR_ACCES,
    NFS3ERR_BAD_COOKIE,
    NFS3ERR_BADTYPE,
    NFS3ERR_EXIST,
    NFS3ERR_INVAL,
    NFS3ERR_NAMETOOLONG,
    NFS3ERR_NOTDIR,
    NFS3ERR_PERM,
    NFS3ERR_ROFS,
    NFS3ERR_TOOSMALL,
)
from kemu_nfs.sunrpc.xdr import Packer, Unpacker, XdrError

NO_VERF = bytes(8)
LIST_FRAME = 4 + 4 + 84 + 8 + 4 + 4  # of READDIR's results: status, the directory's attributes, verifier, end of list, eof
ENTRY = 4 + 8 + 4 + 8  # follows, fileid, length of the name, cookie
ENTRY_PLUS = 4 + 84 + 4 + 4 + HANDLE_SIZE


class DirProcedures(FileProcedures):
    """Procedures on names."""

    def _dir_for_change(self, handle: bytes, call: Call) -> tuple[int, Node | None]:
        """Find a directory whose names the caller wants to change: its status, and the object whatever the status."""
        status, folder = self.tree.find(handle)
        if folder is None:
            return status, None
        if self.read_only:
            return NFS3ERR_ROFS, folder
        if folder.ftype != NF3DIR:
            return NFS3ERR_NOTDIR, folder
        return (NFS3_OK if permitted(folder, call.cred, MAY_WRITE | MAY_EXEC) else NFS3ERR_ACCES), folder

    def _sticky(self, folder: Node, name: bytes, call: Call) -> int:
        """In a sticky directory only owners may take names away: a status."""
        if folder.mode & 0o1000 and call.cred.uid not in (0, folder.uid):
            status, inode = self.tree.lookup(folder, name)
            if not status and inode.uid != call.cred.uid:
                return NFS3ERR_ACCES
        return NFS3_OK

    def lookup(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Find a name (procedure 3)."""
        handle, name = unpack_diropargs(args)
        status, folder = self.tree.find(handle)
        inode: Node | None = None
        if folder is not None:
            if folder.ftype != NF3DIR:
                status = NFS3ERR_NOTDIR
            elif not permitted(folder, call.cred, MAY_EXEC):
                status = NFS3ERR_ACCES
            else:
                status, inode = self.tree.lookup(folder, name)
        out.pack_uint(status)
        if inode is not None:
            out.pack_opaque(inode.handle)
            pack_post_op_attr(out, inode, self.tree.fsid)
        pack_post_op_attr(out, folder, self.tree.fsid)

    def _made(self, call: Call, out: Packer, status: int, inode: Node | None, before: PreOp | None, folder: Node | None) -> None:
        """Write the answer that CREATE, MKDIR, SYMLINK and MKNOD share."""
        out.pack_uint(status)
        if inode is not None and not status:
            call.cost_ns = self.costs.metadata
            pack_post_op_fh(out, inode)
            pack_post_op_attr(out, inode, self.tree.fsid)
        pack_wcc(out, before, folder, self.tree.fsid)

    def _first_attributes(self, inode: Node, sattr: Sattr3, call: Call) -> int:
        """Give a new object what its creator wants of it, as far as he may; the rest is left, as a local create would.

        It has its mode already. What fails now fails the call, though the object is there: RFC 1813 lets SETATTR repair it.
        """
        sattr.mode = None
        if may_apply(inode, sattr, call.cred):
            sattr.uid = sattr.gid = None  # nfsd_create_setattr(): who may not give it away keeps it
        wanted = (sattr.uid, sattr.gid, sattr.size, sattr.atime_ns, sattr.mtime_ns)
        if not any(value is not None for value in wanted) or may_apply(inode, sattr, call.cred):
            return NFS3_OK
        return self.tree.set_attributes(inode, sattr)

    def _dir_for_new(self, handle: bytes, sattr: Sattr3, call: Call) -> tuple[int, Node | None]:
        """Find a directory that shall get an object with attributes."""
        status, folder = self._dir_for_change(handle, call)
        return status or (NFS3ERR_INVAL if sattr.invalid else NFS3_OK), folder

    def create(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Make a regular file (procedure 8); EXCLUSIVE may be repeated with the same verifier."""
        handle, name = unpack_diropargs(args)
        how = args.unpack_uint()
        if how > NFS3_CREATE_EXCLUSIVE:
            raise XdrError(f"createmode3 is {how}, allowed are 0, 1, 2")
        verf = args.unpack_fopaque(8) if how == NFS3_CREATE_EXCLUSIVE else None
        sattr = Sattr3() if how == NFS3_CREATE_EXCLUSIVE else unpack_sattr3(args)
        status, folder = self._dir_for_new(handle, sattr, call)
        before = pre_op(folder)
        inode: Node | None = None
        if folder is not None and not status:
            status, inode = self.tree.create(folder, name, 0o644 if sattr.mode is None else sattr.mode, call.cred, verf)
            if inode is not None:
                status = self._first_attributes(inode, sattr, call)
            elif status == NFS3ERR_EXIST and how != NFS3_CREATE_GUARDED:
                status, inode = self._create_again(folder, name, verf, sattr, call)
        self._made(call, out, status, inode, before, folder)

    def _create_again(self, folder: Node, name: bytes, verf: bytes | None, sattr: Sattr3, call: Call) -> tuple[int, Node | None]:
        """Take a name that is there: UNCHECKED any regular file, setting its size; EXCLUSIVE its own earlier work."""
        status, inode = self.tree.lookup(folder, name)
        if status or inode.ftype != NF3REG:
            return NFS3ERR_EXIST, None
        if verf is not None:
            return (NFS3_OK, inode) if self.tree.created_with(inode, verf) else (NFS3ERR_EXIST, None)
        if sattr.size is not None:
            cut = Sattr3(size=sattr.size)
            status = may_apply(inode, cut, call.cred) or self.tree.set_attributes(inode, cut)
            if status:
                return status, None
        return NFS3_OK, inode

    def mkdir(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Make a directory (procedure 9)."""
        handle, name = unpack_diropargs(args)
        sattr = unpack_sattr3(args)
        sattr.size = None
        status, folder = self._dir_for_new(handle, sattr, call)
        before = pre_op(folder)
        inode: Node | None = None
        if folder is not None and not status:
            status, inode = self.tree.mkdir(folder, name, 0o755 if sattr.mode is None else sattr.mode, call.cred)
            if inode is not None:
                status = self._first_attributes(inode, sattr, call)
        self._made(call, out, status, inode, before, folder)

    def symlink(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Make a symbolic link (procedure 10)."""
        handle, name = unpack_diropargs(args)
        sattr = unpack_sattr3(args)
        target = args.unpack_opaque()
        sattr.size = None
        status, folder = self._dir_for_new(handle, sattr, call)
        before = pre_op(folder)
        inode: Node | None = None
        if folder is not None and not status:
            if len(target) > NFS3_MAXPATHLEN:
                status = NFS3ERR_NAMETOOLONG
            else:
                status, inode = self.tree.symlink(folder, name, target, 0o777, call.cred)
                if inode is not None:
                    status = self._first_attributes(inode, sattr, call)
        self._made(call, out, status, inode, before, folder)

    def mknod(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Make a device, a socket or a fifo (procedure 11)."""
        handle, name = unpack_diropargs(args)
        ftype = args.unpack_uint()
        if not NF3REG <= ftype <= NF3FIFO:
            raise XdrError(f"ftype3 is {ftype}, allowed are 1 to 7")
        sattr = unpack_sattr3(args) if ftype in (NF3CHR, NF3BLK, NF3SOCK, NF3FIFO) else Sattr3()
        rdev = (args.unpack_uint(), args.unpack_uint()) if ftype in (NF3CHR, NF3BLK) else (0, 0)
        sattr.size = None
        status, folder = self._dir_for_new(handle, sattr, call)
        before = pre_op(folder)
        inode: Node | None = None
        if folder is not None and not status:
            if ftype not in (NF3CHR, NF3BLK, NF3SOCK, NF3FIFO):
                status = NFS3ERR_BADTYPE
            elif ftype in (NF3CHR, NF3BLK) and call.cred.uid:
                status = NFS3ERR_PERM  # CAP_MKNOD
            else:
                mode = 0o644 if sattr.mode is None else sattr.mode
                status, inode = self.tree.mknod(folder, name, ftype, mode, rdev, call.cred)
                if inode is not None:
                    status = self._first_attributes(inode, sattr, call)
        self._made(call, out, status, inode, before, folder)

    def _unlink(self, call: Call, args: Unpacker, out: Packer, directory: bool) -> None:
        """REMOVE and RMDIR."""
        handle, name = unpack_diropargs(args)
        status, folder = self._dir_for_change(handle, call)
        before = pre_op(folder)
        if folder is not None and not status:
            status = self._sticky(folder, name, call)
            if not status:
                status = self.tree.rmdir(folder, name) if directory else self.tree.remove(folder, name)
            if not status:
                call.cost_ns = self.costs.metadata
        out.pack_uint(status)
        pack_wcc(out, before, folder, self.tree.fsid)

    def remove(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Take a name away (procedure 12)."""
        self._unlink(call, args, out, directory=False)

    def rmdir(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Take an empty directory away (procedure 13)."""
        self._unlink(call, args, out, directory=True)

    def rename(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Move a name (procedure 14)."""
        from_handle, old = unpack_diropargs(args)
        to_handle, new = unpack_diropargs(args)
        status, source = self._dir_for_change(from_handle, call)
        to_status, goal = self._dir_for_change(to_handle, call)
        from_before, to_before = pre_op(source), pre_op(goal)
        status = status or to_status
        if source is not None and goal is not None and not status:
            status = self._sticky(source, old, call) or self._sticky(goal, new, call) or self.tree.rename(source, old, goal, new)
            if not status:
                call.cost_ns = self.costs.metadata
        out.pack_uint(status)
        pack_wcc(out, from_before, source, self.tree.fsid)
        pack_wcc(out, to_before, goal, self.tree.fsid)

    def link(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Give an object a further name (procedure 15)."""
        handle = unpack_fh(args)
        dir_handle, name = unpack_diropargs(args)
        status, inode = self.tree.find(handle)
        dir_status, folder = self._dir_for_change(dir_handle, call)
        before = pre_op(folder)
        status = status or dir_status
        if inode is not None and folder is not None and not status:
            status = self.tree.link(inode, folder, name)
            if not status:
                call.cost_ns = self.costs.metadata
        out.pack_uint(status)
        pack_post_op_attr(out, inode, self.tree.fsid)
        pack_wcc(out, before, folder, self.tree.fsid)

    def readdir(self, call: Call, args: Unpacker, out: Packer) -> None:
        """List names (procedure 16)."""
        handle = unpack_fh(args)
        cookie = args.unpack_uhyper()
        verf = args.unpack_fopaque(8)
        count = args.unpack_uint()
        self._list(call, out, handle, cookie, verf, count, None)

    def readdirplus(self, call: Call, args: Unpacker, out: Packer) -> None:
        """List names with attributes and handles (procedure 17)."""
        handle = unpack_fh(args)
        cookie = args.unpack_uhyper()
        verf = args.unpack_fopaque(8)
        dircount = args.unpack_uint()
        maxcount = args.unpack_uint()
        self._list(call, out, handle, cookie, verf, maxcount, dircount)

    def _list(self, call: Call, out: Packer, handle: bytes, cookie: int, verf: bytes, count: int, dircount: int | None) -> None:
        """Write the entries after ``cookie`` that fit into ``count`` bytes; with attributes if ``dircount`` is given."""
        status, folder = self.tree.find(handle)
        if folder is not None:
            if folder.ftype != NF3DIR:
                status = NFS3ERR_NOTDIR
            elif not permitted(folder, call.cred, MAY_READ):
                status = NFS3ERR_ACCES
            elif cookie and verf != NO_VERF:
                status = NFS3ERR_BAD_COOKIE
        listed, eof = Packer(), True
        if folder is not None and not status:
            status, names = self.tree.entries(folder, cookie)
            eof = self._fill(listed, folder, chain(self._dots(folder, cookie), names), min(count, self.rsize), dircount)
            if not status and not eof and not listed.parts:
                status = NFS3ERR_TOOSMALL
        out.pack_uint(status)
        pack_post_op_attr(out, folder, self.tree.fsid)
        if not status:
            out.pack_fopaque(NO_VERF)
            out.pack_raw(listed.bytes())
            out.pack_bool(False)
            out.pack_bool(eof)

    def _fill(self, out: Packer, folder: Node, names: Iterable[Entry], room: int, dircount: int | None) -> bool:
        """Write the entries of one answer; tell whether none is left.

        ``dircount`` counts names, numbers and cookies only; at least one entry comes, however small it is (it is a hint).
        """
        room -= LIST_FRAME
        told = 0
        for number, name, fileid in names:
            size = ENTRY + (len(name) + 3 & ~3)
            inode: Node | None = None
            if dircount is not None:
                told += size
                if told > dircount and told > size:
                    return False
                status, inode = self.tree.lookup(folder, name)
                if status:
                    continue  # gone since it was listed
                size += ENTRY_PLUS
            room -= size
            if room < 0:
                return False
            out.pack_bool(True)
            out.pack_uhyper(fileid)
            out.pack_opaque(name)
            out.pack_uhyper(number)
            if inode is not None:
                pack_post_op_attr(out, inode, self.tree.fsid)
                pack_post_op_fh(out, inode)
        return True

    def _dots(self, folder: Node, cookie: int) -> list[Entry]:
        """List the two names that every directory has, as far as they lie after ``cookie``."""
        _, parent = self.tree.lookup(folder, b"..")
        dots = [(1, b".", folder.fileid), (2, b"..", folder.fileid if parent is None else parent.fileid)]
        return dots[min(cookie, 2) :]
