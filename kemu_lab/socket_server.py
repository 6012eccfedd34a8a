"""An RPC server on real sockets: one loop, TCP and UDP, everything bounded.

Interface
    * ``SocketServer(rpc, address, ports)``: binds at once; ``ports`` says where. ``step(seconds)`` serves what is there;
      ``close()`` hangs up on everybody.

Rules of this file
    * No bytes from the network raise. A stream that is no sequence of records, or holds one that is too long, ends its connection;
      what a call asks is for RpcServer to judge.
    * Bounded: MAX_CONNECTIONS (who comes then is hung up on), one record and one read of bytes per connection, MAX_OUT bytes of
      replies; a connection whose replies nobody reads is not read from, and after IDLE seconds without a byte it is closed.
    * Fair: a connection has at most BURST calls executed before the others have their turn.
    * A call is executed at once and alone: a slow disk holds up everybody.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque

from kemu.errors import ConfigError
from kemu_nfs.server.record_marking import RecordReader
from kemu_nfs.server.rpc_server import RpcServer

MAX_CONNECTIONS = 64
MAX_RECORD = 32768 + 2048  # the longest WRITE and its head
MAX_OUT = 1 << 18
RECV_SIZE = 65536
MAX_DATAGRAM = 65507
BURST = 32
IDLE = 360.0  # svc_conn_age_period: six minutes
BACKLOG = 16

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Connection:
    """One client's TCP connection."""

    __slots__ = ("calls", "ending", "events", "out", "out_bytes", "peer", "reader", "sock", "touched")

    def __init__(self, sock: socket.socket, peer: int, now: float) -> None:
        self.sock = sock
        self.peer = peer
        self.reader = RecordReader(MAX_RECORD)
        self.calls: deque[bytes] = deque()
        self.out: deque[memoryview] = deque()
        self.out_bytes = 0
        self.events = READ  # what the selector waits for
        self.ending = False  # nothing more is read; it closes when all is answered
        self.touched = now

    def wanted(self) -> int:
        """Tell what to wait for."""
        reading = not (self.ending or self.calls or self.out_bytes >= MAX_OUT)
        return (READ if reading else 0) | (WRITE if self.out else 0)


class Listener:
    """A socket on which clients come, or a datagram socket."""

    __slots__ = ("is_tcp", "sock")

    def __init__(self, sock: socket.socket, *, is_tcp: bool) -> None:
        self.sock = sock
        self.is_tcp = is_tcp


