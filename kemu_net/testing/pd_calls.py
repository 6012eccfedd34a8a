"""The system calls of scripts, as calls of kemu's sockets.

Interface: ``Calls(host, conns)``; ``prepare(call) -> Prepared``: ``run()`` is made by the machine's task, ``settle(raw)`` looks at
what it gave and returns the result as the script counts it.

Rules of this file
    * A descriptor of the script stands for the one that the machine gave when the script expected that number.
    * Each method ``_call_NAME`` reads the arguments of one call; those that move data stand in pd_data_calls.py.
    * kemu's own: memalloc(fd) makes a socket one that carries swap, squeeze() takes all memory that GFP_ATOMIC can get, release()
      gives it back.
"""

from __future__ import annotations

from typing import Any, Final

from kemu.kernel.errno import EBADF
from kemu_net.core import uapi
from kemu_net.core.uapi import SockaddrIn
from kemu_net.socket.poll import PollFd
from kemu_net.testing.pd_args import ArgError, ArgUnsupported, address, number, only, option_value
from kemu_net.testing.pd_ast import Call, Dots, Expr, Items, Number, Struct
from kemu_net.testing.pd_data_calls import DataCalls, Mismatch, Prepared
from kemu_net.testing.pd_wire import TCP, UDP

_OTHERS: Final = frozenset(
    """
    accept4 epoll_create epoll_create1 epoll_ctl epoll_wait open pipe splice sendfile sendmmsg recvmmsg select pselect ppoll dup
    dup2 socketpair usleep cap_set getpeername getsockname vmsplice tee mmap fork sctp_sendmsg sctp_recvv sctp_bindx gettid kill
    """.split()  # noqa: SIM905  # a table for people
)

_ZERO: Final = Number(0)


def _as_it_is(raw: Any) -> int:
    """Take the result of a call that gives a number."""
    return int(raw)


