"""The NFSv3 procedures that work on names (RFC 1813, 3.3).

LOOKUP CREATE MKDIR SYMLINK MKNOD REMOVE RMDIR RENAME LINK READDIR READDIRPLUS.

Interface
    * ``DirProcedures``: one method per procedure, ``method(call, args, out)``, above FileProcedures.

Rules of this file
    * Decode everything, then act, then encode, as in nfs3_file.py.
    * A directory that changes is written to the disk before the answer: every change costs ``costs.metadata``.
    * READDIR's cookies stay right while names come and go, so its verifier is always zero.
"""

from __future__ import annotations

from kemu_nfs.server.cred import MAY_EXEC, MAY_READ, MAY_WRITE, permitted
from kemu_nfs.server.inode import Inode
from kemu_nfs.server.nfs3_attr import (
    PreOp,
    Sattr3,
    apply_sattr3,
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
    NFS3ERR_BADTYPE,
    NFS3ERR_EXIST,
    NFS3ERR_NAMETOOLONG,
    NFS3ERR_NOTDIR,
    NFS3ERR_ROFS,
    NFS3ERR_TOOSMALL,
)
from kemu_nfs.sunrpc.xdr import Packer, Unpacker, XdrError


class DirProcedures(FileProcedures):
    """Procedures on names."""

    def _dir_for_change(self, handle: bytes, call: Call) -> tuple[int, Inode | None]:
        """Find a directory whose names the caller wants to change: its status, and the object whatever the status."""
        status, folder = self._inode(handle)
        if folder is None:
            return status, None
        if self.read_only:
            return NFS3ERR_ROFS, folder
        if folder.ftype != NF3DIR:
            return NFS3ERR_NOTDIR, folder
        return (NFS3_OK if permitted(folder, call.cred, MAY_WRITE | MAY_EXEC) else NFS3ERR_ACCES), folder

    def _sticky(self, folder: Inode, name: bytes, call: Call) -> int:
        """In a sticky directory only owners may take names away: a status."""
        if folder.mode & 0o1000 and call.cred.uid not in (0, folder.uid):
            entry = folder.entries.get(name)
            if entry is not None and entry.inode.uid != call.cred.uid:
                return NFS3ERR_ACCES
        return NFS3_OK

    def lookup(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Find a name (procedure 3)."""
        handle, name = unpack_diropargs(args)
        status, folder = self._inode(handle)
        inode: Inode | None = None
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

    def _made(self, call: Call, out: Packer, status: int, inode: Inode | None, before: PreOp | None, folder: Inode | None) -> None:
        """Write the answer that CREATE, MKDIR, SYMLINK and MKNOD share."""
        out.pack_uint(status)
        if inode is not None and not status:
            call.cost_ns = self.costs.metadata
            pack_post_op_fh(out, inode)
            pack_post_op_attr(out, inode, self.tree.fsid)
        pack_wcc(out, before, folder, self.tree.fsid)

    def _first_attributes(self, inode: Inode, sattr: Sattr3, call: Call) -> None:
        """Give a new object what its creator wants of it, as far as he may; the rest is left, as a local create would."""
        if may_apply(inode, sattr, call.cred):
            sattr = Sattr3(mode=sattr.mode)
        apply_sattr3(self.tree, inode, sattr)

    def create(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Make a regular file (procedure 8); EXCLUSIVE may be repeated with the same verifier."""
        handle, name = unpack_diropargs(args)
        how = args.unpack_uint()
        if how > NFS3_CREATE_EXCLUSIVE:
            raise XdrError(f"createmode3 is {how}, allowed are 0, 1, 2")
        verf = args.unpack_fopaque(8) if how == NFS3_CREATE_EXCLUSIVE else None
        sattr = Sattr3() if how == NFS3_CREATE_EXCLUSIVE else unpack_sattr3(args)
        status, folder = self._dir_for_change(handle, call)
        before = pre_op(folder)
        inode: Inode | None = None
        if folder is not None and not status:
            status, inode = self.tree.create(folder, name, 0o644 if sattr.mode is None else sattr.mode, call.cred)
            if inode is not None:
                inode.create_verf = verf
                self._first_attributes(inode, sattr, call)
            elif status == NFS3ERR_EXIST and how != NFS3_CREATE_GUARDED:
                status, inode = self._create_again(folder, name, verf, sattr, call)
        self._made(call, out, status, inode, before, folder)

    def _create_again(self, folder: Inode, name: bytes, verf: bytes | None, sattr: Sattr3, call: Call) -> tuple[int, Inode | None]:
        """Take a name that is there: UNCHECKED any regular file, setting its size; EXCLUSIVE its own earlier work."""
        entry = folder.entries.get(name)
        if entry is None or entry.inode.ftype != NF3REG:
            return NFS3ERR_EXIST, None
        inode = entry.inode
        if verf is not None:
            return (NFS3_OK, inode) if inode.create_verf == verf else (NFS3ERR_EXIST, None)
        if sattr.size is not None:
            cut = Sattr3(size=sattr.size)
            status = may_apply(inode, cut, call.cred)
            if status:
                return status, None
            apply_sattr3(self.tree, inode, cut)
        return NFS3_OK, inode

    def mkdir(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Make a directory (procedure 9)."""
        handle, name = unpack_diropargs(args)
        sattr = unpack_sattr3(args)
        sattr.size = None
        status, folder = self._dir_for_change(handle, call)
        before = pre_op(folder)
        inode: Inode | None = None
        if folder is not None and not status:
            status, inode = self.tree.mkdir(folder, name, 0o755 if sattr.mode is None else sattr.mode, call.cred)
            if inode is not None:
                self._first_attributes(inode, sattr, call)
        self._made(call, out, status, inode, before, folder)

    def symlink(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Make a symbolic link (procedure 10)."""
        handle, name = unpack_diropargs(args)
        sattr = unpack_sattr3(args)
        target = args.unpack_opaque()
        sattr.size = None
        status, folder = self._dir_for_change(handle, call)
        before = pre_op(folder)
        inode: Inode | None = None
        if folder is not None and not status:
            if len(target) > NFS3_MAXPATHLEN:
                status = NFS3ERR_NAMETOOLONG
            else:
                status, inode = self.tree.symlink(folder, name, target, 0o777, call.cred)
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
        status, folder = self._dir_for_change(handle, call)
        before = pre_op(folder)
        inode: Inode | None = None
        if folder is not None and not status:
            if ftype not in (NF3CHR, NF3BLK, NF3SOCK, NF3FIFO):
                status = NFS3ERR_BADTYPE
            else:
                mode = 0o644 if sattr.mode is None else sattr.mode
                status, inode = self.tree.mknod(folder, name, ftype, mode, rdev, call.cred)
                if inode is not None:
                    self._first_attributes(inode, sattr, call)
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
        status, inode = self._inode(handle)
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
        args.unpack_fopaque(8)
        count = args.unpack_uint()
        self._list(call, out, handle, cookie, min(count, self.rsize), plus=False)

    def readdirplus(self, call: Call, args: Unpacker, out: Packer) -> None:
        """List names with attributes and handles (procedure 17); ``dircount`` is a hint that nobody needs."""
        handle = unpack_fh(args)
        cookie = args.unpack_uhyper()
        args.unpack_fopaque(8)
        args.unpack_uint()
        maxcount = args.unpack_uint()
        self._list(call, out, handle, cookie, min(maxcount, self.rsize), plus=True)

    def _list(self, call: Call, out: Packer, handle: bytes, cookie: int, room: int, plus: bool) -> None:
        """Write the entries after ``cookie`` that fit into ``room`` bytes."""
        status, folder = self._inode(handle)
        if folder is not None:
            if folder.ftype != NF3DIR:
                status = NFS3ERR_NOTDIR
            elif not permitted(folder, call.cred, MAY_READ):
                status = NFS3ERR_ACCES
        if folder is None or status:
            out.pack_uint(status)
            pack_post_op_attr(out, folder, self.tree.fsid)
            return
        entries, eof = self._fitting(folder, cookie, room, 24 + (4 + 84 + 4 + 4 + len(folder.handle) if plus else 0))
        if not entries and not eof:
            out.pack_uint(NFS3ERR_TOOSMALL)
            pack_post_op_attr(out, folder, self.tree.fsid)
            return
        out.pack_uint(NFS3_OK)
        pack_post_op_attr(out, folder, self.tree.fsid)
        out.pack_fopaque(bytes(8))
        for number, name, inode in entries:
            out.pack_bool(True)
            out.pack_uhyper(inode.fileid)
            out.pack_opaque(name)
            out.pack_uhyper(number)
            if plus:
                pack_post_op_attr(out, inode, self.tree.fsid)
                pack_post_op_fh(out, inode)
        out.pack_bool(False)
        out.pack_bool(eof)

    def _fitting(self, folder: Inode, cookie: int, room: int, fixed: int) -> tuple[list[tuple[int, bytes, Inode]], bool]:
        """Choose the entries of one answer; ``fixed`` is what an entry takes beside its name. The flag is: nothing is left."""
        parent = self.tree.lookup(folder, b"..")[1] or folder
        room -= 4 + 4 + 84 + 8 + 4 + 4  # status, the directory's attributes, verifier, end of list, eof
        entries: list[tuple[int, bytes, Inode]] = []
        for number, name, inode in (
            (1, b".", folder),
            (2, b"..", parent),
            *((entry.cookie, entry.name, entry.inode) for entry in folder.entries.values()),
        ):
            if number <= cookie:
                continue
            room -= fixed + (len(name) + 3 & ~3)
            if room < 0:
                return entries, False
            entries.append((number, name, inode))
        return entries, True
