"""The server's threads, on a machine with real tasks and a TCP that is a pipe."""

from __future__ import annotations

from collections import deque

import pytest

from kemu.kernel.core import Kernel
from kemu.kernel.wait import WaitQueue
from kemu_net.ipv4.tcp_sock import TcpSock
from kemu_nfs.server.faults import Faults
from kemu_nfs.server.nfs3_file import ServerCosts
from kemu_nfs.server.nfsd import make_nfsd
from kemu_nfs.server.record_marking import RecordReader, frame
from kemu_nfs.sunrpc.nfs3_const import NFS_UNSTABLE

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


@pytest.fixture
def house():
    houses = []

    def build(**kwargs):
        houses.append(House(**kwargs))
        return houses[-1]

    yield build
    for each in houses:
        each.nfsd.server.check()
        each.kernel.shutdown()


def write(speaker, house, offset, fill=b"x", stable=2):
    return speaker.record(7, speaker.write_args(house.inode.handle, offset, fill * 4096, stable))


def test_a_call_is_answered(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    record = write(speaker, home, 0)
    home.send(sk, record)
    home.settle(10_000_000)
    (reply,) = home.replies(sk)
    assert reply[:4] == record[:4]
    assert reply[24:28] == bytes(4)
    assert home.inode.read_data(0, 4096) == b"x" * 4096


def test_sixteen_writes_take_sixteen_milliseconds(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    home.settle()
    began = home.kernel.world.now
    home.send(sk, *(write(speaker, home, 4096 * number) for number in range(16)))
    home.kernel.world.run(until=lambda: home.nfsd.disk_free_ns <= home.kernel.world.now and home.nfsd.disk_busy_ns == 16_000_000)
    assert 16_000_000 <= home.kernel.world.now - began < 26_100_000


def test_what_needs_no_disk_does_not_wait_for_it(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    getattr_ = speaker.record(1, speaker.opaque(home.inode.handle))
    home.send(sk, write(speaker, home, 0), write(speaker, home, 4096), getattr_)
    home.settle(900_000)
    (reply,) = home.replies(sk)
    assert reply[:4] == getattr_[:4]


def test_replies_of_several_threads_do_not_mix(house, speaker):
    home = house(server_costs=ServerCosts(read=0))
    home.start()
    sk = home.connect()
    reads = [speaker.record(6, speaker.opaque(home.inode.handle) + bytes(8) + speaker.words(4096)) for _ in range(8)]
    home.send(sk, *reads)
    home.settle(50_000_000)
    assert sorted(reply[:4] for reply in home.replies(sk)) == sorted(record[:4] for record in reads)


def test_a_stream_cut_anywhere_is_put_together(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    stream = frame(write(speaker, home, 0)) + frame(speaker.record(0))
    for cut in range(0, len(stream), 97):
        sk.peer.chunks.append(stream[cut : cut + 97])
    home.sched.wake_up_all(sk.peer.queue)
    home.settle(10_000_000)
    assert len(home.replies(sk)) == 2


def test_a_record_that_is_too_long_ends_the_connection(house):
    home = house()
    home.start()
    sk = home.connect()
    sk.peer.chunks.append(b"\xff\xff\xff\xff")
    home.sched.wake_up_all(sk.peer.queue)
    home.settle()
    assert sk.peer.closed
    assert home.nfsd.connections == []
    assert "closing the connection" in home.kernel.printk.buffer[-1][2]


def test_a_client_that_hangs_up_is_forgotten(house):
    home = house()
    home.start()
    sk = home.connect()
    home.settle()
    assert len(home.nfsd.connections) == 1
    home.tcp.close(sk)
    home.settle()
    assert home.nfsd.connections == []


def test_a_connection_may_not_queue_without_end(house, speaker):
    home = house(threads=1)
    home.start()
    sk = home.connect()
    for number in range(200):
        sk.peer.chunks.append(frame(write(speaker, home, 4096 * number)))
    home.sched.wake_up_all(sk.peer.queue)
    home.settle(500_000)
    assert len(home.nfsd.calls) <= 64
    home.settle(250_000_000)
    assert len(home.replies(sk)) == 200


def test_stop_closes_and_refuses_and_start_serves_again(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    home.send(sk, write(speaker, home, 0))
    home.settle(100_000)
    home.nfsd.stop()
    home.settle(50_000_000)
    assert home.nfsd.state == "stopped"
    assert home.connect() is None
    assert sk.peer.closed
    assert home.replies(sk) == []
    assert [task.comm for task in home.sched.tasks.values() if task.comm.startswith("nfsd")] == []
    verifier = home.nfsd.server.nfs.write_verf
    home.start()
    assert home.nfsd.server.nfs.write_verf != verifier
    sk = home.connect()
    home.send(sk, speaker.record(0))
    home.settle()
    assert len(home.replies(sk)) == 1


def test_calls_of_an_old_life_are_not_begun_in_the_next(house, speaker):
    home = house(threads=1)
    home.start()
    sk = home.connect()
    home.send(sk, write(speaker, home, 0), write(speaker, home, 4096, b"late"[:1]))
    home.settle(100_000)
    home.nfsd.stop()
    home.settle(10_000_000)
    home.start()
    home.settle(10_000_000)
    assert home.inode.read_data(4096, 4096) == bytes(4096)


def test_a_crash_loses_what_was_not_stable_and_resets(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    home.send(sk, write(speaker, home, 0, b"u", NFS_UNSTABLE), write(speaker, home, 4096, b"s"))
    home.settle(10_000_000)
    home.nfsd.crash()
    home.settle()
    assert sk.reset
    assert home.inode.read_data(0, 4096) == bytes(4096)
    assert home.inode.read_data(4096, 4096) == b"s" * 4096


def test_a_crash_on_request_comes_back_by_itself(house, speaker):
    home = house()
    home.nfsd.reboot_ns = 2_000_000_000
    faults: Faults = home.nfsd.server.faults
    faults.crash(7, lose_unstable=False)
    home.start()
    sk = home.connect()
    home.send(sk, write(speaker, home, 0))
    home.settle(10_000_000)
    assert (home.nfsd.state, sk.reset) == ("stopped", True)
    home.settle(2_000_000_000)
    assert home.nfsd.state == "running"


def test_outages_can_be_events_of_the_world(house):
    home = house()
    world = home.kernel.world
    world.post(1_000_000, lambda _: home.nfsd.start())
    world.post(5_000_000, lambda _: home.nfsd.stop())
    world.post(9_000_000, lambda _: home.nfsd.start())
    states = []
    for _ in range(3):
        home.settle(4_000_000)
        states.append(home.nfsd.state)
    assert states == ["running", "stopped", "running"]


def test_a_delay_does_not_occupy_the_disk(house, speaker):
    home = house()
    home.nfsd.server.faults.delay(7, 20_000_000)
    home.start()
    sk = home.connect()
    slow, quick = write(speaker, home, 0), write(speaker, home, 4096)
    home.send(sk, slow, quick)
    home.settle(10_000_000)
    assert [reply[:4] for reply in home.replies(sk)] == [quick[:4]]
    home.settle(20_000_000)
    assert [reply[:4] for reply in home.replies(sk)] == [slow[:4]]


def test_a_duplicate_in_progress_is_not_executed_twice(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    record = write(speaker, home, 0)
    home.send(sk, record, record)
    home.settle(10_000_000)
    assert len(home.replies(sk)) == 1
    assert home.nfsd.disk_busy_ns == 1_000_000


def test_the_server_explains_itself(house, speaker):
    home = house()
    home.start()
    sk = home.connect()
    home.send(sk, *(write(speaker, home, 4096 * number) for number in range(10)))
    home.settle(500_000)
    task = next(task for task in home.sched.tasks.values() if task.comm == "nfsd")
    text = home.kernel.judge.explain(task)
    assert "the NFS server, running: 1 connections, 2 calls wait, disk busy for 7 ms" in text


def test_an_idle_server_is_at_rest(house):
    home = house()
    home.start()
    home.kernel.world.run(for_ns=800_000_000_000)
    assert home.kernel.judge.outcome is None
