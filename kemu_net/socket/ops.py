"""What a descriptor refers to, and what a kind of socket can do (2.6.23 include/linux/net.h, net/core/sock.c: sock_no_*()).

Interface
    Socket        struct socket with the flags of its struct file
    ProtoOps      struct proto_ops: the table that each kind of socket fills in; what it leaves out is refused as sock_no_*() do
    Family        struct net_proto_family: makes sockets

Rules
    * Results are those of the system calls: a negative errno, or 0, or what was asked for.
    * ``nonblock`` is O_NONBLOCK of the file or MSG_DONTWAIT of the call.
"""

from __future__ import annotations

from typing import Any, Protocol

from kemu.kernel.errno import ENOIOCTLCMD, EOPNOTSUPP
from kemu_net.core.uapi import Msg, SockaddrIn, SockaddrLl

# socket_state
SS_UNCONNECTED = 1
SS_CONNECTING = 2
SS_CONNECTED = 3
SS_DISCONNECTING = 4

Address = SockaddrIn | SockaddrLl


class Socket:
    """``struct socket``.

    :ivar state: SS_UNCONNECTED ... what the program knows of the connection; sk.sk_state is what the protocol knows.
    :ivar f_flags: flags of the file: O_NONBLOCK, O_APPEND.
    """

    __slots__ = ("f_flags", "ops", "sk", "state", "type")

    def __init__(self, kind: int, ops: ProtoOps, sk: Any) -> None:
        self.type = kind
        self.ops = ops
        self.sk: Any = sk
        self.state = SS_UNCONNECTED
        self.f_flags = 0
        sk.sk_socket = self
        sk.sk_type = kind

    def __repr__(self) -> str:
        """Name the socket behind it."""
        return f"<socket type {self.type} state {self.state} of {self.sk!r}>"


class Family(Protocol):
    """``struct net_proto_family``."""

    def create(self, kind: int, protocol: int) -> Socket | int:
        """Make a socket of this family, or give a negative errno."""


class ProtoOps:
    """``struct proto_ops`` of a socket that can do nothing."""

    def release(self, sock: Socket) -> None:
        """Close it."""
        raise NotImplementedError

    def bind(self, sock: Socket, addr: Address) -> int:
        """Choose the own address."""
        return -EOPNOTSUPP

    def connect(self, sock: Socket, addr: Address, nonblock: bool) -> int:
        """Choose the peer."""
        return -EOPNOTSUPP

    def accept(self, sock: Socket, nonblock: bool) -> Socket | int:
        """Take a connection from a listener."""
        return -EOPNOTSUPP

    def listen(self, sock: Socket, backlog: int) -> int:
        """Let others connect."""
        return -EOPNOTSUPP

    def shutdown(self, sock: Socket, how: int) -> int:
        """Close one direction or both."""
        return -EOPNOTSUPP

    def getname(self, sock: Socket, peer: int) -> Address | int:
        """Give the own address (0) or the peer's (1); 2: also the peer's of a connection that ended before it was accepted."""
        return -EOPNOTSUPP

    def poll(self, sock: Socket) -> int:
        """Tell what the socket is ready for."""
        return 0

    def ioctl(self, sock: Socket, cmd: int) -> int:
        """Answer a question of the protocol's."""
        return -ENOIOCTLCMD

    def keepalive(self, sock: Socket, on: bool) -> None:
        """Hear that SO_KEEPALIVE is about to be set."""

    def setsockopt(self, sock: Socket, level: int, optname: int, value: Any) -> int:
        """Set an option above SOL_SOCKET."""
        return -EOPNOTSUPP

    def getsockopt(self, sock: Socket, level: int, optname: int) -> tuple[int, Any]:
        """Give (0, value) of an option above SOL_SOCKET, or (-errno, None)."""
        return -EOPNOTSUPP, None

    def sendmsg(self, sock: Socket, data: bytes, name: Address | None, flags: int, nonblock: bool) -> int:
        """Send; give the bytes taken."""
        return -EOPNOTSUPP

    def recvmsg(self, sock: Socket, size: int, flags: int, nonblock: bool) -> Msg | int:
        """Receive up to ``size`` bytes."""
        return -EOPNOTSUPP


def as_int(value: Any) -> int | None:
    """Give the int of an option's value as a program passes it; None when the value is shorter than an int."""
    if isinstance(value, bytes):
        return int.from_bytes(value[:4], "little", signed=True) if len(value) >= 4 else None
    if isinstance(value, int):
        return (value + (1 << 31)) % (1 << 32) - (1 << 31)
    return None
