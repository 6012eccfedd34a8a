"""The far end of the wire as a gateway: emulated TCP connections end here, and real ones to a real NFS server begin.

Interface
    Gateway(kernel, tcp, url, ip)    ``start()``, ``stop()``, as kemu's own server has them; ``close()`` at the end

Rules of this file
    * Virtual time waits for the real answer. While the real server owes a reply the emulated world stands still, ``PATIENCE_S`` at
      most; the reply then enters the emulated connection ``ANSWER_NS`` later. Replies go in whole and one by one, however the real
      socket cuts the stream. So no figure of a run depends on how fast the real server is, only on the order of its answers. What
      still differs from run to run are bytes: file handles, times, the write verifier.
    * A server that says nothing for that long is silent for the machine too: virtual time goes on, not faster than real time, and
      every ``LOOK_NS`` of it the gateway looks whether something has come. Nor does virtual time run away from a server that
      refuses connects: a connect is refused when real time has caught up, or after ``AWAY_S``. Both depend on the real clock.
    * The stream is passed on as it is, whatever it says. Only record marks and xids are read, to know which replies are owed. What
      nobody asked for, the end of an idle connection too, is seen with the next call. What never ends passes in pieces.
    * A connection that one side ends is ended on the other: an orderly end by FIN, anything else by a reset. A real server that
      does not let us connect looks like one whose process dies at accept().
"""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from kemu_lab.passage import CHUNK, Passage
from kemu_net.core.sock import SHUTDOWN_MASK
from kemu_net.ipv4.tcp_sock import TcpSock
from kemu_nfs.sunrpc.rpc_const import MOUNT_PORT, NFS_PORT

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_lab.server_url import ServerUrl
    from kemu_net.ipv4.tcp import Tcp

PATIENCE_S = 20.0
CONNECT_S = 5.0
AWAY_S = 20.0
ANSWER_NS = 1_000_000  # a server that takes 1 ms for a call, like kemu's own for a stable write
LOOK_NS = 100_000_000
LOOK_S = LOOK_NS / 1e9
RETRY_NS = 100_000_000
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, for no time at all
WHY = ("server", "the gateway")


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
        self._away: tuple[int, float] | None = None  # virtual and real time of the first refusal
        kernel.judge.explainers["server"] = self.explain

    def explain(self, _obj: object) -> tuple[str, None]:
        """Tell what the gateway is doing, for who waits for it."""
        owed = sum(len(passage.owed) for passage in self.passages)
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
            self._wait_for_real_time()
            self.tcp.abort(sk)
            return
        self._away = None
        real.setblocking(False)
        real.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sk.nonagle = 1
        passage = Passage(sk, real, PATIENCE_S)
        self.passages.append(passage)
        self.sched.spawn("gateway-up", lambda: self._up(passage))
        self.sched.spawn("gateway-down", lambda: self._down(passage))

    def _wait_for_real_time(self) -> None:
        """Let real time pass as virtual time has since the server was away: who starts it again shall find the machine waiting."""
        now = self.kernel.world.now
        if self._away is None:
            self._away = now, time.monotonic()
        since, real = self._away
        ahead = (now - since) / 1e9 - (time.monotonic() - real)
        if ahead > 0:
            time.sleep(min(ahead, AWAY_S))

    def _up(self, passage: Passage) -> None:
        """Carry what the emulated machine says to the real server; end the connection when one side has."""
        while not passage.closed:
            data = self.tcp.recvmsg(passage.sk, CHUNK)
            if passage.closed:
                break
            if not isinstance(data, bytes):
                passage.real.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                break
            if not data:
                break
            try:
                passage.push(data)
            except OSError:
                passage.reset = True
                break
            calls = passage.called(data)
            if calls:
                self.calls += calls
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
            reply = self._reply(passage)
            if reply is None:
                sched.usleep(LOOK_NS, WHY)
                continue
            if not reply:
                self._hang_up(passage, reset=passage.reset)
                return
            sched.usleep(ANSWER_NS, WHY)
            self._send(passage, reply)

    def _reply(self, passage: Passage) -> bytes | None:
        """Wait for one whole reply; what there is of it if the server falls silent or hangs up, and if it is too long."""
        parts: list[bytes] = []
        size = 0
        whole = passage.answers.whole
        while size < CHUNK and passage.answers.whole == whole:
            if not passage.inbox:
                data = self._read(passage)
                if not data:
                    return b"".join(parts) if parts else data
                passage.inbox = data
            parts.append(passage.cut())
            size += len(parts[-1])
        self.answers += passage.answers.whole - whole
        return b"".join(parts)

    def _read(self, passage: Passage) -> bytes | None:
        """Wait for what the real server says: bytes, none at its end, None if it says nothing."""
        try:
            if not select.select([passage.real], [], [], passage.patience)[0]:
                if passage.patience == passage.full_patience:
                    self.silences += 1
                passage.patience = LOOK_S  # once is enough, until it speaks again
                return None
            data = passage.real.recv(CHUNK)
        except OSError:
            passage.reset = True
            return b""
        passage.patience = passage.full_patience
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
