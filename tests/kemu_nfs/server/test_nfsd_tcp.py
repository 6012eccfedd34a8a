"""The server behind a real TCP and UDP: two machines on one wire, calls as bytes."""

from __future__ import annotations

import pytest

from kemu.kernel.core import Kernel
from kemu.kernel.errno import ECONNREFUSED, ECONNRESET
from kemu.kernel.world import World
from kemu.mm.page_alloc import PageAllocator
from kemu.mm.reserve import Reserves
from kemu.mm.slub import Slub
from kemu_net.drivers.wire import Wire
from kemu_net.stack import NetStack
from kemu_nfs.server.nfsd import make_nfsd
from kemu_nfs.server.record_marking import RecordReader, frame
from net_ground import IP_A, IP_B, MAC_A, MAC_B

MIB = 1 << 20
PORT = 2049


class Box:
    """A machine with a network."""

    def __init__(self, world, wire, name, mac, ip):
        self.kernel = Kernel(name, world)
        page_alloc = PageAllocator(self.kernel, 64 * MIB)
        slub = Slub(self.kernel, page_alloc)
        self.net = NetStack(self.kernel, page_alloc, slub, Reserves(self.kernel, page_alloc, slub), wire, mac=mac, ip=ip)


class Pair:
    """A client, a server, and the file that they speak about."""

    def __init__(self, **wire):
        self.world = World()
        self.wire = Wire(self.world, **wire)
        self.client = Box(self.world, self.wire, "client", MAC_A, IP_A)
        self.server = Box(self.world, self.wire, "server", MAC_B, IP_B)
        self.nfsd = make_nfsd(self.server.kernel, self.server.net.tcp, IP_B, udp=self.server.net.udp)
        self.inode = self.nfsd.server.tree.make_file("/export/swap", 1 << 20)
        self.tcp = self.client.net.tcp

    def run(self, ms=5):
        self.world.run(for_ns=ms * 1_000_000)

    def start(self):
        self.nfsd.start()
        self.run()
        assert self.nfsd.state == "running"

    def connect(self):
        sk = self.tcp.sock_create()
        error = self.tcp.connect(sk, IP_B, PORT)
        return error or sk

    def ask(self, sk, *records):
        """Send calls, wait for as many replies."""
        for record in records:
            assert self.tcp.sendmsg(sk, frame(record)) == len(record) + 4
        reader = RecordReader(1 << 20)
        replies = []
        while len(replies) < len(records):
            data = self.tcp.recvmsg(sk, 65536)
            assert isinstance(data, bytes), data
            assert data
            replies += reader.feed(data)
        return replies


@pytest.fixture
def pair():
    pairs = []

    def build(**wire):
        pairs.append(Pair(**wire))
        return pairs[-1]

    yield build
    for each in pairs:
        each.nfsd.server.check()
        each.world.shutdown()


def write(speaker, home, offset, fill):
    return speaker.record(7, speaker.write_args(home.inode.handle, offset, fill * 4096))


def read(speaker, home, offset):
    return speaker.record(6, speaker.opaque(home.inode.handle) + offset.to_bytes(8, "big") + speaker.words(4096))


def test_pages_go_out_and_come_back(pair, speaker):
    home = pair()
    home.start()
    sk = home.connect()
    for number in range(20):
        (reply,) = home.ask(sk, write(speaker, home, 4096 * number, bytes([number + 1])))
        assert reply[24:28] == bytes(4)
    for number in range(20):
        (reply,) = home.ask(sk, read(speaker, home, 4096 * number))
        assert reply[-4096:] == bytes([number + 1]) * 4096
    home.client.net.check()
    home.server.net.check()


def test_sixteen_at_once_are_bounded_by_the_disk(pair, speaker):
    home = pair()
    home.start()
    sk = home.connect()
    began = home.world.now
    replies = home.ask(sk, *(write(speaker, home, 4096 * number, b"x") for number in range(16)))
    assert len({reply[:4] for reply in replies}) == 16
    assert 16_000_000 <= home.world.now - began < 30_000_000


def test_many_records_over_a_wire_that_loses(pair, speaker):
    home = pair(loss=0.03)
    home.start()
    sk = home.connect()
    for number in range(30):
        home.ask(sk, write(speaker, home, 4096 * number, bytes([number + 1])))
    assert all(home.inode.read_data(4096 * number, 4096) == bytes([number + 1]) * 4096 for number in range(30))


def test_a_stopped_server_refuses_and_comes_back(pair, speaker):
    home = pair()
    home.start()
    sk = home.connect()
    home.ask(sk, write(speaker, home, 0, b"1"))
    home.nfsd.stop()
    home.run(50)
    assert home.nfsd.state == "stopped"
    assert home.tcp.recvmsg(sk, 100) == b""
    home.tcp.close(sk)
    assert home.connect() == -ECONNREFUSED
    home.nfsd.start()
    home.run()
    assert home.ask(home.connect(), read(speaker, home, 0))[0][-4096:] == b"1" * 4096


def test_a_stop_and_start_at_once_serve_the_same_ports(pair, speaker):
    home = pair()
    home.start()
    clients = [home.connect() for _ in range(3)]
    home.nfsd.stop()
    home.run(10)
    home.nfsd.start()
    home.run(10)
    assert home.nfsd.state == "running"
    assert len(home.ask(home.connect(), speaker.record(0))) == 1
    for sk in clients:
        home.tcp.close(sk)
    home.run(5000)
    assert len(home.nfsd.connections) == 1


