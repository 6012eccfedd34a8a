"""The threads of nfsd that execute calls (2.6.23 fs/nfsd/nfssvc.c: nfsd(); net/sunrpc/svc.c, svcsock.c: svc_send()).

Interface
    * ``NfsdThreads``: the queue of calls, the disk, the sending of replies; class Nfsd (nfsd.py) adds where calls come from, and
      the beginning and end of a life.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu.kernel.wait import WaitQueue
from kemu_net.core.sock import SHUTDOWN_MASK
from kemu_nfs.server.connection import MAX_QUEUED, Connection, UdpPeer
from kemu_nfs.server.faults import CRASH_LOSE

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.ipv4.tcp import Tcp
    from kemu_net.ipv4.udp import Udp
    from kemu_nfs.server.rpc_server import Answer, NfsServer


class NfsdThreads(ABC):
    """What executes calls.

    :ivar life: counts starts and ends; a thread of an older one drops what it holds.
    :ivar disk_free_ns: when the disk will have done all that it was asked.
    """

    def __init__(self, kernel: Kernel, tcp: Tcp, udp: Udp | None, server: NfsServer) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.tcp = tcp
        self.udp = udp
        self.server = server
        self.life = 0
        self.calls: deque[tuple[Connection | UdpPeer, bytes]] = deque()
        self.work = WaitQueue("nfsd")
        self.disk_free_ns = 0
        self.disk_busy_ns = 0

    @abstractmethod
    def _power_fails(self, lose_unstable: bool) -> None:
        """Crash now: a fault wants it."""

    def _thread(self, life: int) -> None:
        """Execute calls until this life ends (nfsd())."""
        sched = self.sched
        calls = self.calls
        why = ("server", self)

        def something() -> bool:
            return bool(calls) or life != self.life

        while True:
            if not calls or life != self.life:
                sched.wait_event(self.work, something, why, exclusive=True)
            if life != self.life:
                return
            if not calls:
                continue
            conn, record = calls.popleft()
            if isinstance(conn, UdpPeer):
                self._serve(conn, record, life)
                continue
            conn.queued -= 1
            if conn.queued == MAX_QUEUED - 1:
                sched.wake_up_all(conn.queue)
            if not conn.closed:
                self._serve(conn, record, life)

    def _serve(self, conn: Connection | UdpPeer, record: bytes, life: int) -> None:
        """Execute one call, let its cost pass, reply (svc_process(), svc_send())."""
        sched = self.sched
        sched.spend(costs.SERVER_CALL)
        answer = self.server.handle(record, sched.now, conn.peer)
        if answer is None:
            return
        if answer.cost_ns:
            self._disk(answer.cost_ns)
        if answer.delay_ns:
            sched.usleep(answer.delay_ns, ("server", self))
        if life != self.life:
            return
        if answer.crash is not None:
            self._power_fails(answer.crash == CRASH_LOSE)
            return
        self.server.finish(answer)
        if isinstance(conn, Connection):
            self._reply(conn, answer)
        elif answer.record and self.udp is not None:
            self.udp.sendto(conn.sk, answer.reply, conn.peer, conn.port)

    def _disk(self, ns: int) -> None:
        """Wait until the disk has done this, after all that it was asked before."""
        now = self.sched.now
        start = max(self.disk_free_ns, now)
        self.disk_free_ns = start + ns
        self.disk_busy_ns += ns
        self.sched.usleep(start + ns - now, ("server", self))

    def _reply(self, conn: Connection, answer: Answer) -> None:
        """Send a reply whole, after those of other threads."""
        data = answer.record
        sched = self.sched
        if conn.sending:
            sched.wait_event(conn.queue, conn.may_send, ("server", self))
        if conn.closed or not data:
            return
        conn.sending = True
        sent = self.tcp.sendmsg(conn.sk, data)
        while 0 <= sent < len(data) and not conn.closed:
            data = data[sent:]
            sent = self.tcp.sendmsg(conn.sk, data)
        conn.sending = False
        sched.wake_up_all(conn.queue)
        if sent < 0:
            # a record that left in part cannot be taken back
            self._hang_up(conn, reset=False)

    def _hang_up(self, conn: Connection, *, reset: bool) -> None:
        """End a connection; its reading task notices and closes the socket."""
        if conn.closed:
            return
        conn.closed = True
        conn.reset = reset
        self.sched.wake_up_all(conn.queue)
        # the socket belongs to who reads it: only let it, and who sends, come back from where they wait
        conn.sk.sk_shutdown |= SHUTDOWN_MASK
        self.sched.wake_up_all(conn.sk.sk_sleep)
