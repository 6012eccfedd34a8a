"""The NFS server as threads of its machine: connections, a disk, replies (2.6.23 fs/nfsd/nfssvc.c, net/sunrpc/svcsock.c).

Interface
    * ``Nfsd(kernel, tcp, server, ip)``; ``start()``, ``stop()``, ``crash()`` may be called from anywhere, also from an event of the
      world: what takes time is done by tasks. ``state`` is "stopped", "starting", "running" or "stopping".
    * ``make_nfsd(kernel, tcp, ip)``: with a file tree and one export whose clock is the machine's.

Rules of this file
    * One task listens per port, one reads per connection, ``threads`` execute calls in the order in which they came.
    * There is one disk: what calls cost of it is done one after the other, so 16 WRITEs of 1 ms take 16 ms. A call that
      needs no disk waits only until a thread is free.
    * Replies of one connection leave whole and one at a time. A connection whose stream breaks a rule is closed, and the oldest one
      when there are too many.
    * Each start is a new life with a new write verifier (nfssvc_boot). What a thread of an older life still holds is dropped: no
      call that came over an old connection is answered, or begun, after a restart.
    * The end of the service is not the end of the machine: what was written but not committed, and the replies that are remembered,
      outlive stop(). crash() takes the replies, and unstable data if it is told so.
    * stop() closes connections (FIN) and listeners: clients that come back are refused (RST) until start(). crash() resets them. A
      machine that falls silent instead is made by cutting the wire around both.
    * UDP, if it is given: one task per port queues what comes, and the reply is one datagram, in as many fragments as IP makes of
      it. A reply for which there is no memory is lost: the client asks again.
    * Left out: portmap; connections are not closed for being idle (6 minutes in the kernel), since clients do so after 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kemu_net.ipv4.tcp_sock import TcpSock
from kemu_nfs.server.connection import MAX_QUEUED, Connection, UdpPeer
from kemu_nfs.server.filetree import FileTree
from kemu_nfs.server.mount_proc import Export
from kemu_nfs.server.nfsd_threads import NfsdThreads
from kemu_nfs.server.rpc_server import NfsServer
from kemu_nfs.server.tree import Tree
from kemu_nfs.sunrpc.rpc_const import MOUNT_PORT, NFS_PORT

if TYPE_CHECKING:
    from kemu.kernel.core import Kernel
    from kemu_net.ipv4.tcp import Tcp
    from kemu_net.ipv4.udp import Udp, UdpSock
    from kemu_nfs.server.nfs3_file import ServerCosts

NFSD_THREADS = 8
RECV_SIZE = 65536
MAX_DATAGRAMS = 256  # calls that wait for a thread; a datagram that comes then is lost, as in a full socket
CONNECTIONS_PER_THREAD, SPARE_THREADS = 20, 3  # svc_tcp_accept()
RECORD_SLACK = 2048  # what a call is longer than the data that it carries
REBOOT_NS = 30_000_000_000
LISTEN_RETRY_NS = 1_000_000_000


class Nfsd(NfsdThreads):
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
        udp: Udp | None = None,
    ) -> None:
        super().__init__(kernel, tcp, udp, server)
        self.ip = ip
        self.ports = ports
        self.threads = threads
        self.state = "stopped"
        self.reboot_ns = REBOOT_NS
        self.listeners: list[TcpSock] = []
        self.connections: list[Connection] = []
        self.udp_socks: list[UdpSock] = []
        self.accepted = 0
        self._memory_lost = False
        kernel.judge.explainers["server"] = self.explain

    def explain(self, _obj: object) -> tuple[str, None]:
        """Tell what this server is doing, for who waits for it."""
        busy = max(0, self.disk_free_ns - self.kernel.world.now) // 1_000_000
        load = f"{len(self.connections)} connections, {len(self.calls)} calls wait, disk busy for {busy} ms"
        return f"the NFS server, {self.state}: {load}", None

    # outages, from anywhere

    def start(self) -> None:
        """Begin a new life: listen, and let threads wait for calls. Does nothing unless stopped."""
        if self.state != "stopped":
            return
        self.state = "starting"
        self.life += 1
        if self.life > 1:
            self.server.restart(memory_lost=self._memory_lost)
            self._memory_lost = False
        self.disk_free_ns = 0
        life = self.life
        for port in self.ports:
            self.sched.spawn("nfsd-listen", lambda port=port: self._listen(port, life))  # type: ignore[misc]  # bound early
            if self.udp is not None:
                self.sched.spawn("nfsd-udp", lambda port=port: self._receive(port, life))  # type: ignore[misc]  # bound early
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
        self._memory_lost = True
        self._end(reset=True, reboot_ns=reboot_ns)

    def _power_fails(self, lose_unstable: bool) -> None:
        self.crash(lose_unstable=lose_unstable, reboot_ns=self.reboot_ns)

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
        for sk in self.udp_socks:
            self.sched.wake_up_all(sk.sk_sleep)
        self.state = "stopped"
        if reboot_ns is not None:
            life = self.life
            self.sched.usleep(reboot_ns, ("server", self))
            if self.life == life:
                self.start()

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
        living = [conn for conn in self.connections if not conn.closed]
        if len(living) >= (self.threads + SPARE_THREADS) * CONNECTIONS_PER_THREAD:
            self.kernel.printk.ratelimited("nfsd: sockets", "nfsd: too many open TCP sockets, closing the oldest", "notice")
            self._hang_up(living[0], reset=False)
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
            data = self.tcp.recvmsg(conn.sk, RECV_SIZE, prequeue=False)  # nfsd reads what is there already
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

    def _receive(self, port: int, life: int) -> None:
        """Queue the datagrams of one port (svc_udp_recvfrom())."""
        udp = self.udp
        assert udp is not None
        sk = udp.sock_create()
        if sk is None:
            self.kernel.printk("nfsd: no memory for a UDP socket", "err")
            return
        # svc_sock_setbufsize(): a call and a reply of each thread fit, and three more; the socket counts what skbs really take
        room = 2 * (self.threads + SPARE_THREADS) * (self.server.nfs.rsize + RECORD_SLACK)
        sk.sk_sndbuf = sk.sk_rcvbuf = max(room, sk.sk_sndbuf, sk.sk_rcvbuf)
        while life == self.life and udp.bind(sk, self.ip, port):
            self.sched.usleep(LISTEN_RETRY_NS, ("server", self))
        self.udp_socks.append(sk)
        while life == self.life:
            self.sched.wait_event(sk.sk_sleep, lambda: sk.sk_receive_queue or life != self.life, ("server", self))
            datagram = udp.recvfrom(sk, nonblock=True)
            if not isinstance(datagram, int) and life == self.life and len(self.calls) < MAX_DATAGRAMS:
                data, peer, source = datagram
                self.calls.append((UdpPeer(sk, peer, source), data))
                self.sched.wake_up(self.work)
        self.udp_socks.remove(sk)
        udp.close(sk)


def make_nfsd(
    kernel: Kernel,
    tcp: Tcp,
    ip: int,
    *,
    exports: tuple[Export, ...] = (Export(),),
    server_costs: ServerCosts | None = None,
    ports: tuple[int, ...] = (NFS_PORT, MOUNT_PORT),
    threads: int = NFSD_THREADS,
    udp: Udp | None = None,
    tree: Tree | None = None,
) -> Nfsd:
    """Make a server whose files show this machine's time, unless it is given a tree; it is not started."""
    sched = kernel.sched
    server = NfsServer(tree or FileTree(lambda: sched.now), exports=exports, costs=server_costs)
    return Nfsd(kernel, tcp, server, ip, ports, threads, udp)
