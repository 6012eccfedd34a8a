"""An NFS mount of a machine: transport, server, files; joins NFS to a network stack.

Interface
    * :class:`NfsMount`: ``mount()``, ``umount()``; ``open(path)`` gives a File that swapon() and the page cache take; ``close``;
      ``read``, ``write`` by calls, ``write_buffered`` through the page cache; ``getattr``, ``stat``, ``setattr``, ``statfs``;
      ``make_swapfile(path, pages)`` does what dd and mkswap do.
    * Names: ``lookup``, ``create``, ``mkdir``, ``remove``, ``rmdir``, ``rename``, ``link``, ``symlink``, ``readlink``, ``readdir``,
      ``access`` are those of nfs/dir.py.

Rules of this file
    * Everything here blocks: call it from a task, or from the outer stack. 0 or a result is success, a negative int is -errno.
    * A machine has one NfsModule, whatever it mounts: the second mount is given ``modules=first.modules``.
    * mount() asks the MOUNT service over a transport of its own, which is closed again; then the server for FSINFO, PATHCONF and,
      unless they came with FSINFO, the root's attributes.
    * Close-to-open: an open looks every name up anew, and reads go past what was cached if the file has changed; a close writes.
    * Here the circle closes for NFS: the page cache learns whose I/O a page waits for, the swap file its ->swapfile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kemu.kernel.errno import EBADF, EBUSY, EINVAL, EIO, EISDIR, ENOMEM, ENOTDIR, ENXIO, EROFS
from kemu.mm.address_space import Cred, File
from kemu.mm.gfp import PAGE_SHIFT, PAGE_SIZE
from kemu.mm.swap_header import mkswap_header
from kemu_nfs.mount_options import MountOptions, timeouts, xprt_timeout
from kemu_nfs.mount_parts import make_modules, quad
from kemu_nfs.nfs.dir import NfsDir
from kemu_nfs.nfs.file import NfsFileOperations, NfsFileOps
from kemu_nfs.nfs.inode import FMODE_READ, FMODE_WRITE, NfsInode
from kemu_nfs.nfs.nfs3xdr import PROC_COMMIT, PROC_SETATTR, Fattr3, Nfs3Result, encode_fh, sattr3
from kemu_nfs.nfs.nfs3xdr_names import PROC_FSINFO, PROC_FSSTAT, PROC_MNT, PROC_PATHCONF, PROC_UMNT, FsInfo, FsStat, string
from kemu_nfs.nfs.nfs_client import NfsModule, NfsServer, NfsStats, nfs_block_size
from kemu_nfs.nfs.proc_nfs import ProcNfs
from kemu_nfs.sunrpc.auth import UnixAuth
from kemu_nfs.sunrpc.clnt import RpcClnt
from kemu_nfs.sunrpc.nfs3_const import NF3DIR, NF3REG
from kemu_nfs.sunrpc.rpc_const import MOUNT_PORT, MOUNT_PROGRAM, MOUNT_VERSION, NFS_PORT, NFS_PROGRAM, NFS_VERSION
from kemu_nfs.sunrpc.rpc_task import RpcProc
from kemu_nfs.sunrpc.xdr import Packer
from kemu_nfs.sunrpc.xprt import RPC_DEF_SLOT_TABLE
from kemu_nfs.sunrpc.xprtsock import TcpXprt, UdpXprt
from kemu_nfs.sunrpc.xs_swapper import XsSwapper

if TYPE_CHECKING:
    from kemu_nfs.mount_parts import MachineParts, StackParts

NFS_MAX_READAHEAD: Final = RPC_DEF_SLOT_TABLE - 1  # in READs of rsize
_MAX_UDP: Final = 1 << 15  # what one datagram can carry, as a power of two


def power_of_two(size: int) -> int:
    """Round a transfer size down to a power of two (nfs_block_bits())."""
    return 1 << size.bit_length() - 1


class NfsMount:
    """One mounted export.

    :param server_ip: the server's IPv4 address as an int.
    :param uid: who mounts; root as a rule.
    :param slots: calls that may be on their way at once; 0: as the sysctl sunrpc.tcp_slot_table_entries (udp_...) says.
    :param options: what else is asked for; None: what the keywords of the same names say.
    :param mountpoint: where it lies, for /proc/mounts.
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
        slots: int = 0,
        soft: bool = False,
        rsize: int = 0,
        wsize: int = 0,
        options: MountOptions | None = None,
        mountpoint: str = "/mnt",
        modules: NfsModule | None = None,
    ) -> None:
        if options is None:
            options = MountOptions(rsize, wsize, soft=soft, proto=proto, port=port, mountport=mountport)
        self.options = options
        self.kernel = kernel = machine.kernel
        self.stack = stack
        self.server_ip = server_ip
        self.export = export
        self.modules = make_modules(machine) if modules is None else modules
        self.cred = Cred(uid, gid)
        self.name = quad(server_ip)
        self._kind = TcpXprt if options.proto == "tcp" else UdpXprt
        self.xprt = self._transport(options.port, slots)
        self.auth = UnixAuth(kernel, machine.slub)
        self.client = RpcClnt(self.modules.rpc, self.xprt, NFS_PROGRAM, NFS_VERSION, self.name, soft=options.soft)
        self.swapper = XsSwapper(kernel, machine.slub, stack.socks, self.xprt)
        self.server = NfsServer(self.modules, self.client, self.auth, self.swapper, self.name)
        self.ops = NfsFileOps(self.modules, self.server)
        self.ops.inodes.timeouts = timeouts(options)
        self.file_ops = NfsFileOperations(self.ops, sync=options.sync or options.noac)
        self.dir = NfsDir(self.modules, self.server, self.ops.inodes)
        self.dir.read_only = options.read_only
        self.lookup = self.dir.lookup
        self.create = self.dir.create
        self.mkdir = self.dir.mkdir
        self.remove = self.dir.remove
        self.rmdir = self.dir.rmdir
        self.rename = self.dir.rename
        self.link = self.dir.link
        self.symlink = self.dir.symlink
        self.readlink = self.dir.readlink
        self.readdir = self.dir.readdir
        self.access = self.dir.access
        self.files: list[File] = []
        self.proc = ProcNfs(
            self.modules.mounts,
            getattr(machine, "proc", None),  # a machine of parts has none
            server_ip,
            options.port,
            self.name,
            f"{export} {mountpoint}",
            lambda: options.text(self.server.rsize, self.server.wsize, self.xprt.timeout, self.name),
            lambda: self.root.fattr.fsid if self.root is not None else 0,
        )

    @property
    def root(self) -> NfsInode | None:
        """The export's root; None while nothing is mounted."""
        return self.dir.root

    @property
    def inodes(self) -> dict[bytes, NfsInode]:
        """All inodes by handle."""
        return self.dir.inodes

    @property
    def stats(self) -> NfsStats:
        """Counters of all mounts of the machine."""
        return self.modules.read_stats()

    def _transport(self, port: int, slots: int) -> TcpXprt | UdpXprt:
        """Make a way to the server."""
        timeout = xprt_timeout(self.options)
        return self._kind(
            self.modules.rpc, self.stack, self.server_ip, port, timeout=timeout, slots=slots, reply_from=self.stack.nic
        )

    # -- mounting --------------------------------------------------------------------------------------------------------------

    def mount(self) -> int:
        """Get the export's root from the MOUNT service, then ask the server how it wants to be used: 0 or -errno."""
        if self.root is not None:
            return -EINVAL
        result = self._ask_mountd(PROC_MNT, string(self.export))
        if isinstance(result, int):
            return result
        assert result.fh is not None
        root = self._probe(result.fh)
        if isinstance(root, int):
            self.dir.forget_all()
            return root
        self.dir.root = root
        self.proc.appear()
        return 0

    def _ask_mountd(self, proc: RpcProc, args: bytes) -> Nfs3Result | int:
        """Call the MOUNT service over a transport of its own."""
        xprt = self._transport(self.options.mountport, 2)
        client = RpcClnt(self.modules.rpc, xprt, MOUNT_PROGRAM, MOUNT_VERSION, self.name, protname="mount", soft=self.options.soft)
        cred = self.auth.lookup_cred(self.cred.uid, self.cred.gid)
        if cred is None:
            xprt.xprt_destroy()
            return -ENOMEM
        status, result = client.rpc_call_sync(proc, args, cred)
        self.auth.put_rpccred(cred)
        xprt.xprt_destroy()
        status = status or result.status
        return status or result

    def _probe(self, fh: bytes) -> NfsInode | int:
        """Choose transfer sizes, learn the longest name, make the root (nfs_probe_fsinfo(), nfs3_proc_get_root())."""
        call = self.dir.calls.call
        info = call(PROC_FSINFO, encode_fh(fh))
        if isinstance(info, int):
            return info
        self._set_fsinfo(info.value)
        paths = call(PROC_PATHCONF, encode_fh(fh))
        if not isinstance(paths, int) and 0 < paths.value.name_max < self.dir.name_max:
            self.dir.name_max = paths.value.name_max
        root = self.dir.iget(fh, info.fattr)
        if not isinstance(root, int) and root.attr[:4] != NF3DIR.to_bytes(4, "big"):
            return -ENOTDIR
        return root

    def _set_fsinfo(self, info: FsInfo) -> None:
        """Fit what was asked for to what the server has (nfs_server_set_fsinfo())."""
        server = self.server
        payload = nfs_block_size(_MAX_UDP if self.options.proto == "udp" else 1 << 31)
        server.rsize = self._fit(self.options.rsize, info.rtpref, info.rtmax, payload)
        server.wsize = self._fit(self.options.wsize, info.wtpref, info.wtmax, payload)
        self.xprt.set_buffer_size(server.wsize, server.rsize)
        server.bdi.ra_pages = -(-server.rsize // PAGE_SIZE) * NFS_MAX_READAHEAD
        self.dir.dtsize = min(power_of_two(nfs_block_size(info.dtpref)), PAGE_SIZE, server.rsize)

    def _fit(self, wanted: int, preferred: int, most: int, payload: int) -> int:
        size = nfs_block_size(wanted or preferred)
        if most >= 512:  # a server that says less says nonsense
            size = min(size, nfs_block_size(most))
        return power_of_two(min(size, payload))

    def umount(self, *, close_files: bool = True) -> int:
        """Write what is left, close everything, tell the server: 0 or -errno. Swap files (-EINVAL here) and mapped files refuse.

        :param close_files: False: as umount(2), files that somebody has open make the mount busy (-EBUSY).
        """
        inodes = list(self.inodes.values()) + self.dir.stale
        if self.root is None or any(nfsi.inode.is_swapfile for nfsi in inodes):
            return -EINVAL
        if any(nfsi.mapping.i_mmap for nfsi in inodes) or (self.files and not close_files):
            return -EBUSY
        error = 0
        for nfsi in inodes:
            error = self.ops.fsync(nfsi) or error
        for file in list(self.files):
            self.close(file)
        self.dir.unlinker.wait()
        self._ask_mountd(PROC_UMNT, string(self.export))
        self.proc.vanish()
        self.dir.forget_all()
        self.dir.root = None
        self.client.rpc_shutdown_client()
        self.server.destroy()
        self.auth.destroy()
        return error

    # -- attributes ------------------------------------------------------------------------------------------------------------

    def getattr(self, nfsi: NfsInode, *, refresh: bool = True) -> Fattr3 | int:
        """Return the attributes of a file; ``refresh`` asks the server, else what is cached will do while it is good."""
        inodes = self.ops.inodes
        error = inodes.revalidate_now(nfsi) if refresh else inodes.nfs_revalidate_inode(nfsi)
        return error or nfsi.fattr

    def stat(self, nfsi: NfsInode) -> Fattr3 | int:
        """Return a file's attributes for a program: what is to be written goes out first, for its times (nfs_getattr())."""
        error = self.ops.fsync(nfsi)
        return error or self.getattr(nfsi, refresh=False)

    def setattr(
        self, nfsi: NfsInode, *, size: int | None = None, mode: int | None = None, uid: int | None = None, gid: int | None = None
    ) -> int:
        """Change the size, mode or owner of a file; what is written of it goes out first (nfs_setattr())."""
        if self.options.read_only:
            return -EROFS
        error = self.ops.fsync(nfsi)
        if error:
            return error
        packer = Packer()
        packer.pack_raw(nfsi.fh_wire)
        packer.pack_raw(sattr3(size=size, mode=mode, uid=uid, gid=gid))
        packer.pack_bool(False)
        result = self.dir.calls.call(PROC_SETATTR, packer.bytes())
        if isinstance(result, int):
            return result
        if size is not None:
            self.modules.file_io.vmtruncate(nfsi.mapping, size)
        return self.ops.inodes.nfs_post_op_update_inode(nfsi, result)

    def statfs(self) -> FsStat | int:
        """Tell how full the server's file system is (nfs_statfs())."""
        if self.root is None:
            return -EINVAL
        result = self.dir.calls.call(PROC_FSSTAT, self.root.fh_wire)
        if isinstance(result, int):
            return result
        self.ops.inodes.nfs_refresh_inode(self.root, result)
        full: FsStat = result.value
        return full

    # -- files -----------------------------------------------------------------------------------------------------------------

    def open(self, path: str, *, mode: int = FMODE_READ | FMODE_WRITE) -> File | int:
        """Open a file as the running task."""
        nfsi = self.lookup(path)
        if isinstance(nfsi, int):
            return nfsi
        ftype = int.from_bytes(nfsi.attr[:4], "big")
        if ftype != NF3REG:
            return -EISDIR if ftype == NF3DIR else -ENXIO
        if mode & FMODE_WRITE and self.options.read_only:
            return -EROFS
        current = self.kernel.sched.current
        ctx = self.ops.inodes.nfs_open(nfsi, current.uid, current.gid, mode)
        if ctx is None:
            return -ENOMEM
        cred = Cred(current.uid, current.gid)
        file = File(nfsi.inode, nfsi.mapping, cred, ctx, self.file_ops, f_path="/" + path.strip("/"))
        self.files.append(file)
        return file

    def close(self, file: File) -> int:
        """Write what is left of a file and close it: 0 or the error that a write met (nfs_file_flush(), nfs_file_release())."""
        if file not in self.files:
            return -EBADF
        nfsi: NfsInode = file.private_data.nfsi
        error = self.ops.fsync(nfsi)
        if not error and file.private_data.mode & FMODE_WRITE:
            self.ops.inodes.nfs_revalidate_inode(nfsi)
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

        The verifier tells whether the server has lived through a crash.
        """
        nfsi: NfsInode = file.private_data.nfsi
        packer = Packer()
        packer.pack_raw(nfsi.fh_wire)
        packer.pack_uhyper(pos)
        packer.pack_uint(count)
        result = self.dir.calls.call(PROC_COMMIT, packer.bytes())
        if isinstance(result, int):
            return result
        self.ops.inodes.nfs_post_op_update_inode(nfsi, result)
        return result.verf

    def make_swapfile(self, path: str, pages: int) -> File | int:
        """Make a file of ``pages`` pages with a swap header, and open it (dd and mkswap): a File for swapon(), or -errno."""
        nfsi = self.create(path)
        if isinstance(nfsi, int):
            return nfsi
        error = self.setattr(nfsi, size=pages << PAGE_SHIFT)
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
        for nfsi in [*self.inodes.values(), *self.dir.stale]:
            self.ops.inodes.check(nfsi)
            self.ops.write.commit.check(nfsi)
