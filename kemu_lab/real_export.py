"""An export of a real NFS server, seen from outside of the emulated machines: what is there, and what it holds.

Interface: :class:`RealExport`, a context manager: ``exists(name)``, ``read(name, offset, count)``, ``remove(name)``.

Rules of this file
    * Plain calls over a real socket, one at a time, as root. Nothing of the emulated client takes part, so that what it wrote is
      judged by somebody else.
    * A server that cannot be used is a :exc:`ConfigError`: the person named it.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kemu.errors import ConfigError
from kemu.kernel.errno import ENOENT
from kemu_nfs.nfs.nfs3xdr import PROC_READ, ReadArgs, encode_fh
from kemu_nfs.nfs.nfs3xdr_names import PROC_LOOKUP, PROC_MNT, PROC_REMOVE, PROC_UMNT
from kemu_nfs.server.record_marking import RecordReader, frame
from kemu_nfs.sunrpc.auth import auth_sys_body
from kemu_nfs.sunrpc.rpc_const import MOUNT_PROGRAM, MOUNT_VERSION, NFS_PROGRAM, NFS_VERSION, RPC_AUTH_UNIX
from kemu_nfs.sunrpc.rpc_msg import REPLY_OK, call_header, decode_reply
from kemu_nfs.sunrpc.xdr import Packer, XdrError

if TYPE_CHECKING:
    from kemu_lab.server_url import ServerUrl
    from kemu_nfs.nfs.nfs3xdr import Nfs3Result
    from kemu_nfs.sunrpc.rpc_task import RpcProc

TIMEOUT_S = 10.0
MAX_REPLY = 1 << 21
CHUNK = 1 << 18


def _text(text: str) -> bytes:
    """Write a string."""
    packer = Packer()
    packer.pack_string(text)
    return packer.bytes()


def _root() -> bytes:
    """Write the credential of root, and no verifier."""
    packer = Packer()
    packer.pack_uint(RPC_AUTH_UNIX)
    packer.pack_opaque(auth_sys_body(0, "kemu-lab", 0, 0))
    return packer.bytes() + bytes(8)


class _Program:
    """A connection to one program of the server."""

    def __init__(self, url: ServerUrl, port: int, program: int, version: int) -> None:
        self.url = url
        self.port = port
        self.program = program
        self.version = version
        self.xid = 0x6B656D75
        self._connect()

    def _connect(self) -> None:
        """Connect, or connect again."""
        self.reader = RecordReader(MAX_REPLY)
        try:
            self.sock = socket.create_connection((self.url.host, self.port), timeout=TIMEOUT_S)
        except OSError as error:
            where = f"port {self.port} of {self.url.host}"
            raise ConfigError(f"--server {self.url.text}: {where}: {error.strerror or error}") from None

    def call(self, proc: RpcProc, args: Any) -> Nfs3Result:
        """Call and wait for the reply."""
        self.xid += 1
        head, _, tail = proc.encode(args)
        message = call_header(self.xid, self.program, self.version, proc.number, _root()) + head + tail
        try:
            reply = self._exchange(message)
        except OSError:  # it was started again, perhaps, since we called last
            self.sock.close()
            self._connect()
            try:
                reply = self._exchange(message)
            except OSError as error:
                raise ConfigError(f"--server {self.url.text}: {proc.name}: {error.strerror or error}") from None
        verdict, offset = decode_reply(reply)
        if verdict != REPLY_OK or int.from_bytes(reply[:4], "big") != self.xid:
            raise ConfigError(f"--server {self.url.text}: it does not speak NFS version 3: {proc.name} was refused")
        try:
            result: Nfs3Result = proc.decode(reply, offset, args)
        except XdrError as error:
            raise ConfigError(f"--server {self.url.text}: its answer to {proc.name} cannot be read: {error}") from None
        return result

    def _exchange(self, message: bytes) -> bytes:
        """Send a call and read one record."""
        self.sock.sendall(frame(message))
        while True:
            data = self.sock.recv(CHUNK)
            if not data:
                raise OSError("the server closed the connection")
            records = self.reader.feed(data)
            if self.reader.broken is not None:
                raise OSError(self.reader.broken)
            if records:
                return records[0]


class RealExport:
    """One export, mounted by plain calls."""

    def __init__(self, url: ServerUrl) -> None:
        self.url = url
        mountd = _Program(url, url.mountport, MOUNT_PROGRAM, MOUNT_VERSION)
        try:
            root = mountd.call(PROC_MNT, _text(url.export))
            if root.status or root.fh is None:
                raise ConfigError(f"--server {url.text}: it does not export {url.export} to us (error {-root.status})")
            mountd.call(PROC_UMNT, _text(url.export))
        finally:
            mountd.sock.close()
        self.root = root.fh
        self.nfs = _Program(url, url.port, NFS_PROGRAM, NFS_VERSION)
        self._handles: dict[str, bytes] = {}

    def _lookup(self, name: str) -> bytes | None:
        """Find a file of the export; None if there is none."""
        if name not in self._handles:
            result = self.nfs.call(PROC_LOOKUP, encode_fh(self.root) + _text(name))
            if result.status == -ENOENT:
                return None
            if result.status or result.fh is None:
                raise ConfigError(f"--server {self.url.text}: {name} cannot be looked up (error {-result.status})")
            self._handles[name] = result.fh
        return self._handles[name]

    def exists(self, name: str) -> bool:
        """Tell whether the export has a file of that name."""
        return self._lookup(name) is not None

    def read(self, name: str, offset: int, count: int) -> bytes:
        """Read from a file; nothing if it is not there."""
        handle = self._lookup(name)
        if handle is None:
            return b""
        result = self.nfs.call(PROC_READ, ReadArgs(encode_fh(handle), offset, count))
        if result.status:
            raise ConfigError(f"--server {self.url.text}: {name} cannot be read (error {-result.status})")
        return bytes(result.data)

    def remove(self, name: str) -> bool:
        """Remove a file; tell whether it is gone now."""
        self._handles.pop(name, None)
        result = self.nfs.call(PROC_REMOVE, encode_fh(self.root) + _text(name))
        return result.status in (0, -ENOENT)

    def close(self) -> None:
        """End the connection."""
        self.nfs.sock.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the connection."""
        self.close()
