"""The MOUNT program, version 3 (RFC 1813, appendix I): from a path to the handle with which NFS begins.

Interface
    * ``Export``: a directory that clients may mount. ``MountProgram(tree, exports)``: what RpcServer takes.

Rules of this file
    * A path is walked in the tree; ``..`` never leads out of an export, and what lies in no export is refused (MNT3ERR_ACCES).
      Symbolic links are not followed: they are no directories.
    * The list of who mounted what is for people: it is never asked whether somebody may use a handle.
    * Left out: the older versions, groups of hosts by name.
"""

from __future__ import annotations

import attrs

from kemu.errors import ConfigError
from kemu_nfs.server.program import Call, FastPath, Procedure
from kemu_nfs.server.tree import Node, Tree
from kemu_nfs.sunrpc.nfs3_const import (
    MNT3ERR_ACCES,
    MNT3ERR_NOTDIR,
    MNTPATHLEN,
    NF3DIR,
    NFS3_OK,
)
from kemu_nfs.sunrpc.rpc_const import MOUNT_PROGRAM, MOUNT_VERSION, RPC_AUTH_UNIX
from kemu_nfs.sunrpc.xdr import Packer, Unpacker

MAX_MOUNTS = 1024  # entries of the list that DUMP shows


@attrs.frozen
class Export:
    """A directory that clients may mount.

    :param path: its name for clients.
    :param hosts: the IPv4 addresses that may mount it; None for all.
    :param at: where it lies in the tree, if not at ``path``.
    """

    path: str = "/export"
    hosts: tuple[int, ...] | None = None
    at: str | None = None


def _split(path: bytes) -> list[bytes]:
    """Give the names of a path, with ``.`` and ``..`` worked off as words: what is above the root is the root."""
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            del names[-1:]
        elif name not in (b"", b"."):
            names.append(name)
    return names


def _dotted(address: int) -> str:
    return ".".join(str(address >> shift & 0xFF) for shift in (24, 16, 8, 0))


class MountProgram:
    """MOUNT version 3."""

    def __init__(self, tree: Tree, exports: tuple[Export, ...] = (Export(),)) -> None:
        self.tree = tree
        self.exports = exports
        for export in exports:
            for path in (export.path, export.at or "/"):
                if not path.startswith("/") or "\0" in path:
                    raise ConfigError(f"an export is an absolute path, not {path!r}")
            tree.add_export(export.at or export.path)
        self.mounts: dict[tuple[int, bytes], None] = {}  # who mounted what, in that order
        self.number = MOUNT_PROGRAM
        self.versions = (MOUNT_VERSION, MOUNT_VERSION)
        self.needs_cred = False
        self.fast: dict[int, FastPath] = {}
        self.fast_cost_ns = 0
        table = (
            Procedure("NULL", self.null),
            Procedure("MNT", self.mnt),
            Procedure("DUMP", self.dump),
            Procedure("UMNT", self.umnt),
            Procedure("UMNTALL", self.umntall),
            Procedure("EXPORT", self.export),
        )
        self.procedures: dict[int, Procedure] = dict(enumerate(table))

    def reboot(self) -> None:
        """Start a new life; the list of mounts is on disk (rmtab) and stays."""

    def null(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Do nothing (procedure 0)."""

    def _export_of(self, names: list[bytes]) -> Export | None:
        """Find the export that a path lies in; the deepest one counts."""
        found: Export | None = None
        depth = -1
        for export in self.exports:
            top = _split(export.path.encode())
            if len(top) > depth and names[: len(top)] == top:
                found, depth = export, len(top)
        return found

    def mnt(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Give the handle of an exported directory (procedure 1)."""
        names = _split(args.unpack_opaque(MNTPATHLEN))
        export = self._export_of(names)
        if export is None or (export.hosts is not None and call.client not in export.hosts):
            out.pack_uint(MNT3ERR_ACCES)
            return
        status, inode = self._walk(export, names)
        out.pack_uint(status)
        if status or inode is None:
            return
        if len(self.mounts) < MAX_MOUNTS:
            self.mounts[call.client, b"/" + b"/".join(names)] = None
        out.pack_opaque(inode.handle)
        out.pack_uint(1)
        out.pack_uint(RPC_AUTH_UNIX)

    def _walk(self, export: Export, names: list[bytes]) -> tuple[int, Node | None]:
        """Go down from an export's top; NFS's status numbers are MOUNT's."""
        inode = self.tree.lookup_path(export.at or export.path)
        status = NFS3_OK if inode is not None else MNT3ERR_ACCES
        for name in names[len(_split(export.path.encode())) :]:
            if status:
                break
            status, inode = self.tree.lookup(inode, name)
        if not status and inode.ftype != NF3DIR:
            status = MNT3ERR_NOTDIR
        return status, inode

    def dump(self, call: Call, args: Unpacker, out: Packer) -> None:
        """List who mounted what (procedure 2)."""
        for client, path in self.mounts:
            out.pack_bool(True)
            out.pack_string(_dotted(client))
            out.pack_opaque(path)
        out.pack_bool(False)

    def umnt(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Take an entry from the list (procedure 3)."""
        names = _split(args.unpack_opaque(MNTPATHLEN))
        self.mounts.pop((call.client, b"/" + b"/".join(names)), None)

    def umntall(self, call: Call, args: Unpacker, out: Packer) -> None:
        """Take all entries of the caller from the list (procedure 4)."""
        for key in [key for key in self.mounts if key[0] == call.client]:
            del self.mounts[key]

    def export(self, call: Call, args: Unpacker, out: Packer) -> None:
        """List what can be mounted, and by whom (procedure 5)."""
        for export in self.exports:
            out.pack_bool(True)
            out.pack_string(export.path)
            for host in export.hosts or ():
                out.pack_bool(True)
                out.pack_string(_dotted(host))
            out.pack_bool(False)
        out.pack_bool(False)
