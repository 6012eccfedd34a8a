"""Test helper: the server's threads on a machine with real tasks, and a TCP that is a pipe."""

from __future__ import annotations

from collections import deque

from kemu.kernel.core import Kernel
from kemu.kernel.wait import WaitQueue
from kemu_net.ipv4.tcp_sock import TcpSock
from kemu_nfs.server.nfsd import make_nfsd
from kemu_nfs.server.record_marking import RecordReader, frame

IP = 0x0A000002
PEER = 0x0A000001


class PipeSock(TcpSock):
    """One end of a pipe; ``peer`` is the other."""

    __slots__ = ("backlog", "chunks", "closed", "peer", "queue", "reset")

    def __init__(self):  # the kernel's socket is not wanted, only its class
        self.chunks = deque()
        self.backlog = deque()
        self.queue = WaitQueue("pipe")
        self.peer = None
        self.closed = self.reset = False
        self.daddr = PEER
        self.sk_reuse = False
        self.nonagle = 0
        self.sk_shutdown = 0
        self.sk_sleep = self.queue


class PipeTcp:
    """TCP as nfsd uses it, over pipes on one machine."""

    def __init__(self, sched):
        self.sched = sched
        self.listening = {}
        self.sent = []

    def sock_create(self):
        return PipeSock()

    def bind(self, sk, addr, port):
        if (addr, port) in self.listening:
            return -98
        self.listening[addr, port] = sk
        return 0

    def listen(self, sk, backlog):
        return 0

    def accept(self, sk):
        self.sched.wait_event(sk.queue, lambda: sk.backlog or sk.closed)
        return None if sk.closed else sk.backlog.popleft()

    def connect(self, addr, port):
        """The client's side: its end, or None if refused."""
        listener = self.listening.get((addr, port))
        if listener is None:
            return None
        here, there = PipeSock(), PipeSock()
        here.peer, there.peer = there, here
        listener.backlog.append(there)
        self.sched.wake_up(listener.queue)
        return here

    def sendmsg(self, sk, data, more=False):
        if sk.closed or sk.reset or sk.peer.closed or sk.sk_shutdown:
            return -32
        part = data[:100]  # in pieces, with time between them
        sk.peer.chunks.append(part)
        self.sent.append(part)
        self.sched.wake_up_all(sk.peer.queue)
        self.sched.usleep(10)
        return len(part)

    def recvmsg(self, sk, size, prequeue=True):
        self.sched.wait_event(sk.queue, lambda: sk.chunks or sk.reset or sk.peer.closed or sk.sk_shutdown)
        if sk.reset:
            return -104
        return sk.chunks.popleft() if sk.chunks else b""

    def abort(self, sk):
        sk.peer.reset = True
        self.close(sk)

    def close(self, sk):
        sk.closed = True
        for key in [key for key, value in self.listening.items() if value is sk]:
            del self.listening[key]
        self.sched.wake_up_all(sk.queue)
        if sk.peer is not None:
            self.sched.wake_up_all(sk.peer.queue)


class House:
    """A machine with the server on it, and clients that are tasks of the same machine."""

    def __init__(self, **kwargs):
        self.kernel = Kernel("server")
        self.sched = self.kernel.sched
        self.tcp = PipeTcp(self.sched)
        self.nfsd = make_nfsd(self.kernel, self.tcp, IP, **kwargs)
        self.inode = self.nfsd.server.tree.make_file("/export/swap", 1 << 20)

    def settle(self, ns=1_000_000):
        self.kernel.world.run(for_ns=ns)

    def start(self):
        self.nfsd.start()
        self.settle()
        assert self.nfsd.state == "running"

    def connect(self):
        return self.tcp.connect(IP, 2049)

    def send(self, sk, *records):
        for record in records:
            sk.peer.chunks.append(frame(record))
        self.sched.wake_up_all(sk.peer.queue)

    def replies(self, sk):
        """All whole replies that have arrived."""
        reader = RecordReader(1 << 20)
        out = []
        while sk.chunks:
            out += reader.feed(sk.chunks.popleft())
        assert reader.pending == 0
        return out


def write(speaker, house, offset, fill=b"x", stable=2):
    return speaker.record(7, speaker.write_args(house.inode.handle, offset, fill * 4096, stable))
