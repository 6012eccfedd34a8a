"""The server on real sockets of loopback, one step at a time: everything answered or closed, nothing without end."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import ConfigError
from kemu_lab import socket_server
from kemu_lab.socket_server import MAX_CONNECTIONS, MAX_OUT, MAX_RECORD, SocketServer
from kemu_nfs.server.record_marking import RecordReader, frame
from kemu_nfs.server.rpc_server import nfs_server
from nfs_speaker import Client, opaque, words

SPEAKER = Client(None)
STEPS = 2000  # a bound for loops that wait for loopback


class Home:
    """A server and whoever talks to it, in one thread."""

    def __init__(self):
        self.rpc = nfs_server()
        self.server = SocketServer(self.rpc, "127.0.0.1", (0,))
        self.file = self.rpc.tree.make_file("/export/f", 1 << 20)
        self.clients = []

    def connect(self):
        sk = socket.create_connection(("127.0.0.1", self.server.ports[0]), timeout=10)
        sk.setblocking(False)
        self.clients.append(sk)
        self.server.step(0)
        return sk

    def step(self, times=5):
        for _ in range(times):
            self.server.step(0)

    def replies(self, sk, count):
        """Step until so many replies are there; fewer if the connection ends."""
        reader, found = RecordReader(1 << 20), []
        for _ in range(STEPS):
            self.server.step(0.001)
            try:
                data = sk.recv(1 << 16)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return found
            found += reader.feed(data)
            if not data or len(found) >= count:
                return found
        raise AssertionError(f"{len(found)} of {count} replies came")

    def is_closed(self, sk):
        """Step until the server has hung up."""
        for _ in range(STEPS):
            self.server.step(0.001)
            try:
                if not sk.recv(1 << 16):
                    return True
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return True
        return False

    def read_call(self, size=32768):
        return SPEAKER.record(6, opaque(self.file.handle) + struct.pack("!QI", 0, size))

    def close(self):
        for sk in self.clients:
            sk.close()
        self.server.close()
        self.rpc.check()


@contextmanager
def running():
    home = Home()
    try:
        yield home
    finally:
        home.close()


@pytest.fixture
def home():
    with running() as home:
        yield home


def test_calls_are_answered_in_order(home):
    sk = home.connect()
    calls = [SPEAKER.record(0) for _ in range(100)]
    sk.sendall(b"".join(frame(call) for call in calls))
    assert [reply[:4] for reply in home.replies(sk, 100)] == [call[:4] for call in calls]


def test_a_call_may_come_byte_by_byte_and_in_fragments(home):
    sk = home.connect()
    call = SPEAKER.record(0)
    for byte in words(12) + call[:12] + words(0) + words(0x80000000 | len(call) - 12) + call[12:]:
        sk.send(bytes([byte]))
        home.step(1)
    assert home.replies(sk, 1)[0][:4] == call[:4]


def test_udp_answers_on_the_same_port(home):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sk:
        sk.settimeout(10)
        for call in (SPEAKER.record(0), home.read_call()):
            sk.sendto(call, ("127.0.0.1", home.server.ports[0]))
            home.step()
            assert sk.recv(65536)[:4] == call[:4]
        sk.sendto(b"garbage", ("127.0.0.1", home.server.ports[0]))
        sk.sendto(b"", ("127.0.0.1", home.server.ports[0]))
        home.step()
    assert home.rpc.garbage == 2


@pytest.mark.parametrize("stream", [b"\xff\xff\xff\xff", words(0x80000000 | MAX_RECORD + 1), words(MAX_RECORD + 1), words(0) * 300])
def test_a_record_that_is_too_long_closes_the_connection(home, stream):
    """A length of 2**31-1, one byte too many with and without the last mark, and fragments without end."""
    sk = home.connect()
    call = SPEAKER.record(0)
    sk.sendall(frame(call) + stream)
    assert [reply[:4] for reply in home.replies(sk, 1)] == [call[:4]]
    assert home.is_closed(sk)
    assert home.server.connections == {}


def test_who_hangs_up_in_the_middle_is_forgotten(home):
    for end in (b"", frame(SPEAKER.record(0))[:10], frame(SPEAKER.record(0))):
        sk = home.connect()
        sk.sendall(end)
        sk.close()
        home.step()
        assert home.server.connections == {}


def test_who_shuts_down_sending_still_gets_his_answers(home):
    sk = home.connect()
    sk.sendall(frame(SPEAKER.record(0)) + frame(home.read_call()))
    sk.shutdown(socket.SHUT_WR)
    assert len(home.replies(sk, 2)) == 2
    assert home.is_closed(sk)


def test_who_resets_is_forgotten(home):
    sk = home.connect()
    sk.sendall(frame(home.read_call()) * 20)
    sk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sk.close()
    home.step(20)
    assert home.server.connections == {}


def test_who_does_not_read_is_not_read_from_and_keeps_nobody_waiting(home, monkeypatch):
    monkeypatch.setattr(socket_server, "MAX_OUT", 1 << 16)
    sk = home.connect()
    conn = next(iter(home.server.connections.values()))
    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    call = frame(home.read_call())
    sent = 0
    for _ in range(400):
        try:
            sent += sk.send(call)
        except BlockingIOError:
            break
        home.step(1)
    assert conn.out_bytes <= (1 << 16) + 40000
    assert not conn.wanted() & socket_server.READ
    other = home.connect()
    other.sendall(frame(SPEAKER.record(0)))
    assert len(home.replies(other, 1)) == 1
    whole = sent // len(call)
    assert len(home.replies(sk, whole)) == whole


def test_a_small_call_for_much_data_is_bounded_too(home):
    """One read of the socket can hold a thousand calls for 32 KB each."""
    sk = home.connect()
    conn = next(iter(home.server.connections.values()))
    calls = [home.read_call() for _ in range(600)]
    sk.setblocking(True)
    sk.sendall(b"".join(frame(call) for call in calls[:500]))
    sk.setblocking(False)
    most = 0
    for _ in range(50):
        home.step(1)
        most = max(most, conn.out_bytes)
    assert most <= MAX_OUT + 40000
    assert len(home.replies(sk, 500)) == 500


def test_connections_are_limited(home):
    kept = [home.connect() for _ in range(MAX_CONNECTIONS)]
    home.step()
    extra = home.connect()
    assert home.is_closed(extra)
    assert home.server.refused == 1
    kept[0].close()
    home.step()
    late = home.connect()
    late.sendall(frame(SPEAKER.record(0)))
    assert len(home.replies(late, 1)) == 1


def test_who_says_nothing_is_hung_up_on(home, monkeypatch):
    now = [socket_server.time.monotonic()]
    monkeypatch.setattr(socket_server.time, "monotonic", lambda: now[0])
    silent, talking = home.connect(), home.connect()
    for _ in range(4):
        now[0] += socket_server.IDLE / 3
        talking.sendall(frame(SPEAKER.record(0)))
        home.step()
    monkeypatch.undo()
    assert home.is_closed(silent)
    assert len(home.replies(talking, 4)) == 4


def test_a_port_that_is_taken_is_one_sentence(home):
    with pytest.raises(ConfigError, match=f"port {home.server.ports[0]} cannot be listened on: Address already in use"):
        SocketServer(home.rpc, "127.0.0.1", (home.server.ports[0],))


def test_closing_leaves_no_descriptor():
    def count():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 # a Path would hold one open while it counts

    before = count()
    with running() as home:
        home.connect(), home.connect()
        home.step()
    assert count() == before


pieces = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([0, 1, 31, 32, 40, 0x80000000, 0x80000028, 0xFFFFFFFF, 0x80008000, 0x80008801]).map(words),
    st.just(frame(SPEAKER.record(0, xid=1))),
    st.binary(max_size=60).map(frame),
    st.tuples(st.integers(0, 25), st.binary(max_size=60)).map(lambda call: frame(SPEAKER.record(call[0], call[1], xid=2))),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(pieces, max_size=5).map(b"".join), min_size=1, max_size=3), st.binary(max_size=100))
def test_any_stream_is_answered_or_closed_and_others_are_served(streams, datagram):
    with running() as home:
        before = home.rpc.tree.lookup_path("/export").entries.copy()
        for stream in streams:
            home.connect().sendall(stream)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sk:
            sk.sendto(datagram, ("127.0.0.1", home.server.ports[0]))
        home.step()
        for conn in home.server.connections.values():
            assert conn.reader.broken is None
            assert conn.reader.pending <= MAX_RECORD + 4
        witness = home.connect()
        witness.sendall(frame(SPEAKER.record(0)))
        assert len(home.replies(witness, 1)) == 1
        assert home.rpc.tree.lookup_path("/export").entries == before