class Calls(DataCalls):
    """Makes system calls of a script."""

    def prepare(self, call: Call) -> Prepared:
        """Read the arguments of a call."""
        maker = getattr(self, f"_call_{call.name}", None)
        if maker is None:
            if call.name in _OTHERS:
                raise ArgUnsupported(f"the system call {call.name}() is not supported")
            raise ArgUnsupported(f"there is no system call {call.name}()")
        most = maker.__func__.__code__.co_argcount - 2  # without self and the call
        least = most - len(maker.__func__.__defaults__ or ())
        if not least <= len(call.args) <= most:
            raise ArgError(f"{call.name}() takes {most} arguments, not {len(call.args)}")
        prepared: Prepared = maker(call, *call.args)
        return prepared

    # life

    def _new_fd(self, call: Call, fd: int) -> int:
        """Connect the number that the script expects with the one that the machine gave."""
        if fd < 0:
            return fd
        expected = call.result
        if isinstance(expected, Number) and expected.value >= 0:
            self.fds[expected.value] = fd
            return expected.value
        return fd

    def _call_socket(self, call: Call, family: Expr, kind: Expr, protocol: Expr) -> Prepared:
        domain = uapi.AF_INET if isinstance(family, Dots) else number(family)
        type_, proto = number(kind), number(protocol)

        def settle(fd: int) -> int:
            if fd >= 0:
                self.conns.socket(fd, {uapi.SOCK_STREAM: TCP, uapi.SOCK_DGRAM: UDP}.get(type_, proto))
            return self._new_fd(call, fd)

        return Prepared(lambda: self.sockets.socket(domain, type_, proto), settle)

    def _call_bind(self, _call: Call, fd: Expr, name: Expr, _size: Expr) -> Prepared:
        live = self._fd(fd)
        config = self.host.config
        addr = address(name, SockaddrIn(config.local_ip, config.bind_port))
        if addr is None:
            raise ArgUnsupported("bind() without an address is not supported")

        def settle(result: int) -> int:
            conn = self.conns.by_fd.get(live)
            if conn is not None and not result:
                own = self.sockets.getsockname(live)
                conn.local_port = own.port if isinstance(own, SockaddrIn) else addr.port
            return result

        return Prepared(lambda: self.sockets.bind(live, addr), settle)

    def _call_listen(self, _call: Call, fd: Expr, backlog: Expr) -> Prepared:
        live, size = self._fd(fd), number(backlog)

        def settle(result: int) -> int:
            conn = self.conns.by_fd.get(live)
            if conn is not None and not result:
                conn.listening = True
            return result

        return Prepared(lambda: self.sockets.listen(live, size), settle)

    def _call_accept(self, call: Call, fd: Expr, _name: Expr, _size: Expr) -> Prepared:
        live = self._fd(fd)

        def settle(raw: tuple[int, Any]) -> int:
            new, peer = raw
            if new >= 0 and isinstance(peer, SockaddrIn):
                self.conns.accepted(new, peer.addr, peer.port)
            return self._new_fd(call, new)

        return Prepared(lambda: self.sockets.accept(live), settle)

    def _call_connect(self, _call: Call, fd: Expr, name: Expr, _size: Expr) -> Prepared:
        live = self._fd(fd)
        config = self.host.config
        addr = address(name, SockaddrIn(config.remote_ip, config.connect_port))
        if addr is None:
            raise ArgUnsupported("connect() without an address is not supported")

        def run() -> int:
            self.conns.connecting(live, addr.addr, addr.port)
            return self.sockets.connect(live, addr)

        def settle(result: int) -> int:
            conn = self.conns.by_fd.get(live)
            own = self.sockets.getsockname(live)
            if conn is not None and isinstance(own, SockaddrIn) and own.port:
                conn.local_port = own.port
            return result

        return Prepared(run, settle)

    def _call_close(self, _call: Call, fd: Expr) -> Prepared:
        live = self._fd(fd)

        def settle(result: int) -> int:
            if not result:
                self.conns.closed(live)
            return result

        return Prepared(lambda: self.sockets.close(live), settle)

    def _call_shutdown(self, _call: Call, fd: Expr, how: Expr) -> Prepared:
        live, direction = self._fd(fd), number(how)
        return Prepared(lambda: self.sockets.shutdown(live, direction), _as_it_is)

    # options and questions

    def _call_setsockopt(self, _call: Call, fd: Expr, level: Expr, name: Expr, value: Expr, size: Expr) -> Prepared:
        live, where, which = self._fd(fd), number(level), number(name)
        length = None if isinstance(size, Dots) else number(size)
        what = option_value(value, length)
        return Prepared(lambda: self.sockets.setsockopt(live, where, which, what), _as_it_is)

    def _call_getsockopt(self, _call: Call, fd: Expr, level: Expr, name: Expr, value: Expr, _size: Expr) -> Prepared:
        live, where, which = self._fd(fd), number(level), number(name)
        expected = None if isinstance(only(value), Dots) else option_value(value, None)

        def settle(raw: tuple[int, Any]) -> int:
            error, found = raw
            if not error and expected is not None:
                if isinstance(found, bytes | str) and isinstance(expected, bytes):
                    same = (found.encode() if isinstance(found, str) else found).rstrip(b"\0") == expected
                else:
                    same = found == expected
                if not same:
                    raise Mismatch(f"the option's value is {found!r}, not {expected!r}")
            return error

        return Prepared(lambda: self.sockets.getsockopt(live, where, which), settle)

    def _call_fcntl(self, _call: Call, fd: Expr, cmd: Expr, arg: Expr = _ZERO) -> Prepared:
        live, which, flags = self._fd(fd), number(cmd), number(arg)
        return Prepared(lambda: self.sockets.fcntl(live, which, flags), _as_it_is)

    def _call_ioctl(self, _call: Call, fd: Expr, cmd: Expr, arg: Expr) -> Prepared:
        live, which = self._fd(fd), number(cmd)
        expected = None if isinstance(only(arg), Dots) else number(only(arg))
        if which == uapi.FIONBIO:
            return Prepared(lambda: self.sockets.ioctl(live, which, expected or 0), _as_it_is)

        def settle(found: int) -> int:
            if found < 0:
                return found
            if expected is not None and found != expected:
                raise Mismatch(f"it gives {found}, not {expected}")
            return 0

        return Prepared(lambda: self.sockets.ioctl(live, which), settle)

    def _call_poll(self, _call: Call, fds: Expr, _count: Expr, timeout: Expr) -> Prepared:
        if not isinstance(fds, Items):
            raise ArgError("a list of descriptors expected: [{fd=3, events=POLLIN}]")
        entries: list[PollFd] = []
        expected: list[int | None] = []
        for item in fds.items:
            if not isinstance(item, Struct) or item.get("fd") is None or item.get("events") is None:
                raise ArgError("a descriptor is written {fd=3, events=POLLIN, revents=POLLIN}")
            entries.append(PollFd(self._fd(item.get("fd") or Number(-1)), number(item.get("events") or Number(0))))
            revents = item.get("revents")
            expected.append(None if isinstance(revents, Dots) else number(revents or Number(0)))
        wait = number(timeout)

        def settle(result: int) -> int:
            for entry, wanted in zip(entries, expected, strict=True):
                if wanted is not None and entry.revents != wanted:
                    raise Mismatch(f"revents of {entry.fd} is {entry.revents:#x}, not {wanted:#x}")
            return result

        return Prepared(lambda: self.sockets.poll(entries, wait), settle)

    # kemu's own

    def _call_memalloc(self, _call: Call, fd: Expr) -> Prepared:
        live = self._fd(fd)

        def run() -> int:
            sock = self.sockets.lookup(live)
            return -EBADF if sock is None else min(self.host.stack.socks.sk_set_memalloc(sock.sk), 0)

        return Prepared(run, _as_it_is)

    def _call_squeeze(self, _call: Call) -> Prepared:
        return Prepared(lambda: self.host.hog.hog() and 0, _as_it_is)

    def _call_release(self, _call: Call) -> Prepared:
        return Prepared(lambda: self.host.hog.release() and 0, _as_it_is)
