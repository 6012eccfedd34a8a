"""Directories of an NFS mount (2.6.23 fs/nfs/dir.c, symlink.c).

Interface
    * :class:`NfsDir`: ``lookup(path)``, ``create``, ``mkdir``, ``symlink``, ``link``, ``remove``, ``rmdir``, ``rename``,
      ``readlink``, ``readdir``, ``access``; ``iget`` makes inodes of handles.

Rules of this file
    * Paths begin at the export's root. ``..`` leads up the way that was walked, at the root nowhere. Symbolic links are followed,
      at most 40 in a walk (-ELOOP); one with an absolute target leads out of the mount (-EXDEV).
    * There is no dentry cache: every component is a LOOKUP, which brings fresh attributes. That is what close-to-open asks of an
      open, and more than the kernel does for a name in the middle.
    * One inode per handle. One that has become stale keeps its openings; who looks the handle up again gets a new inode.
    * A name is removed or overwritten while its file is open: unlink.py gives it another name first.
    * A list of names that comes back to a cookie it has given before would go on for ever: -ELOOP.
    * Left out: negative entries, cached lists of names, permissions asked in advance (the server judges each call).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.kernel.errno import EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EROFS, ESTALE, EXDEV
from kemu.mm.gfp import PAGE_SIZE
from kemu_nfs.nfs.attr_cache import NFS_INO_INVALID_ACCESS
from kemu_nfs.nfs.nfs3proc import Nfs3Calls
from kemu_nfs.nfs.nfs3xdr import PROC_GETATTR, Nfs3Result, encode_fh, sattr3
from kemu_nfs.nfs.nfs3xdr_names import (
    PROC_ACCESS,
    PROC_CREATE,
    PROC_LINK,
    PROC_LOOKUP,
    PROC_MKDIR,
    PROC_READDIR,
    PROC_READDIRPLUS,
    PROC_READLINK,
    PROC_REMOVE,
    PROC_RENAME,
    PROC_RMDIR,
    PROC_SYMLINK,
    DirEntry,
    DirPage,
    diropargs,
    readdirargs,
    string,
    uint,
)
from kemu_nfs.nfs.unlink import Unlinker
from kemu_nfs.sunrpc.nfs3_const import NF3DIR, NF3LNK, NFS3_CREATE_GUARDED, NFS3_CREATE_UNCHECKED, NFS3_MAXNAMLEN

if TYPE_CHECKING:
    from kemu_nfs.nfs.inode import NfsInode, NfsInodes
    from kemu_nfs.nfs.nfs_client import NfsModule, NfsServer
    from kemu_nfs.sunrpc.rpc_task import RpcProc

MAX_LINKS: Final = 40
_DIR: Final = NF3DIR.to_bytes(4, "big")
_LNK: Final = NF3LNK.to_bytes(4, "big")


class NfsDir:
    """Names of one mount.

    :ivar root: the export's root; None: not mounted.
    :ivar inodes: all inodes by handle; ``stale``: those that were replaced.
    :ivar dtsize: bytes of names that one READDIR asks for. :ivar read_only: nothing is changed through this mount.
    """

    def __init__(self, module: NfsModule, server: NfsServer, ops: NfsInodes) -> None:
        self.server = server
        self.ops = ops
        self.sched = module.sched
        self.calls = Nfs3Calls(module, server)
        self.unlinker = Unlinker(module, self.calls)
        ops.unlinker = self.unlinker
        self.root: NfsInode | None = None
        self.inodes: dict[bytes, NfsInode] = {}
        self.stale: list[NfsInode] = []
        self.dtsize = PAGE_SIZE
        self.name_max = NFS3_MAXNAMLEN
        self.read_only = False

    # -- inodes ----------------------------------------------------------------------------------------------------------------

    def iget(self, fh: bytes, attr: bytes | None) -> NfsInode | int:
        """Find or make the inode of a handle, with attributes: -ENOMEM, or what GETATTR says."""
        nfsi = self.inodes.get(fh)
        if nfsi is not None and not nfsi.stale:
            if attr is None:
                return self.ops.nfs_revalidate_inode(nfsi) or nfsi
            found = Nfs3Result(0)
            found.fattr = attr
            if not self.ops.nfs_refresh_inode(nfsi, found):
                return nfsi
        if attr is None:
            result = self.calls.call(PROC_GETATTR, encode_fh(fh))
            if isinstance(result, int):
                return result
            attr = result.fattr
        if nfsi is not None:
            self.stale.append(nfsi)
            del self.inodes[fh]
        made = self.ops.nfs_fhget(self.server, fh, attr)
        if made is None:
            return -ENOMEM
        self.inodes[fh] = made
        return made

    def forget_all(self) -> None:
        """Free all inodes; nobody uses them any more."""
        self.unlinker.wait()
        for nfsi in [*self.inodes.values(), *self.stale]:
            self.ops.nfs_clear_inode(nfsi)
        self.inodes.clear()
        self.stale.clear()

    # -- walking ---------------------------------------------------------------------------------------------------------------

    def lookup(self, path: str, *, follow: bool = True) -> NfsInode | int:
        """Walk a path from the export's root.

        :param follow: follow a symbolic link at the end of it, too.
        """
        if self.root is None:
            return -EINVAL
        way: list[NfsInode] = [self.root]
        names = path.split("/")[::-1]
        links = 0
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            if way[-1].attr[:4] != _DIR:
                return -ENOTDIR
            if name == "..":
                way = way[:-1] or way
                continue
            found = self.lookup_one(way[-1], name)
            if isinstance(found, int):
                return found
            if found.attr[:4] != _LNK or not (follow or any(names)):
                way.append(found)
                continue
            links += 1
            target = self._target(found) if links <= MAX_LINKS else -ELOOP
            if isinstance(target, int):
                return target
            names += target.split("/")[::-1]
        return way[-1]

    def _target(self, nfsi: NfsInode) -> str | int:
        """Return where a symbolic link leads within this mount."""
        target = self.readlink(nfsi)
        return -EXDEV if isinstance(target, str) and target.startswith("/") else target

    def lookup_one(self, folder: NfsInode, name: str) -> NfsInode | int:
        """Find one name in a directory (nfs_lookup())."""
        error = self._check_name(name)
        if error:
            return error
        result = self.calls.call(PROC_LOOKUP, diropargs(folder.fh_wire, name))
        if isinstance(result, int):
            if result == -ESTALE:
                self.ops.nfs_zap_caches(folder)
            return result
        self.ops.nfs_refresh_inode(folder, result.value)
        assert result.fh is not None
        return self.iget(result.fh, result.fattr)

    def _check_name(self, name: str) -> int:
        return -ENAMETOOLONG if len(name.encode("utf-8", "surrogateescape")) > self.name_max else 0

    def parent(self, path: str) -> tuple[NfsInode | int, str]:
        """Find the directory of a path whose last name is to be changed: the directory or -errno, and the name."""
        folder, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            return -ENOTDIR if not name else -EINVAL, name
        if self.read_only:
            return -EROFS, name
        return self._check_name(name) or self.lookup(folder), name

    # -- making ----------------------------------------------------------------------------------------------------------------

    def _make(self, proc: RpcProc, path: str, *rest: bytes) -> NfsInode | int:
        """Make a name by a call that answers as CREATE does (nfs_instantiate())."""
        folder, name = self.parent(path)
        if isinstance(folder, int):
            return folder
        result = self.calls.call(proc, diropargs(folder.fh_wire, name, *rest))
        if isinstance(result, int):
            return result
        self.ops.nfs_post_op_update_inode(folder, result.value)
        if result.fh is None:
            return self.lookup_one(folder, name)
        return self.iget(result.fh, result.fattr)

    def create(self, path: str, *, mode: int = 0o600, guarded: bool = False) -> NfsInode | int:
        """Make a regular file, or find it unless ``guarded`` (nfs_create())."""
        how = NFS3_CREATE_GUARDED if guarded else NFS3_CREATE_UNCHECKED
        return self._make(PROC_CREATE, path, uint(how), sattr3(mode=mode))

    def mkdir(self, path: str, *, mode: int = 0o755) -> NfsInode | int:
        """Make a directory (nfs_mkdir())."""
        return self._make(PROC_MKDIR, path, sattr3(mode=mode))

    def symlink(self, path: str, target: str) -> NfsInode | int:
        """Make a symbolic link (nfs_symlink()): -ENAMETOOLONG for a target that no page holds."""
        if len(target.encode("utf-8", "surrogateescape")) > PAGE_SIZE:
            return -ENAMETOOLONG
        return self._make(PROC_SYMLINK, path, sattr3(), string(target))

    def link(self, nfsi: NfsInode, path: str) -> int:
        """Give a file one more name (nfs_link()): 0 or -errno."""
        folder, name = self.parent(path)
        if isinstance(folder, int):
            return folder
        result = self.calls.call(PROC_LINK, nfsi.fh_wire + diropargs(folder.fh_wire, name))
        if isinstance(result, int):
            return result
        self.ops.nfs_post_op_update_inode(folder, result.value)
        self.ops.nfs_post_op_update_inode(nfsi, result)
        return 0

    # -- removing --------------------------------------------------------------------------------------------------------------

    def remove(self, path: str) -> int:
        """Remove a file (nfs_unlink()): 0 or -errno; one that is open gets another name until it is closed."""
        folder, name = self.parent(path)
        if isinstance(folder, int):
            return folder
        opened = self._opened(folder, name)
        if isinstance(opened, int):
            return opened
        if opened is not None:
            return self.unlinker.nfs_sillyrename(folder, name, opened)
        return self._take_away(PROC_REMOVE, folder, name)

    def rmdir(self, path: str) -> int:
        """Remove an empty directory (nfs_rmdir()): 0 or -errno."""
        folder, name = self.parent(path)
        return folder if isinstance(folder, int) else self._take_away(PROC_RMDIR, folder, name)

    def _take_away(self, proc: RpcProc, folder: NfsInode, name: str) -> int:
        result = self.calls.call(proc, diropargs(folder.fh_wire, name))
        if isinstance(result, int):
            return result
        self.ops.nfs_post_op_update_inode(folder, result)
        return 0

    def _opened(self, folder: NfsInode, name: str) -> NfsInode | int | None:
        """Return the file of a name if this client has it open; the kernel knows that from its dentries, we ask the server."""
        if not any(nfsi.open_files for nfsi in self.inodes.values()):
            return None
        nfsi = self.lookup_one(folder, name)
        if isinstance(nfsi, int):
            return nfsi
        return nfsi if nfsi.open_files else None

    def rename(self, path: str, new_path: str) -> int:
        """Rename (nfs_rename()): 0 or -errno. What it overwrites is removed; if it is open, under its other name later."""
        folder, name = self.parent(path)
        if isinstance(folder, int):
            return folder
        new_folder, new_name = self.parent(new_path)
        if isinstance(new_folder, int):
            return new_folder
        opened = self._opened(new_folder, new_name)
        if isinstance(opened, int) and opened != -ENOENT:
            return opened
        if opened is not None and not isinstance(opened, int):
            if opened.attr[:4] == _DIR:
                return -EISDIR
            moved = self.lookup_one(folder, name)
            if moved is opened:
                return 0  # two names of one file: nothing happens
            error = moved if isinstance(moved, int) else self.unlinker.nfs_sillyrename(new_folder, new_name, opened)
            if error:
                return error
        result = self.calls.call(PROC_RENAME, diropargs(folder.fh_wire, name, diropargs(new_folder.fh_wire, new_name)))
        if isinstance(result, int):
            return result
        before, after = result.value
        self.ops.nfs_post_op_update_inode(folder, before)
        self.ops.nfs_post_op_update_inode(new_folder, after)
        return 0

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def readlink(self, nfsi: NfsInode) -> str | int:
        """Return where a symbolic link leads, or -errno."""
        if nfsi.attr[:4] != _LNK:
            return -EINVAL
        result = self.calls.call(PROC_READLINK, nfsi.fh_wire)
        if isinstance(result, int):
            return result
        self.ops.nfs_refresh_inode(nfsi, result)
        target: str = result.value
        return target

    def readdir(self, folder: NfsInode, *, plus: bool = True) -> list[DirEntry] | int:
        """List the names of a directory, ``.`` and ``..`` among them, or -errno (nfs_readdir()).

        :param plus: with attributes and handles, which refresh the inodes that we know.
        """
        if folder.attr[:4] != _DIR:
            return -ENOTDIR
        entries: list[DirEntry] = []
        seen: set[int] = set()
        cookie, verf, eof = 0, bytes(8), False
        counts = (self.dtsize, 8 * self.dtsize) if plus else (self.dtsize,)
        while not eof:
            args = readdirargs(folder.fh_wire, cookie, verf, *counts)
            result = self.calls.call(PROC_READDIRPLUS if plus else PROC_READDIR, args)
            if isinstance(result, int):
                return result
            self.ops.nfs_refresh_inode(folder, result)
            page: DirPage = result.value
            verf, eof = page.verf, page.eof
            entries += page.entries
            if page.entries:
                cookie = page.entries[-1].cookie
            if not eof and cookie in seen:
                return -ELOOP
            seen.add(cookie)
            self._learn(page.entries)
        return entries

    def _learn(self, entries: list[DirEntry]) -> None:
        """Take the attributes that came with names."""
        for entry in entries:
            nfsi = self.inodes.get(entry.fh) if entry.fh is not None and entry.fattr is not None else None
            if nfsi is not None:
                found = Nfs3Result(0)
                found.fattr = entry.fattr
                self.ops.nfs_refresh_inode(nfsi, found)

    def access(self, nfsi: NfsInode, bits: int) -> int:
        """Return which of the NFS3_ACCESS bits the running task has, or -errno (nfs_do_access()).

        Answers are good for as long as attributes are, unless mode, owner or ctime change.
        """
        current = self.sched.current
        who = (current.uid, current.gid)
        if nfsi.cache_validity & NFS_INO_INVALID_ACCESS:
            nfsi.access.clear()
            nfsi.cache_validity &= ~NFS_INO_INVALID_ACCESS
        cached = nfsi.access.get(who)
        if cached is not None:
            asked, granted, when = cached
            if bits & asked == bits and self.sched.jiffies - when < nfsi.attrtimeo:
                return granted & bits
        result = self.calls.call(PROC_ACCESS, nfsi.fh_wire + uint(bits))
        if isinstance(result, int):
            if result == -ESTALE:
                self.ops.nfs_zap_caches(nfsi)
                nfsi.stale = nfsi.attr[:4] != _DIR
            return result
        self.ops.nfs_refresh_inode(nfsi, result)
        nfsi.access[who] = (bits, result.value & bits, self.sched.jiffies)
        granted_now: int = result.value & bits
        return granted_now