def _bind(kind: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{address} port {port} cannot be listened on: {error.strerror}") from None
    return sock


class SocketServer:
    """A server on one address.

    :param ports: port 0 chooses a free one; each serves all programs, by TCP and UDP.
    """

    def __init__(self, rpc: RpcServer, address: str, ports: tuple[int, ...]) -> None:
        self.rpc = rpc
        self.selector = selectors.DefaultSelector()
        self.connections: dict[int, Connection] = {}  # by descriptor
        self._ready: dict[int, Connection] = {}  # those with calls that had to wait for their turn
        self._listeners: list[Listener] = []
        self._swept = time.monotonic()
        self.refused = 0
        try:
            self.ports = tuple(self._listen(address, port) for port in ports)
        except ConfigError:
            self.close()
            raise

    def _listen(self, address: str, port: int) -> int:
        """Listen for TCP and UDP on the same port."""
        tcp = _bind(socket.SOCK_STREAM, address, port)
        self._add(tcp, is_tcp=True)
        bound = int(tcp.getsockname()[1])
        self._add(_bind(socket.SOCK_DGRAM, address, bound), is_tcp=False)
        return bound

    def _add(self, sock: socket.socket, *, is_tcp: bool) -> None:
        listener = Listener(sock, is_tcp=is_tcp)
        self._listeners.append(listener)
        self.selector.register(sock, READ, listener)

    def close(self) -> None:
        """Hang up on everybody."""
        for conn in list(self.connections.values()):
            self._hang_up(conn)
        for listener in self._listeners:
            listener.sock.close()
        self.selector.close()

    def step(self, seconds: float) -> None:
        """Serve what is there; wait at most ``seconds`` for something."""
        for key, events in self.selector.select(0 if self._ready else seconds):
            served = key.data
            if isinstance(served, Connection):
                self._serve(served, events)
            elif served.is_tcp:
                self._accept(served.sock)
            else:
                self._datagrams(served.sock)
        ready, self._ready = self._ready, {}
        for conn in ready.values():
            self._serve(conn, 0)
        now = time.monotonic()
        if now - self._swept > IDLE / 10:
            self._swept = now
            for conn in [conn for conn in self.connections.values() if now - conn.touched > IDLE]:
                self._hang_up(conn)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, (host, _) = listener.accept()
        except OSError:
            return  # it has gone again, or there are no descriptors
        if len(self.connections) >= MAX_CONNECTIONS:
            self.refused += 1
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn = Connection(sock, int.from_bytes(socket.inet_aton(host), "big"), time.monotonic())
        self.connections[sock.fileno()] = conn
        self.selector.register(sock, READ, conn)

    def _hang_up(self, conn: Connection) -> None:
        fd = conn.sock.fileno()
        if self.connections.pop(fd, None) is not None:
            self._ready.pop(fd, None)
            if conn.events:
                self.selector.unregister(conn.sock)
            conn.sock.close()

    def _serve(self, conn: Connection, events: int) -> None:
        """Read, execute, answer: a turn of one connection."""
        if conn.sock.fileno() < 0:
            return
        try:
            if events & READ:
                self._read(conn)
            self._execute(conn)
            self._send(conn)
        except OSError:
            self._hang_up(conn)
            return
        if conn.ending and not conn.calls and not conn.out:
            self._hang_up(conn)
            return
        if conn.calls and conn.out_bytes < MAX_OUT:
            self._ready[conn.sock.fileno()] = conn
        self._wait_for(conn, conn.wanted())

    def _wait_for(self, conn: Connection, events: int) -> None:
        if events == conn.events:
            return
        if not conn.events:
            self.selector.register(conn.sock, events, conn)
        elif not events:
            self.selector.unregister(conn.sock)
        else:
            self.selector.modify(conn.sock, events, conn)
        conn.events = events

    @staticmethod
    def _read(conn: Connection) -> None:
        """Cut what came into calls; the end of the stream, or a broken one, is the end."""
        try:
            data = conn.sock.recv(RECV_SIZE)
        except BlockingIOError:
            return
        conn.touched = time.monotonic()
        conn.calls.extend(conn.reader.feed(data))
        conn.ending = not data or conn.reader.broken is not None

    def _execute(self, conn: Connection) -> None:
        """Execute some of the calls that wait."""
        for _ in range(BURST):
            if not conn.calls or conn.out_bytes >= MAX_OUT:
                return
            record = self._answer(conn.calls.popleft(), conn.peer)
            if record:
                conn.out.append(memoryview(record))
                conn.out_bytes += len(record)

    def _answer(self, call: bytes, peer: int) -> bytes:
        """Execute one call; b"" if there is nothing to say."""
        answer = self.rpc.handle(call, time.monotonic_ns(), peer)
        if answer is None:
            return b""
        self.rpc.finish(answer)
        return answer.record

    @staticmethod
    def _send(conn: Connection) -> None:
        """Send what the connection takes."""
        while conn.out:
            try:
                sent = conn.sock.send(conn.out[0])
            except BlockingIOError:
                return
            conn.touched = time.monotonic()
            conn.out_bytes -= sent
            if sent == len(conn.out[0]):
                conn.out.popleft()
            else:
                conn.out[0] = conn.out[0][sent:]

    def _datagrams(self, sock: socket.socket) -> None:
        """Answer some datagrams; a reply that does not go is lost, and the client asks again."""
        for _ in range(BURST):
            try:
                call, (host, port) = sock.recvfrom(RECV_SIZE)
                record = self._answer(call, int.from_bytes(socket.inet_aton(host), "big"))
                if 4 < len(record) <= MAX_DATAGRAM + 4:
                    sock.sendto(memoryview(record)[4:], (host, port))
            except OSError:
                return
