"""The NFS server as threads of its machine: connections, a disk, replies (2.6.23 fs/nfsd/nfssvc.c, net/sunrpc/svcsock.c).

Interface
    * ``Nfsd(kernel, tcp, server, ip)``; ``start()``, ``stop()``, ``crash()`` may be called from anywhere, also from an event of the
      world: what takes time is done by tasks. ``state`` is "stopped", "starting", "running" or "stopping".
    * ``make_nfsd(kernel, tcp, ip)``: with a file tree and one export whose clock is the machine's.

Rules of this file
    * One task listens per port, one reads per connection, ``threads`` execute calls in the order in which they came.
    * There is one disk: what calls cost of it is done one after the other, so 16 WRITEs of 1 ms take 16 ms. A call that
      needs no disk waits only until a thread is free.
    * Replies of one connection leave whole and one at a time. A connection whose stream breaks a rule is closed.
    * Each start is a new life. What a thread of an older life still holds is dropped: no call that came over an old connection is
      answered, or begun, after a restart.
    * stop() closes connections (FIN) and listeners: clients that come back are refused (RST) until start(). crash() resets them. A
      machine that falls silent instead is made by cutting the wire around both.
    * Left out: portmap, UDP.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kemu.kernel import costs
from kemu.kernel.wait import WaitQueue
from kemu_net.core.sock import SHUTDOWN_MASK
from kemu_net.ipv4.tcp_sock import TcpSock
from kemu_nfs.server.faults import CRASH_LOSE
from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.mount_proc import Export
from kemu_nfs.server.record_marking import RecordReader
from kemu_nfs.server.rpc_server import Answer, NfsServer
from kemu_nfs.sunrpc.rpc_const import MOUNT_PORT, NFS_PORT

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.ipv4.tcp import Tcp
    from kemu_nfs.server.nfs3_file import ServerCosts

NFSD_THREADS = 8
RECV_SIZE = 65536
MAX_QUEUED = 64  # calls of one connection that wait for a thread; more stay in its socket
RECORD_SLACK = 2048  # what a call is longer than the data that it carries
REBOOT_NS = 30_000_000_000
LISTEN_RETRY_NS = 1_000_000_000


class Connection:
    """One client's connection.

    :param sk: its socket; the reading task closes it.
    :param peer: the client's IPv4 address, by which the reply cache knows him.
    """

    __slots__ = ("closed", "peer", "queue", "queued", "reader", "reset", "sending", "sk")

    def __init__(self, sk: TcpSock, peer: int, limit: int) -> None:
        self.sk = sk
        self.peer = peer
        self.reader = RecordReader(limit)
        self.queued = 0
        self.sending = False
        self.closed = False
        self.reset = False
        self.queue = WaitQueue("nfsd connection")

    def may_send(self) -> bool:
        """Tell whether no other thread is sending."""
        return not self.sending or self.closed

    def may_read(self) -> bool:
        """Tell whether there is room for more calls."""
        return self.queued < MAX_QUEUED or self.closed


class Nfsd:
    """The server's threads.

    :param server: what executes calls; it may be shared with nobody.
    :param ip: the address to listen on.
    :param ports: all programs are served on each.
    """

    def __init__(
        self,
        kernel: Kernel,
        tcp: Tcp,
        server: NfsServer,
        ip: int,
        ports: tuple[int, ...] = (NFS_PORT, MOUNT_PORT),
        threads: int = NFSD_THREADS,
    ) -> None:
        self.kernel = kernel
        self.sched = kernel.sched
        self.tcp = tcp
        self.server = server
        self.ip = ip
        self.ports = ports
        self.threads = threads
        self.state = "stopped"
        self.life = 0
        self.reboot_ns = REBOOT_NS
        self.listeners: list[TcpSock] = []
        self.connections: list[Connection] = []
        self.calls: deque[tuple[Connection, bytes]] = deque()
        self.work = WaitQueue("nfsd")
        self.disk_free_ns = 0
        self.disk_busy_ns = 0
        self.accepted = 0

    # outages, from anywhere

    def start(self) -> None:
        """Begin a new life: listen, and let threads wait for calls. Does nothing unless stopped."""
        if self.state != "stopped":
            return
        self.state = "starting"
        self.life += 1
        if self.life > 1:
            self.server.restart()
        self.disk_free_ns = 0
        life = self.life
        for port in self.ports:
            self.sched.spawn("nfsd-listen", lambda port=port: self._listen(port, life))  # type: ignore[misc]  # bound early
        for _ in range(self.threads):
            self.sched.spawn("nfsd", lambda: self._thread(life))

    def stop(self) -> None:
        """End this life in order: finish nothing more, close all connections."""
        self._end(reset=False)

    def crash(self, lose_unstable: bool = True, reboot_ns: int | None = None) -> None:
        """Let the server's power fail: memory is gone, connections are reset; after ``reboot_ns`` it starts again, if given."""
        if self.state not in ("starting", "running"):
            return
        self.server.tree.crash(lose_unstable)
        self._end(reset=True, reboot_ns=reboot_ns)

    def _end(self, *, reset: bool, reboot_ns: int | None = None) -> None:
        if self.state not in ("starting", "running"):
            return
        self.state = "stopping"
        self.life += 1
        self.calls.clear()
        self.sched.wake_up_all(self.work)
        self.sched.spawn("nfsd-end", lambda: self._close_all(reset, reboot_ns))

    def _close_all(self, reset: bool, reboot_ns: int | None) -> None:
        """Hang up on everybody (svc_close_all())."""
        for listener in self.listeners:
            self.tcp.close(listener)
        self.listeners.clear()
        for conn in list(self.connections):
            self._hang_up(conn, reset=reset)
        self.state = "stopped"
        if reboot_ns is not None:
            life = self.life
            self.sched.usleep(reboot_ns, ("server", self))
            if self.life == life:
                self.start()

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

    # the tasks

    def _listen(self, port: int, life: int) -> None:
        """Accept connections on one port until this life ends."""
        tcp = self.tcp
        sk = tcp.sock_create()
        if sk is None:
            self.kernel.printk("nfsd: no memory for a listening socket", "err")
            return
        sk.sk_reuse = True  # connections of an earlier life may still be in TIME_WAIT
        while tcp.bind(sk, self.ip, port) or tcp.listen(sk, 64):
            self.kernel.printk.ratelimited("nfsd: bind", f"nfsd: port {port} is in use")
            self.sched.usleep(LISTEN_RETRY_NS, ("server", self))
            if life != self.life:
                tcp.close(sk)
                return
        if life != self.life:
            tcp.close(sk)
            return
        self.listeners.append(sk)
        if len(self.listeners) == len(self.ports):
            self.state = "running"
        while life == self.life:
            child = tcp.accept(sk)
            if not isinstance(child, TcpSock):
                if life == self.life:
                    self.sched.usleep(LISTEN_RETRY_NS, ("server", self))
            elif life != self.life:
                tcp.abort(child)
            else:
                self._adopt(child, life)

    def _adopt(self, sk: TcpSock, life: int) -> None:
        """Serve a new connection (svc_tcp_accept())."""
        sk.nonagle = 1  # svc_tcp_init(): replies wait for nobody
        conn = Connection(sk, sk.daddr, self.server.nfs.rsize + RECORD_SLACK)
        self.connections.append(conn)
        self.accepted += 1
        self.sched.spawn("nfsd-read", lambda: self._read(conn, life))

    def _read(self, conn: Connection, life: int) -> None:
        """Cut one connection's stream into calls and queue them (svc_tcp_recvfrom())."""
        sched = self.sched
        calls = self.calls
        feed = conn.reader.feed
        while life == self.life and not conn.closed:
            data = self.tcp.recvmsg(conn.sk, RECV_SIZE)
            if not isinstance(data, bytes) or not data or life != self.life:
                break
            for record in feed(data):
                calls.append((conn, record))
                conn.queued += 1
                sched.wake_up(self.work)
            if conn.reader.broken is not None:
                self.kernel.printk(f"nfsd: {conn.reader.broken}; closing the connection", "notice")
                break
            if conn.queued >= MAX_QUEUED:
                sched.wait_event(conn.queue, conn.may_read, ("server", self))
        conn.closed = True
        sched.wake_up_all(conn.queue)
        self.connections.remove(conn)
        while conn.sending:
            sched.wait_event(conn.queue, lambda: not conn.sending, ("server", self))
        if conn.reset:
            self.tcp.abort(conn.sk)
        else:
            self.tcp.close(conn.sk)

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
            conn.queued -= 1
            if conn.queued == MAX_QUEUED - 1:
                sched.wake_up_all(conn.queue)
            if not conn.closed:
                self._serve(conn, record, life)

    def _serve(self, conn: Connection, record: bytes, life: int) -> None:
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
            self.crash(lose_unstable=answer.crash == CRASH_LOSE, reboot_ns=self.reboot_ns)
            return
        self._reply(conn, answer)

    def _disk(self, ns: int) -> None:
        """Wait until the disk has done this, after all that it was asked before."""
        now = self.sched.now
        start = max(self.disk_free_ns, now)
        self.disk_free_ns = start + ns
        self.disk_busy_ns += ns
        self.sched.usleep(start + ns - now, ("server", self))

    def _reply(self, conn: Connection, answer: Answer) -> None:
        """Send a reply whole, after those of other threads. From now on the reply cache answers duplicates."""
        self.server.finish(answer)
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


def make_nfsd(
    kernel: Kernel,
    tcp: Tcp,
    ip: int,
    *,
    exports: tuple[Export, ...] = (Export(),),
    server_costs: ServerCosts | None = None,
    ports: tuple[int, ...] = (NFS_PORT, MOUNT_PORT),
    threads: int = NFSD_THREADS,
) -> Nfsd:
    """Make a server whose files show this machine's time; it is not started."""
    sched = kernel.sched
    server = NfsServer(FileTree(lambda: sched.now), exports=exports, costs=server_costs)
    return Nfsd(kernel, tcp, server, ip, ports, threads)
