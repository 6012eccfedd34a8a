"""An NFS mount of a machine: transport, server, files; joins NFS to a network stack.

Interface
    * :class:`NfsMount`: ``mount()``, ``umount()``; ``create``, ``lookup``, ``setattr``, ``getattr``, ``remove``; ``open(path)``
      gives a File that swapon() and the page cache take; ``close``; ``read``, ``write`` by calls, ``write_buffered`` through the
      page cache; ``make_swapfile(path, pages)`` does what dd and mkswap do.
    * :class:`MachineParts`, :class:`StackParts`: what a machine and a stack must have. kemu.machine.Machine and
      kemu_net.stack.NetStack do; nothing here imports them, so the parts can be given one by one in a test.

Rules of this file
    * Everything here blocks: call it from a task, or from the outer stack. 0 or a result is success, a negative int is -errno.
    * A machine has one NfsModule, whatever it mounts: the second mount is given ``modules=first.modules``.
    * mount() asks the MOUNT service over a transport of its own, which is closed again; then the server for FSINFO and the root's
      attributes.
    * Here the circle closes for NFS: the page cache learns whose I/O a page waits for, the swap file its ->swapfile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from kemu.errors import ConfigError
from kemu.kernel.errno import EBADF, EBUSY, EINVAL, EIO, ENOMEM, ENOTDIR
from kemu.mm.address_space import Cred, File
from kemu.mm.gfp import PAGE_SIZE
from kemu.mm.swap_header import mkswap_header
from kemu_nfs.nfs.file import NfsFileOperations, NfsFileOps
from kemu_nfs.nfs.inode import FMODE_READ, FMODE_WRITE, NfsInode
from kemu_nfs.nfs.nfs3xdr import (
    PROC_COMMIT,
    PROC_CREATE,
    PROC_FSINFO,
    PROC_GETATTR,
    PROC_LOOKUP,
    PROC_MNT,
    PROC_REMOVE,
    PROC_SETATTR,
    PROC_UMNT,
    Fattr3,
    Nfs3Result,
    sattr3,
)
from kemu_nfs.nfs.nfs_client import NfsModule, NfsServer, NfsStats, nfs_block_size
from kemu_nfs.sunrpc.auth import RpcCred, UnixAuth
from kemu_nfs.sunrpc.clnt import RpcClnt
from kemu_nfs.sunrpc.nfs3_const import NFS3_CREATE_GUARDED, NFS3_CREATE_UNCHECKED
from kemu_nfs.sunrpc.rpc_const import MOUNT_PORT, MOUNT_PROGRAM, MOUNT_VERSION, NFS_PORT, NFS_PROGRAM, NFS_VERSION
from kemu_nfs.sunrpc.rpc_task import RpcProc
from kemu_nfs.sunrpc.xdr import Packer
from kemu_nfs.sunrpc.xprt import RPC_DEF_SLOT_TABLE
from kemu_nfs.sunrpc.xprtsock import TcpXprt, UdpXprt
from kemu_nfs.sunrpc.xs_swapper import XsSwapper

if TYPE_CHECKING:
    from kemu.fs.fs_writeback import FsWriteback
    from kemu.kernel.core import Kernel
    from kemu.lib.radix_tree import RadixNodes
    from kemu.mm.backing_dev import Congestion
    from kemu.mm.filemap import Filemap
    from kemu.mm.memory import Memory
    from kemu.mm.page_alloc import PageAllocator
    from kemu.mm.slub import Slub
    from kemu.mm.swapfile import Swapfile


class MachineParts(Protocol):
    """What NFS needs of a machine."""

    kernel: Kernel
    page_alloc: PageAllocator
    slub: Slub
    radix_nodes: RadixNodes
    filemap: Filemap
    swapfile: Swapfile
    congestion: Congestion
    memory: Memory
    fs_writeback: FsWriteback


class StackParts(Protocol):
    """What NFS needs of a network stack."""

    tcp: Any
    udp: Any
    socks: Any
    nic: Any


def _quad(addr: int) -> str:
    """Write an IPv4 address."""
    return f"{addr >> 24}.{addr >> 16 & 255}.{addr >> 8 & 255}.{addr & 255}"


def make_modules(machine: MachineParts) -> NfsModule:
    """Load nfs and sunrpc into a machine."""
    build: Callable[..., Any] | None = getattr(machine, "build", None)
    parts = (
        machine.kernel,
        machine.page_alloc,
        machine.slub,
        machine.radix_nodes,
        machine.filemap,
        machine.swapfile,
        machine.memory.file_io,
        machine.fs_writeback,
    )
    if build is None:
        return NfsModule(*parts, congestion=machine.congestion)
    module: NfsModule = build(NfsModule, *parts, congestion=machine.congestion)
    return module


class NfsMount:
    """One mounted export.

    :param server_ip: the server's IPv4 address as an int.
    :param proto: "tcp" or "udp".
    :param uid: who mounts; root as a rule.
    :param slots: calls that may be on their way at once (the sysctl tcp_slot_table_entries).
    :param modules: the machine's NfsModule, if it has mounted before.
    """

    def __init__(
        self,
        machine: MachineParts,
        stack: StackParts,
        server_ip: int,
        *,
        export: str = "/export",
        port: int = NFS_PORT,
        mountport: int = MOUNT_PORT,
        proto: str = "tcp",
        uid: int = 0,
        gid: int = 0,
        slots: int = RPC_DEF_SLOT_TABLE,
        soft: bool = False,
        rsize: int = 0,
        wsize: int = 0,
        modules: NfsModule | None = None,
    ) -> None:
        if proto not in ("tcp", "udp"):
            raise ConfigError(f"proto {proto!r} cannot be mounted; there are tcp and udp")
        self.kernel = kernel = machine.kernel
        self.stack = stack
        self.server_ip = server_ip
        self.export = export
        self.mountport = mountport
        self.modules = make_modules(machine) if modules is None else modules
        self.cred = Cred(uid, gid)
        self.name = _quad(server_ip)
        self._rsize = rsize
        self._wsize = wsize
        rpc = self.modules.rpc
        kind = TcpXprt if proto == "tcp" else UdpXprt
        self._kind = kind
        self.xprt: TcpXprt | UdpXprt = kind(rpc, stack, server_ip, port, slots=slots, reply_from=stack.nic)
        self.auth = UnixAuth(kernel, machine.slub)
        self.client = RpcClnt(rpc, self.xprt, NFS_PROGRAM, NFS_VERSION, self.name, soft=soft)
        self.swapper = XsSwapper(kernel, machine.slub, stack.socks, self.xprt)
        self.server = NfsServer(self.modules, self.client, self.auth, self.swapper, self.name)
        self.ops = NfsFileOps(self.modules, self.server)
        self.file_ops = NfsFileOperations(self.ops)
        self.root: NfsInode | None = None
        self.inodes: dict[bytes, NfsInode] = {}
        self.files: list[File] = []

    @property
    def stats(self) -> NfsStats:
        """Counters of all mounts of the machine."""
        return self.modules.read_stats()

    # -- mounting --------------------------------------------------------------------------------------------------------------

    def mount(self) -> int:
        """Get the export's root from the MOUNT service, then ask the server how it wants to be used: 0 or -errno."""
        if self.root is not None:
            return -EINVAL
        packer = Packer()
        packer.pack_string(self.export)
        result = self._ask_mountd(PROC_MNT, packer.bytes())
        if isinstance(result, int):
            return result
        assert result.fh is not None
        root = self._iget(result.fh, None)
        if root is None:
            return -ENOMEM
        error = self._fsinfo(root) or self.getattr(root, refresh=True)
        if isinstance(error, int) and error < 0:
            self._forget_all()
            return error
        self.root = root
        return 0

    def _ask_mountd(self, proc: RpcProc, args: bytes) -> Nfs3Result | int:
        """Call the MOUNT service over a transport of its own."""
        xprt = self._kind(self.modules.rpc, self.stack, self.server_ip, self.mountport, slots=2, reply_from=self.stack.nic)
        client = RpcClnt(self.modules.rpc, xprt, MOUNT_PROGRAM, MOUNT_VERSION, self.name, protname="mount", soft=self.client.soft)
        cred = self.auth.lookup_cred(self.cred.uid, self.cred.gid)
        if cred is None:
            xprt.xprt_destroy()
            return -ENOMEM
        status, result = client.rpc_call_sync(proc, args, cred)
        self.auth.put_rpccred(cred)
        xprt.xprt_destroy()
        status = status or result.status
        return status or result

    def _fsinfo(self, root: NfsInode) -> int:
        """Choose transfer sizes (nfs_probe_fsinfo())."""
        result = self._call(PROC_FSINFO, root.fh_wire)
        if isinstance(result, int):
            return result
        info = result.value
        server = self.server
        server.rsize = min(nfs_block_size(self._rsize or info.rtpref), nfs_block_size(info.rtmax))
        server.wsize = min(nfs_block_size(self._wsize or info.wtpref), nfs_block_size(info.wtmax))
        return 0

    def umount(self) -> int:
        """Write what is left, close everything, tell the server: 0 or -errno. Swap files (-EINVAL here) and mapped files refuse."""
        if self.root is None or any(nfsi.inode.is_swapfile for nfsi in self.inodes.values()):
            return -EINVAL
        if any(nfsi.mapping.i_mmap for nfsi in self.inodes.values()):
            return -EBUSY
        error = 0
        for nfsi in list(self.inodes.values()):
            error = self.ops.fsync(nfsi) or error
        for file in list(self.files):
            self.close(file)
        packer = Packer()
        packer.pack_string(self.export)
        self._ask_mountd(PROC_UMNT, packer.bytes())
        self._forget_all()
        self.root = None
        self.xprt.xprt_destroy()
        self.server.destroy()
        self.auth.destroy()
        return error

    def _forget_all(self) -> None:
        for nfsi in self.inodes.values():
            self.ops.inodes.nfs_clear_inode(nfsi)
        self.inodes.clear()

    # -- calls -----------------------------------------------------------------------------------------------------------------

    def _cred(self, uid: int | None = None, gid: int | None = None) -> RpcCred | None:
        """Look the caller's credential up; the running task's, if nobody else is named."""
        current = self.kernel.sched.current
        return self.auth.lookup_cred(current.uid if uid is None else uid, current.gid if gid is None else gid)

    def _call(self, proc: RpcProc, args: bytes) -> Nfs3Result | int:
        """Call a procedure as the running task: its result, or -errno."""
        cred = self._cred()
        if cred is None:
            return -ENOMEM
        status, result = self.client.rpc_call_sync(proc, args, cred)
        self.auth.put_rpccred(cred)
        status = status or result.status
        return status or result

    def _iget(self, fh: bytes, attr: bytes | None) -> NfsInode | None:
        """Find or make the inode of a handle."""
        nfsi = self.inodes.get(fh)
        if nfsi is None:
            nfsi = self.ops.inodes.nfs_fhget(self.server, fh, attr)
            if nfsi is not None:
                self.inodes[fh] = nfsi
        return nfsi

    def getattr(self, nfsi: NfsInode, *, refresh: bool = True) -> Fattr3 | int:
        """Return the attributes of a file; ``refresh`` asks the server."""
        if refresh or not nfsi.attr:
            result = self._call(PROC_GETATTR, nfsi.fh_wire)
            if isinstance(result, int):
                return result
            self.ops.inodes.nfs_refresh_inode(nfsi, result)
        return nfsi.fattr

    def _lookup_one(self, folder: NfsInode, name: str) -> NfsInode | int:
        result = self._call(PROC_LOOKUP, folder.fh_wire + _name(name))
        if isinstance(result, int):
            return result
        assert result.fh is not None
        nfsi = self._iget(result.fh, result.fattr)
        if nfsi is None:
            return -ENOMEM
        self.ops.inodes.nfs_refresh_inode(nfsi, result)
        return nfsi

    def lookup(self, path: str) -> NfsInode | int:
        """Walk a path from the export's root."""
        nfsi: NfsInode | int = self.root if self.root is not None else -EINVAL
        for name in path.split("/"):
            if isinstance(nfsi, int):
                return nfsi
            if name:
                nfsi = self._lookup_one(nfsi, name)
        return nfsi

    def _parent(self, path: str) -> tuple[NfsInode | int, str]:
        folder, _, name = path.rstrip("/").rpartition("/")
        if not name:
            return -ENOTDIR, name
        return self.lookup(folder), name

    def create(self, path: str, *, mode: int = 0o600, guarded: bool = False) -> NfsInode | int:
        """Make a regular file, or find it unless ``guarded``."""
        folder, name = self._parent(path)
        if isinstance(folder, int):
            return folder
        packer = Packer()
        packer.pack_raw(folder.fh_wire)
        packer.pack_string(name)
        packer.pack_uint(NFS3_CREATE_GUARDED if guarded else NFS3_CREATE_UNCHECKED)
        packer.pack_raw(sattr3(mode=mode))
        result = self._call(PROC_CREATE, packer.bytes())
        if isinstance(result, int):
            return result
        if result.fh is None:
            return self._lookup_one(folder, name)
        return self._iget(result.fh, result.fattr) or -ENOMEM

    def setattr(self, nfsi: NfsInode, *, size: int | None = None, mode: int | None = None) -> int:
        """Change the size or the mode of a file; what is written of it goes out first."""
        error = self.ops.fsync(nfsi)
        if error:
            return error
        packer = Packer()
        packer.pack_raw(nfsi.fh_wire)
        packer.pack_raw(sattr3(size=size, mode=mode))
        packer.pack_bool(False)
        result = self._call(PROC_SETATTR, packer.bytes())
        if isinstance(result, int):
            return result
        self.ops.inodes.nfs_refresh_inode(nfsi, result)
        if size is not None:
            nfsi.inode.size = size
            self.modules.filemap.truncate_inode_pages(nfsi.mapping, -(-size // PAGE_SIZE))
        return 0

    def remove(self, path: str) -> int:
        """Remove a file."""
        folder, name = self._parent(path)
        if isinstance(folder, int):
            return folder
        result = self._call(PROC_REMOVE, folder.fh_wire + _name(name))
        return result if isinstance(result, int) else 0

    # -- files -----------------------------------------------------------------------------------------------------------------

    def open(self, path: str, *, mode: int = FMODE_READ | FMODE_WRITE) -> File | int:
        """Open a file as the running task."""
        nfsi = self.lookup(path)
        if isinstance(nfsi, int):
            return nfsi
        current = self.kernel.sched.current
        ctx = self.ops.inodes.nfs_open(nfsi, current.uid, current.gid, mode)
        if ctx is None:
            return -ENOMEM
        self.ops.inodes.nfs_revalidate_mapping(nfsi)
        cred = Cred(current.uid, current.gid)
        file = File(nfsi.inode, nfsi.mapping, cred, ctx, self.file_ops, f_path="/" + path.strip("/"))
        self.files.append(file)
        return file

    def close(self, file: File) -> int:
        """Write what is left of a file and close it: 0 or the error that a write met."""
        if file not in self.files:
            return -EBADF
        nfsi: NfsInode = file.private_data.nfsi
        error = self.ops.fsync(nfsi)
        self.files.remove(file)
        self.modules.file_io.fput(file)
        return error

    def write(self, file: File, pos: int, data: bytes) -> int:
        """Write by calls, without the page cache: bytes, or -errno."""
        return self.ops.nfs_write_sync(file.private_data, pos, data)

    def read(self, file: File, pos: int, count: int) -> bytes | int:
        """Read by calls, without the page cache: bytes, or -errno."""
        return self.ops.nfs_read_sync(file.private_data, pos, count)

    def write_buffered(self, file: File, pos: int, data: bytes) -> int:
        """Write into the page cache, as write(2) does: bytes, or -errno."""
        return self.ops.nfs_file_write(file, pos, data)

    def fsync(self, file: File) -> int:
        """Write what the page cache holds of a file, and wait."""
        return self.ops.fsync(file.private_data.nfsi)

    def commit(self, file: File, pos: int = 0, count: int = 0) -> bytes | int:
        """Ask the server to put what it holds of a range on its disk: its write verifier, or -errno; ``count`` 0 is to the end.

        Writes of this client are stable, so nothing depends on it; the verifier tells whether the server has lived through a crash.
        """
        packer = Packer()
        packer.pack_raw(file.private_data.nfsi.fh_wire)
        packer.pack_uhyper(pos)
        packer.pack_uint(count)
        result = self._call(PROC_COMMIT, packer.bytes())
        if isinstance(result, int):
            return result
        self.ops.inodes.nfs_refresh_inode(file.private_data.nfsi, result)
        return result.verf

    def make_swapfile(self, path: str, pages: int) -> File | int:
        """Make a file of ``pages`` pages with a swap header, and open it (dd and mkswap): a File for swapon(), or -errno."""
        nfsi = self.create(path)
        if isinstance(nfsi, int):
            return nfsi
        error = self.setattr(nfsi, size=pages * PAGE_SIZE)
        if error:
            return error
        file = self.open(path)
        if isinstance(file, int):
            return file
        written = self.write(file, 0, mkswap_header(pages))
        if written != PAGE_SIZE:
            self.close(file)
            return written if written < 0 else -EIO
        return file

    def check(self) -> None:
        """Assert the invariants of transport, RPC and inodes."""
        self.xprt.check()
        self.modules.rpc.check()
        for nfsi in self.inodes.values():
            self.ops.inodes.check(nfsi)


def _name(name: str) -> bytes:
    """Write a name."""
    packer = Packer()
    packer.pack_string(name)
    return packer.bytes()
