"""The system calls of sockets, and the descriptors of one process (2.6.23 net/socket.c, fs/fcntl.c, fs/ioctl.c).

Interface
    Sockets(kernel, socks, families)             the files of one process; NetStack.sockets() makes one
        socket, bind, listen, accept, connect, getsockname, getpeername, close, shutdown
        write, writev, send, sendto, sendmsg -> bytes taken, or a negative errno
        read, recv -> bytes; readv -> list of bytes; recvfrom -> (bytes, address); recvmsg -> Msg; or a negative errno
        setsockopt(fd, level, optname, value) -> 0 or a negative errno; getsockopt(...) -> (0, value) or (-errno, None)
        fcntl(fd, cmd, arg=0), ioctl(fd, cmd, arg=0), poll(fds, timeout)
        close_all()                              what exit() does
        lookup(fd) -> Socket or None             for who wants to look behind a descriptor

Rules
    * Descriptors 0, 1 and 2 are taken by files that are no sockets: they answer -ENOTSOCK. The lowest free number is given.
    * Addresses are SockaddrIn and SockaddrLl; times of poll() are milliseconds, negative for ever.
    * accept4(), SOCK_NONBLOCK and SOCK_CLOEXEC are younger (2.6.27, 2.6.28): the flags make the type unknown (-EINVAL).
    * A program cannot pass a bad pointer here, so nothing answers -EFAULT.
    * Left out: dup(), select(), epoll, sendfile(), splice(), signals, files that are no sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kemu.kernel.errno import EAFNOSUPPORT, EBADF, EINVAL, EMFILE, ENOIOCTLCMD, ENOTSOCK
from kemu_net.core import uapi
from kemu_net.core.uapi import Msg
from kemu_net.socket.ops import Address, Family, Socket
from kemu_net.socket.poll import PollFd, do_poll
from kemu_net.socket.sockopt import SockOpts

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.core.sock import Socks

__all__ = ["PollFd", "Sockets"]

SOMAXCONN = 128
NOFILE = 1024  # RLIMIT_NOFILE
_STDIO = 3  # descriptors that are no sockets
_SETFL = uapi.O_NONBLOCK | uapi.O_APPEND


class Sockets:
    """The descriptors of one process, and its system calls.

    :param families: address family to who makes its sockets (``net_families``).
    """

    def __init__(self, kernel: Kernel, socks: Socks, families: dict[int, Family]) -> None:
        self.sched = kernel.sched
        self.socks = socks
        self.families = families
        self.somaxconn = SOMAXCONN
        self._opts = SockOpts(socks)
        self._files: dict[int, Socket] = {}

    def lookup(self, fd: int) -> Socket | None:
        """Give the socket behind a descriptor."""
        return self._files.get(fd)

    def _find(self, fd: int) -> Socket | int:
        """Give the socket, or why there is none (``sockfd_lookup()``)."""
        sock = self._files.get(fd)
        if sock is not None:
            return sock
        return -ENOTSOCK if 0 <= fd < _STDIO else -EBADF

    def _install(self, sock: Socket) -> int:
        """Give the socket the lowest free descriptor (``sock_map_fd()``); without one it is closed again."""
        for fd in range(_STDIO, NOFILE):
            if fd not in self._files:
                self._files[fd] = sock
                return fd
        sock.ops.release(sock)
        return -EMFILE

    # life

    def socket(self, family: int, kind: int, protocol: int = 0) -> int:
        """Make a socket (``sys_socket()``): a descriptor or a negative errno."""
        if not 0 <= family < uapi.NPROTO:
            return -EAFNOSUPPORT
        if not 0 <= kind < uapi.SOCK_MAX:
            return -EINVAL
        if family == uapi.AF_INET and kind == uapi.SOCK_PACKET:
            family = uapi.AF_PACKET
        maker = self.families.get(family)
        if maker is None:
            return -EAFNOSUPPORT
        sock = maker.create(kind, protocol)
        return sock if isinstance(sock, int) else self._install(sock)

    def close(self, fd: int) -> int:
        """Close a descriptor (``sys_close()``)."""
        sock = self._files.pop(fd, None)
        if sock is None:
            return 0 if 0 <= fd < _STDIO else -EBADF
        sock.ops.release(sock)
        return 0

    def close_all(self) -> None:
        """Close all descriptors (``exit_files()``)."""
        for fd in list(self._files):
            self.close(fd)

    def bind(self, fd: int, addr: Address) -> int:
        """Choose the own address (``sys_bind()``)."""
        sock = self._find(fd)
        return sock if isinstance(sock, int) else sock.ops.bind(sock, addr)

    def listen(self, fd: int, backlog: int) -> int:
        """Let others connect (``sys_listen()``)."""
        sock = self._find(fd)
        if isinstance(sock, int):
            return sock
        if not 0 <= backlog <= self.somaxconn:
            backlog = self.somaxconn  # compared without sign
        return sock.ops.listen(sock, backlog)

    def accept(self, fd: int) -> tuple[int, Address | None]:
        """Take a connection (``sys_accept()``): (descriptor, the peer's address) or (-errno, None)."""
        sock = self._find(fd)
        if isinstance(sock, int):
            return sock, None
        new = sock.ops.accept(sock, self._nonblock(sock, 0))
        if isinstance(new, int):
            return new, None
        name = new.ops.getname(new, 2)
        fd = self._install(new)
        return fd, None if isinstance(name, int) or fd < 0 else name

    def connect(self, fd: int, addr: Address) -> int:
        """Choose the peer (``sys_connect()``)."""
        sock = self._find(fd)
        return sock if isinstance(sock, int) else sock.ops.connect(sock, addr, self._nonblock(sock, 0))

    def getsockname(self, fd: int) -> Address | int:
        """Give the own address (``sys_getsockname()``)."""
        sock = self._find(fd)
        return sock if isinstance(sock, int) else sock.ops.getname(sock, 0)

    def getpeername(self, fd: int) -> Address | int:
        """Give the peer's address (``sys_getpeername()``)."""
        sock = self._find(fd)
        return sock if isinstance(sock, int) else sock.ops.getname(sock, 1)

    def shutdown(self, fd: int, how: int) -> int:
        """Close one direction or both (``sys_shutdown()``)."""
        sock = self._find(fd)
        return sock if isinstance(sock, int) else sock.ops.shutdown(sock, how)

    # data

    def _nonblock(self, sock: Socket, flags: int) -> bool:
        return bool(sock.f_flags & uapi.O_NONBLOCK or flags & uapi.MSG_DONTWAIT)

    def write(self, fd: int, data: bytes) -> int:
        """Send without flags (``sys_write()``)."""
        return self.sendto(fd, data, 0, None)

    def writev(self, fd: int, pieces: list[bytes]) -> int:
        """Send several pieces as one (``sys_writev()``)."""
        return self.sendto(fd, b"".join(pieces), 0, None)

    def send(self, fd: int, data: bytes, flags: int = 0) -> int:
        """Send to the peer (``sys_send()``)."""
        return self.sendto(fd, data, flags, None)

    def sendto(self, fd: int, data: bytes, flags: int, addr: Address | None) -> int:
        """Send to an address (``sys_sendto()``)."""
        sock = self._find(fd)
        if isinstance(sock, int):
            return sock
        return sock.ops.sendmsg(sock, data, addr, flags, self._nonblock(sock, flags))

    def sendmsg(self, fd: int, pieces: list[bytes], addr: Address | None = None, flags: int = 0) -> int:
        """Send several pieces as one to an address (``sys_sendmsg()``); control messages are not built in."""
        return self.sendto(fd, b"".join(pieces), flags, addr)

    def recvmsg(self, fd: int, size: int, flags: int = 0) -> Msg | int:
        """Receive (``sys_recvmsg()``)."""
        sock = self._find(fd)
        if isinstance(sock, int):
            return sock
        return sock.ops.recvmsg(sock, size, flags, self._nonblock(sock, flags))

    def recvfrom(self, fd: int, size: int, flags: int = 0) -> tuple[bytes, Address | None] | int:
        """Receive and tell from whom (``sys_recvfrom()``)."""
        msg = self.recvmsg(fd, size, flags)
        return msg if isinstance(msg, int) else (msg.data, msg.name)

    def recv(self, fd: int, size: int, flags: int = 0) -> bytes | int:
        """Receive (``sys_recv()``)."""
        msg = self.recvmsg(fd, size, flags)
        return msg if isinstance(msg, int) else msg.data

    def read(self, fd: int, size: int) -> bytes | int:
        """Receive without flags (``sys_read()``): nothing is asked of the protocol for no bytes."""
        if not size:
            sock = self._find(fd)
            return sock if isinstance(sock, int) else b""
        return self.recv(fd, size)

    def readv(self, fd: int, sizes: list[int]) -> list[bytes] | int:
        """Receive into several buffers of these sizes (``sys_readv()``)."""
        data = self.read(fd, sum(sizes))
        if isinstance(data, int):
            return data
        pieces = []
        at = 0
        for size in sizes:
            pieces.append(data[at : at + size])
            at += size
        return pieces

    # options and questions

    def setsockopt(self, fd: int, level: int, optname: int, value: Any) -> int:
        """Set an option (``sys_setsockopt()``)."""
        sock = self._find(fd)
        if isinstance(sock, int):
            return sock
        if level == uapi.SOL_SOCKET:
            return self._opts.sock_setsockopt(sock, optname, value)
        return sock.ops.setsockopt(sock, level, optname, value)

    def getsockopt(self, fd: int, level: int, optname: int) -> tuple[int, Any]:
        """Give the value of an option (``sys_getsockopt()``): (0, value) or (-errno, None)."""
        sock = self._find(fd)
        if isinstance(sock, int):
            return sock, None
        if level == uapi.SOL_SOCKET:
            return self._opts.sock_getsockopt(sock, optname)
        return sock.ops.getsockopt(sock, level, optname)

    def fcntl(self, fd: int, cmd: int, arg: int = 0) -> int:
        """Read or set the flags of a file (``sys_fcntl()``)."""
        sock = self._files.get(fd)
        if sock is None:
            return -EBADF
        if cmd == uapi.F_GETFL:
            return uapi.O_RDWR | sock.f_flags
        if cmd == uapi.F_SETFL:
            sock.f_flags = arg & _SETFL
            return 0
        if cmd in (uapi.F_GETFD, uapi.F_SETFD):
            return 0  # there is no exec() to close it for
        return -EINVAL

    def ioctl(self, fd: int, cmd: int, arg: int = 0) -> int:
        """Ask the socket for a number (``sock_ioctl()``): it, or a negative errno."""
        sock = self._files.get(fd)
        if sock is None:
            return -EBADF
        if cmd == uapi.FIONBIO:
            sock.f_flags = sock.f_flags & ~uapi.O_NONBLOCK | (uapi.O_NONBLOCK if arg else 0)
            return 0
        answer = sock.ops.ioctl(sock, cmd)
        return -EINVAL if answer == -ENOIOCTLCMD else answer

    def poll(self, fds: list[PollFd], timeout: int) -> int:
        """Wait until a descriptor is ready (``sys_poll()``): how many are; their ``revents`` say for what."""
        return do_poll(self.sched, self._files, fds, timeout, _STDIO)
