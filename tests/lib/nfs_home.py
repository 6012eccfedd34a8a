"""Test helper: a server with a little of everything in its tree, and all that a client could see of it."""

from __future__ import annotations

from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.mount_proc import Export
from kemu_nfs.server.rpc_server import NfsServer
from nfs_speaker import Client, sattr


class NfsHome:
    """A server with a little of everything in its tree."""

    def __init__(self):
        self.tree = FileTree(lambda: 0)
        self.server = NfsServer(self.tree, exports=(Export(), Export("/other", hosts=(7,))))
        self.client = Client(self.server)
        self.root = self.client.mnt()
        self.file = self.client.create(self.root, b"file", sattr(mode=0o600, size=100))
        self.client.write(self.file, 0, b"data" * 2000)
        self.folder = self.client.mkdir(self.root, b"folder")
        self.client.create(self.folder, b"inner")

    def snapshot(self):
        """All that a client could see of the tree."""
        kept = ("ftype", "mode", "uid", "gid", "nlink", "size", "atime_ns", "mtime_ns", "ctime_ns", "target")
        found = []
        for handle, inode in self.tree.by_handle.items():
            names = [(name, entry.inode.fileid) for name, entry in inode.entries.items()]
            found.append((handle, [getattr(inode, name) for name in kept], dict(inode.blocks), names))
        return found