def test_a_crash_resets(pair, speaker):
    home = pair()
    home.start()
    sk = home.connect()
    home.ask(sk, speaker.record(0))
    home.nfsd.crash()
    home.run(50)
    assert home.tcp.recvmsg(sk, 100) == -ECONNRESET


def test_sockets_of_the_server_do_not_leak(pair, speaker):
    home = pair()
    home.start()
    before = len(home.server.net.socks.live)
    for _ in range(5):
        sk = home.connect()
        home.ask(sk, speaker.record(0))
        home.tcp.close(sk)
        home.run(100)
    home.run(70_000)
    assert home.nfsd.connections == []
    assert len(home.server.net.socks.live) == before
    home.nfsd.stop()
    home.run(100)
    assert len(home.server.net.socks.live) == before - 4
    home.server.net.tcp.check()


def test_a_stream_that_breaks_the_rules_is_closed(pair):
    home = pair()
    home.start()
    sk = home.connect()
    home.tcp.sendmsg(sk, b"\xff" * 8)
    assert home.tcp.recvmsg(sk, 100) in (b"", -ECONNRESET)


def test_a_datagram_is_answered_by_a_datagram(pair, speaker):
    home = pair()
    home.start()
    udp = home.client.net.udp
    sk = udp.sock_create()
    assert udp.bind(sk, IP_A, 900) == 0
    record = speaker.record(7, speaker.write_args(home.inode.handle, 1024, b"d" * 1024))
    assert udp.sendto(sk, record, IP_B, PORT) == len(record)
    reply, peer, port = udp.recvfrom(sk)
    assert (reply[:4], reply[24:28], peer, port) == (record[:4], bytes(4), IP_B, PORT)
    assert home.inode.read_data(1024, 1024) == b"d" * 1024
    udp.sendto(sk, record, IP_B, PORT)
    assert udp.recvfrom(sk)[0] == reply
    assert home.nfsd.server.drc.replayed == 1


def test_udp_ends_with_the_server(pair, speaker):
    home = pair()
    home.start()
    home.nfsd.stop()
    home.run()
    assert home.nfsd.udp_socks == []
    udp = home.client.net.udp
    sk = udp.sock_create()
    udp.sendto(sk, speaker.record(0), IP_B, PORT)
    home.run()
    assert udp.recvfrom(sk, nonblock=True).__class__ is int
    home.start()
    udp.sendto(sk, speaker.record(0), IP_B, PORT)
    home.run()
    assert len(udp.recvfrom(sk)[0]) == 24


def test_a_large_read_over_udp_comes_in_fragments(pair, speaker):
    home = pair()
    home.inode.write_data(0, bytes(range(256)) * 128, stable=True)
    home.start()
    udp = home.client.net.udp
    sk = udp.sock_create()
    record = speaker.record(6, speaker.opaque(home.inode.handle) + bytes(8) + speaker.words(32768))
    assert udp.sendto(sk, record, IP_B, PORT) == len(record)
    reply, _, _ = udp.recvfrom(sk)
    assert reply[-32768:] == bytes(range(256)) * 128


def test_a_large_write_over_udp_comes_in_fragments(pair, speaker):
    home = pair()
    home.start()
    udp = home.client.net.udp
    sk = udp.sock_create()
    udp.sendto(sk, speaker.record(0), IP_B, PORT)  # ARP would keep 3 fragments of the first datagram (unres_qlen)
    udp.recvfrom(sk)
    record = speaker.record(7, speaker.write_args(home.inode.handle, 8192, b"w" * 32768))
    assert udp.sendto(sk, record, IP_B, PORT) == len(record)
    assert udp.recvfrom(sk)[0][24:28] == bytes(4)
    assert home.inode.read_data(8192, 32768) == b"w" * 32768


def test_a_record_in_many_fragments_is_one_call(pair, speaker):
    """Record marking: each piece of a message is a fragment of its own, some of them empty."""
    home = pair()
    home.start()
    sk = home.connect()
    record = write(speaker, home, 0, b"f")
    pieces = [record[at : at + 100] for at in range(0, len(record), 100)]
    stream = b"".join(len(piece).to_bytes(4, "big") + piece for piece in [b"", *pieces[:-1]])
    home.tcp.sendmsg(sk, stream + (0x80000000 | len(pieces[-1])).to_bytes(4, "big") + pieces[-1])
    reader = RecordReader(1 << 16)
    replies = []
    while not replies:
        replies = reader.feed(home.tcp.recvmsg(sk, 65536))
    assert replies[0][24:28] == bytes(4)
    assert home.inode.read_data(0, 4096) == b"f" * 4096


def test_as_many_large_datagrams_as_there_are_threads_find_room(pair, speaker):
    """svc_sock_setbufsize(): with the buffers of any socket some of the calls or replies would be lost."""
    home = pair()
    home.start()
    udp = home.client.net.udp
    sk = udp.sock_create()
    sk.sk_rcvbuf = sk.sk_sndbuf = 1 << 21
    udp.sendto(sk, speaker.record(0), IP_B, PORT)
    udp.recvfrom(sk)
    calls = [speaker.record(7, speaker.write_args(home.inode.handle, 32768 * n, bytes([n + 1]) * 32768)) for n in range(8)]
    calls += [speaker.record(6, speaker.opaque(home.inode.handle) + bytes(8) + speaker.words(32768)) for _ in range(8)]
    for call in calls:
        assert udp.sendto(sk, call, IP_B, PORT) == len(call)
    home.run(100)
    replies = [udp.recvfrom(sk, nonblock=True) for _ in calls]
    assert sorted(reply[0][:4] for reply in replies) == [call[:4] for call in calls]
