"""The far end of the wire as a gateway: emulated TCP connections end here, and real ones to a real NFS server begin.

Interface
    Gateway(kernel, tcp, url, ip)    ``start()``, ``stop()``, as kemu's own server has them; ``close()`` at the end

Rules of this file
    * Virtual time waits for the real answer. While the real server owes a reply the emulated world stands still, ``PATIENCE_S`` at
      most; the reply then enters the emulated connection ``ANSWER_NS`` later. So no figure of a run depends on how fast the real
      server is. What still differs from run to run are bytes: file handles, times, the write verifier.
    * A server that says nothing for that long is silent for the machine too: virtual time goes on, and every ``LOOK_NS`` of it the
      gateway looks whether something has come.
    * The stream is passed on as it is, whatever it says. Only the record marks are read, to know how many replies are owed.
    * A connection that one side ends is ended on the other: an orderly end by FIN, anything else by a reset. A real server that
      does not let us connect looks like one whose process dies at accept().
    * One real reply at a time: the emulated machine sees its calls answered in the order in which the server chose to answer them.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from kemu.kernel.wait import WaitQueue
from kemu_net.core.sock import SHUTDOWN_MASK
from kemu_net.ipv4.tcp_sock import TcpSock
from kemu_nfs.server.record_marking import LAST_FRAGMENT
from kemu_nfs.sunrpc.rpc_const import MOUNT_PORT, NFS_PORT

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_lab.server_url import ServerUrl
    from kemu_net.ipv4.tcp import Tcp

PATIENCE_S = 20.0
CONNECT_S = 5.0
ANSWER_NS = 1_000_000  # a server that takes 1 ms for a call, like kemu's own for a stable write
LOOK_NS = 100_000_000
RETRY_NS = 100_000_000
CHUNK = 1 << 18
WHY = ("server", "the gateway")


class RecordCounter:
    """Counts the messages of a stream by their marks, and keeps none of their bytes.

    :ivar whole: messages that are complete.
    """

    __slots__ = ("_head", "_last", "_left", "whole")

    def __init__(self) -> None:
        self.whole = 0
        self._head = b""  # of a mark that is not complete
        self._left = 0  # bytes of the fragment that are still to come
        self._last = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        at = 0
        size = len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
            else:
                step = min(4 - len(self._head), size - at)
                self._head += data[at : at + step]
                at += step
                if len(self._head) < 4:
                    return
                mark = int.from_bytes(self._head, "big")
                self._head = b""
                self._left = mark & (LAST_FRAGMENT - 1)
                self._last = mark >= LAST_FRAGMENT
            if not self._left and self._last:
                self.whole += 1
                self._last = False


class Passage:
    """One emulated connection and the real one that belongs to it.

    :ivar patience: how long the world may stand still for the next reply, in seconds of real time.
    """

    def __init__(self, sk: TcpSock, real: socket.socket) -> None:
        self.sk = sk
        self.real = real
        self.calls = RecordCounter()
        self.answers = RecordCounter()
        self.work = WaitQueue("gateway")
        self.patience = PATIENCE_S
        self.closed = False
        self.reset = False

    @property
    def owed(self) -> bool:
        """Tell whether the real server owes a reply."""
        return self.answers.whole < self.calls.whole

    def something(self) -> bool:
        """Tell whether who brings replies has something to do."""
        return self.closed or self.owed


class Gateway:
    """The gateway's program on the machine at the far end.

    :ivar silences: how often the real server let the world wait in vain.
    """

    def __init__(self, kernel: Kernel, tcp: Tcp, url: ServerUrl, ip: int) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.tcp = tcp
        self.url = url
        self.ip = ip
        self.life = 0
        self.running = False
        self.listeners: list[TcpSock] = []
        self.passages: list[Passage] = []
        self.refused = 0
        self.silences = 0
        self.calls = 0
        self.answers = 0
        kernel.judge.explainers["server"] = self.explain

    def explain(self, _obj: object) -> tuple[str, None]:
        """Tell what the gateway is doing, for who waits for it."""
        owed = sum(passage.calls.whole - passage.answers.whole for passage in self.passages)
        return f"the gateway to {self.url.host}:{self.url.port}: {len(self.passages)} connections, {owed} replies owed", None

    def start(self) -> None:
        """Listen on both ports. Does nothing if it runs."""
        if self.running:
            return
        self.running = True
        self.life += 1
        life = self.life
        for port, real in ((NFS_PORT, self.url.port), (MOUNT_PORT, self.url.mountport)):
            # bound early
            self.sched.spawn("gateway", lambda port=port, real=real: self._listen(port, real, life))  # type: ignore[misc]

    def stop(self) -> None:
        """Refuse connects from now on and hang up on everybody, as a server whose service was stopped."""
        if not self.running:
            return
        self.running = False
        self.life += 1
        self.sched.spawn("gateway-end", self._close_all)

    def close(self) -> None:
        """Close the real connections, when the world is over."""
        for passage in self.passages:
            passage.real.close()

    def _close_all(self) -> None:
        for listener in self.listeners:
            self.tcp.close(listener)
        self.listeners.clear()
        for passage in list(self.passages):
            self._hang_up(passage, reset=False)

    # the tasks

    def _listen(self, port: int, real: int, life: int) -> None:
        """Accept connections on one port."""
        tcp = self.tcp
        sk = tcp.sock_create()
        assert sk is not None, "the far end has memory enough"
        sk.sk_reuse = True
        while tcp.bind(sk, self.ip, port) or tcp.listen(sk, 64):
            self.sched.usleep(RETRY_NS, WHY)
        self.listeners.append(sk)
        while life == self.life:
            child = tcp.accept(sk)
            if isinstance(child, TcpSock):
                self._adopt(child, real)
            elif life == self.life:
                self.sched.usleep(RETRY_NS, WHY)

    def _adopt(self, sk: TcpSock, port: int) -> None:
        """Connect to the real server for a new emulated connection, or end that."""
        try:
            real = socket.create_connection((self.url.host, port), timeout=CONNECT_S)
        except OSError as error:
            self.refused += 1
            self.kernel.printk.ratelimited("gateway", f"gateway: {self.url.host}:{port}: {error}")
            self.tcp.abort(sk)
            return
        real.settimeout(PATIENCE_S)
        real.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sk.nonagle = 1
        passage = Passage(sk, real)
        self.passages.append(passage)
        self.sched.spawn("gateway-up", lambda: self._up(passage))
        self.sched.spawn("gateway-down", lambda: self._down(passage))

    def _up(self, passage: Passage) -> None:
        """Carry what the emulated machine says to the real server; end the connection when one side has."""
        while not passage.closed:
            data = self.tcp.recvmsg(passage.sk, CHUNK)
            if not isinstance(data, bytes) or not data or passage.closed:
                break
            before = passage.calls.whole
            try:
                passage.real.sendall(data)
            except OSError:
                passage.reset = True
                break
            passage.calls.feed(data)
            self.calls += passage.calls.whole - before
            if passage.calls.whole > before:
                self.sched.wake_up(passage.work)
        passage.closed = True
        self.passages.remove(passage)
        passage.real.close()
        self.sched.wake_up(passage.work)
        if passage.reset:
            self.tcp.abort(passage.sk)
        else:
            self.tcp.close(passage.sk)

    def _down(self, passage: Passage) -> None:
        """Carry replies back. Here the emulated world stands still while a reply is owed."""
        sched = self.sched
        while not passage.closed:
            sched.wait_event(passage.work, passage.something, WHY)
            if passage.closed:
                return
            data = self._read(passage)
            if data is None:
                sched.usleep(LOOK_NS, WHY)
                continue
            if not data:
                self._hang_up(passage, reset=passage.reset)
                return
            before = passage.answers.whole
            passage.answers.feed(data)
            self.answers += passage.answers.whole - before
            sched.usleep(ANSWER_NS * max(1, passage.answers.whole - before), WHY)
            self._send(passage, data)

    def _read(self, passage: Passage) -> bytes | None:
        """Wait for what the real server says: bytes, none at its end, None if it says nothing."""
        try:
            if not select.select([passage.real], [], [], passage.patience)[0]:
                self.silences += passage.patience > 0
                passage.patience = 0.0  # once is enough, until it speaks again
                return None
            data = passage.real.recv(CHUNK)
        except OSError:
            passage.reset = True
            return b""
        passage.patience = PATIENCE_S
        return data

    def _send(self, passage: Passage, data: bytes) -> None:
        """Put bytes into the emulated connection, all of them."""
        while data and not passage.closed:
            sent = self.tcp.sendmsg(passage.sk, data)
            if sent < 0:
                self._hang_up(passage, reset=True)
                return
            data = data[sent:]

    def _hang_up(self, passage: Passage, *, reset: bool) -> None:
        """Let who reads the emulated connection come back and end it."""
        if passage.closed:
            return
        passage.closed = True
        passage.reset = reset
        passage.sk.sk_shutdown |= SHUTDOWN_MASK
        self.sched.wake_up_all(passage.sk.sk_sleep)
        self.sched.wake_up(passage.work)
