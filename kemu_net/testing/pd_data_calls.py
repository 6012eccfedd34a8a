"""The calls of scripts that move data: write() to recvmsg().

Interface: :class:`DataCalls`, the base of pd_calls.Calls; :class:`Prepared` and :exc:`Mismatch`, which all calls share.

Rules of this file
    * What is written is fill() of its place in the stream, and what is read must be that of the peer's: a wrong byte is a failure.
    * A segment with URG takes a byte out of the stream: from then on that connection's bytes are not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import attrs

from kemu_net.core import uapi
from kemu_net.core.uapi import Msg, SockaddrIn
from kemu_net.testing.pd_args import ArgError, ArgUnsupported, address, iovec_sizes, number, size_of
from kemu_net.testing.pd_ast import Call, Dots, Expr, Items, Struct, Text
from kemu_net.testing.pd_wire import TCP, UDP, fill

if TYPE_CHECKING:
    from kemu_net.testing.pd_conn import Conn
    from kemu_net.testing.pd_host import Host
    from kemu_net.testing.pd_table import Conns

_DOTS: Final = Dots()


class Mismatch(Exception):  # what a call gave is not what the script says
    """The text says what was expected and what there was."""


@attrs.frozen
class Prepared:
    """One call, ready to be made."""

    run: Callable[[], Any]
    settle: Callable[[Any], int]


class DataCalls:
    """Calls that send and receive.

    :ivar fds: descriptor of the script -> of the machine.
    """

    def __init__(self, host: Host, conns: Conns) -> None:
        self.host = host
        self.sockets = host.sockets
        self.conns = conns
        self.fds: dict[int, int] = {}

    def _fd(self, expr: Expr) -> int:
        """Give the machine's descriptor."""
        script = number(expr)
        return self.fds.get(script, script)

    # sending

    def _sending(self, fd: Expr, pieces: list[bytes | int], flags: int, addr: SockaddrIn | None) -> Prepared:
        """Send so many bytes, or these."""
        live = self._fd(fd)
        conn = self.conns.by_fd.get(live)
        stream = conn is not None and conn.proto == TCP

        def run() -> int:
            at = conn.written if conn is not None and stream else 0
            made = b""
            for piece in pieces:
                made += piece if isinstance(piece, bytes) else fill(at + len(made), piece)
            return self.sockets.sendto(live, made, flags, addr)

        def settle(result: int) -> int:
            if conn is not None and stream and result > 0:
                conn.written += result
                conn.compares = conn.compares and not any(isinstance(piece, bytes) for piece in pieces)
            return result

        return Prepared(run, settle)

    def _piece(self, buffer: Expr, size: Expr) -> bytes | int:
        count = size_of(size)
        if isinstance(buffer, Text):
            return buffer.value.encode().ljust(count, b"\0")[:count]
        if not isinstance(buffer, Dots):
            number(buffer)
            raise ArgError("a buffer is written ... or as a string")
        return count

    def _call_write(self, _call: Call, fd: Expr, buffer: Expr, size: Expr) -> Prepared:
        return self._sending(fd, [self._piece(buffer, size)], 0, None)

    def _call_writev(self, _call: Call, fd: Expr, buffers: Expr, _count: Expr) -> Prepared:
        return self._sending(fd, [*iovec_sizes(buffers)], 0, None)

    def _call_send(self, _call: Call, fd: Expr, buffer: Expr, size: Expr, flags: Expr) -> Prepared:
        return self._sending(fd, [self._piece(buffer, size)], number(flags), None)

    def _call_sendto(self, _call: Call, fd: Expr, buffer: Expr, size: Expr, flags: Expr, name: Expr, _size: Expr) -> Prepared:
        return self._sending(fd, [self._piece(buffer, size)], number(flags), self._target(fd, name))

    def _target(self, fd: Expr, name: Expr) -> SockaddrIn | None:
        """Give where a datagram goes."""
        conn = self.conns.by_fd.get(self._fd(fd))
        config = self.host.config
        addr = address(name, SockaddrIn(config.remote_ip, config.connect_port))
        if conn is not None and conn.proto == UDP and addr is not None and not conn.remote_port:
            conn.remote_ip, conn.remote_port = addr.addr, addr.port
        return addr

    def _msghdr(self, expr: Expr) -> tuple[Struct, list[int]]:
        """Read ``{msg_name(...)=..., msg_iov(1)=[{..., 10}], msg_flags=0}``."""
        if not isinstance(expr, Struct) or expr.get("msg_iov") is None:
            raise ArgError("a message header with msg_iov expected")
        control = expr.get("msg_control")
        if isinstance(control, Items) and control.items:
            raise ArgUnsupported("control messages (msg_control) are not supported")
        buffers = expr.get("msg_iov")
        assert buffers is not None
        return expr, iovec_sizes(buffers)

    def _call_sendmsg(self, _call: Call, fd: Expr, message: Expr, flags: Expr) -> Prepared:
        header, sizes = self._msghdr(message)
        conn = self.conns.by_fd.get(self._fd(fd))
        datagram = conn is not None and conn.proto == UDP
        return self._sending(fd, [*sizes], number(flags), self._target(fd, header.get("msg_name") or Dots()) if datagram else None)

    # receiving

    def _receiving(self, fd: Expr, size: int, flags: int, check: Callable[[Msg], None] | None = None) -> Prepared:
        """Receive up to so many bytes, and compare them with what the peer sent."""
        live = self._fd(fd)
        conn = self.conns.by_fd.get(live)

        def settle(raw: Msg | int) -> int:
            if isinstance(raw, int):
                return raw
            if conn is not None:
                _compare(conn, raw, flags)
            if check is not None:
                check(raw)
            return raw.length if flags & uapi.MSG_TRUNC else len(raw.data)

        return Prepared(lambda: self.sockets.recvmsg(live, size, flags), settle)

    def _buffer(self, buffer: Expr) -> None:
        if not isinstance(buffer, Dots | Text):
            number(buffer)

    def _call_read(self, _call: Call, fd: Expr, buffer: Expr, size: Expr) -> Prepared:
        self._buffer(buffer)
        count = size_of(size)
        if not count:
            live = self._fd(fd)
            return Prepared(lambda: self.sockets.read(live, 0), lambda raw: raw if isinstance(raw, int) else len(raw))
        return self._receiving(fd, count, 0)

    def _call_readv(self, _call: Call, fd: Expr, buffers: Expr, _count: Expr) -> Prepared:
        return self._receiving(fd, sum(iovec_sizes(buffers)), 0)

    def _call_recv(self, _call: Call, fd: Expr, buffer: Expr, size: Expr, flags: Expr) -> Prepared:
        self._buffer(buffer)
        return self._receiving(fd, size_of(size), number(flags))

    def _call_recvfrom(
        self, call: Call, fd: Expr, buffer: Expr, size: Expr, flags: Expr, _name: Expr = _DOTS, _size: Expr = _DOTS
    ) -> Prepared:
        return self._call_recv(call, fd, buffer, size, flags)

    def _call_recvmsg(self, _call: Call, fd: Expr, message: Expr, flags: Expr) -> Prepared:
        header, sizes = self._msghdr(message)
        expected = header.get("msg_flags")

        def check(msg: Msg) -> None:
            if expected is not None and not isinstance(expected, Dots) and number(expected) != msg.flags:
                raise Mismatch(f"msg_flags is {msg.flags:#x}, not {number(expected):#x}")

        return self._receiving(fd, sum(sizes), number(flags), check)


def _compare(conn: Conn, msg: Msg, flags: int) -> None:
    """Compare what was read with what the peer sent there."""
    start = conn.received if conn.proto == TCP else 0
    if conn.compares and msg.data != fill(start, len(msg.data)):
        wrong = next(at for at, (got, sent) in enumerate(zip(msg.data, fill(start, len(msg.data)), strict=True)) if got != sent)
        raise Mismatch(f"byte {start + wrong} of what was read is not the one that the peer sent there")
    if conn.proto == TCP and not flags & uapi.MSG_PEEK:
        conn.received += len(msg.data)
