"""Sending over TCP in pieces, receiving, room and memory on the socket."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN, ECONNRESET, ENOMEM, EPIPE
from kemu_net.core.sock import SOCK_ASYNC_NOSPACE, SOCK_NOSPACE
from kemu_nfs.sunrpc.rpc_task import RPC_TASK_ASYNC, RpcProc
from kemu_nfs.sunrpc.xprtsock import TcpXprt
from rpc_ground import ACCEPTED, MS, SECOND, RpcGround


class FakeSock:
    def __init__(self) -> None:
        self.sk_socket_flags = 0
        self.sk_sndbuf = 10000
        self.sk_wmem_queued = 0


class FakeTcp:
    """A socket that takes as many bytes as it is told to, call by call."""

    def __init__(self) -> None:
        self.wire = b""
        self.takes: list[int] = []

    def _take(self, data: bytes) -> int:
        n = self.takes.pop(0) if self.takes else len(data)
        if n < 0:
            return n
        n = min(n, len(data))
        if not n:
            return -EAGAIN
        self.wire += data[:n]
        return n

    def sendmsg(self, sk, data, more=False, nonblock=False):
        assert nonblock
        return self._take(data)

    def sendpage(self, sk, page, offset, size, more=False, nonblock=False):
        assert nonblock
        return self._take(page.contents[offset : offset + size])

    def read_sock(self, sk, actor):
        data, self.incoming = self.incoming, b""
        return actor(data)

    def close(self, sk):
        pass


class FakeStack:
    def __init__(self) -> None:
        self.tcp = FakeTcp()
        self.udp = None
        self.socks = None


class FakePage:
    def __init__(self, contents) -> None:
        self.contents = contents


class Sending(RpcGround):
    """A client on a TcpXprt whose socket is a FakeSock."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.stack = FakeStack()
        self.xprt = TcpXprt(self.rpc, self.stack, 1, 2)
        self.clnt.xprt = self.xprt
        self.sk = self.xprt.inet = FakeSock()
        self.xprt.connected = True
        self.xprt.close = self.closed
        self.closes = 0
        self.page = FakePage(bytes(range(256)) * 16)
        self.proc = RpcProc("WRITE", 7, lambda _args: (b"HEAD", [(self.page, 0, 4096), (self.page, 10, 6)], b"\0\0"), self.decode)

    def closed(self):
        self.closes += 1

    @staticmethod
    def decode(reply, offset, _args):
        return reply[offset:]

    def expected(self, xid: int) -> bytes:
        call = (
            struct.pack("!6I", xid, 0, 2, 100, 3, 7)
            + bytes(16)
            + b"HEAD"
            + self.page.contents
            + self.page.contents[10:16]
            + b"\0\0"
        )
        return struct.pack("!I", 0x80000000 | len(call)) + call

    def answer(self, xid: int, results: bytes = b"done", cut: int = 0) -> None:
        reply = xid.to_bytes(4, "big") + ACCEPTED + results
        data = struct.pack("!I", 0x80000000 | len(reply)) + reply
        for piece in (data[:cut], data[cut:]):
            if piece:
                self.stack.tcp.incoming = piece
                self.xprt.xs_tcp_data_ready(self.sk)


@pytest.fixture
def ground():
    g = Sending()
    yield g
    g.kernel.shutdown()


def test_a_call_goes_out_as_one_marked_record(ground):
    ground.start("a", proc=ground.proc)
    ground.run_for(MS)
    (xid,) = ground.xprt.recv
    assert ground.stack.tcp.wire == ground.expected(xid)
    ground.answer(xid)
    ground.run_for(MS)
    assert ground.ops.done == [("a", 0, b"done")]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2500), min_size=1, max_size=25), st.integers(0, 30))
def test_however_the_socket_takes_it_the_record_arrives_whole_and_once(takes, cut):
    ground = Sending()
    try:
        ground.stack.tcp.takes = list(takes)
        ground.start("a", proc=ground.proc)
        for _ in range(40):
            ground.run_for(SECOND)
            ground.xprt.xs_tcp_write_space(ground.sk)
        (xid,) = ground.xprt.recv
        assert ground.stack.tcp.wire == ground.expected(xid)
        ground.answer(xid, b"results!", cut)
        ground.run_for(MS)
        assert ground.ops.done == [("a", 0, b"results!")]
    finally:
        ground.kernel.shutdown()


def test_without_room_the_sender_keeps_his_right_and_goes_on_when_there_is_room(ground):
    ground.stack.tcp.takes = [1000000, 2000, 0]
    ground.sk.sk_wmem_queued = 9000
    ground.start("a", proc=ground.proc)
    ground.start("b", proc=ground.proc)
    ground.run_for(100 * MS)
    a = ground.xprt.snd_task
    assert a.tk_calldata == "a"
    assert a.tk_rqstp.rq_bytes_sent == len(ground.expected(0)) - 4096 - 8 + 2000
    assert ground.sk.sk_socket_flags == SOCK_NOSPACE | SOCK_ASYNC_NOSPACE
    ground.xprt.xs_tcp_write_space(ground.sk)
    ground.run_for(100 * MS)
    assert ground.xprt.snd_task is a, "not enough room yet: half of what is queued must be free"
    ground.sk.sk_wmem_queued = 2000
    ground.xprt.xs_tcp_write_space(ground.sk)
    ground.run_for(100 * MS)
    assert ground.sk.sk_socket_flags == 0
    assert ground.stack.tcp.wire == b"".join(map(ground.expected, ground.xprt.recv))


def test_without_memory_it_is_tried_again_after_a_sixteenth_of_a_second(ground):
    ground.stack.tcp.takes = [-EAGAIN]  # room there is: it was an allocation that failed
    ground.start("a", proc=ground.proc)
    ground.run_for(30 * MS)
    assert ground.stack.tcp.wire == b""
    assert ground.xprt.locked
    assert not ground.sk.sk_socket_flags & SOCK_NOSPACE
    ground.run_for(60 * MS)
    (xid,) = ground.xprt.recv
    assert ground.stack.tcp.wire == ground.expected(xid)


def test_a_socket_that_says_enomem_is_one_without_memory(ground):
    ground.stack.tcp.takes = [-ENOMEM]
    ground.start("a", proc=ground.proc)
    ground.run_for(100 * MS)
    assert ground.stack.tcp.wire


@pytest.mark.parametrize("error", [-EPIPE, -ECONNRESET])
def test_a_broken_connection_is_made_anew_first(ground, error):
    connects = []
    ground.xprt.connect = connects.append
    ground.stack.tcp.takes = [error]
    task = ground.start("a", proc=ground.proc)

    def gone(_):
        ground.xprt.connected = False
        return -EPIPE

    ground.xprt.send_request = gone
    ground.run_for(MS)
    assert connects == [task]


def test_an_error_that_nobody_knows_drops_the_connection_and_ends_the_call(ground):
    ground.stack.tcp.takes = [-71]
    ground.start("a", proc=ground.proc)
    ground.run_for(MS)
    assert not ground.xprt.connected
    assert ground.ops.done[0][1] == -71
    assert "unrecognized error 71" in ground.messages()[0]


def test_garbage_closes_the_connection_and_no_more_is_read(ground):
    ground.start("a", proc=ground.proc)
    ground.run_for(MS)
    ground.stack.tcp.incoming = b"\xff\xff\xff\xffgarbage"
    ground.xprt.connect = lambda _task: None
    ground.xprt.xs_tcp_data_ready(ground.sk)
    ground.run_for(MS)
    assert ground.closes == 1
    assert not ground.xprt.connected
    assert ground.xprt.stream.broken


def test_callbacks_of_an_old_socket_do_nothing(ground):
    old = ground.sk
    ground.xprt.inet = FakeSock()
    ground.stack.tcp.incoming = b"\xff" * 20
    ground.xprt.xs_tcp_data_ready(old)
    assert ground.xprt.stream.broken is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_no_bytes_from_the_server_raise_anything(pieces):
    ground = Sending()
    try:
        ground.xprt.connect = lambda _task: None
        ground.start("a", proc=ground.proc)
        ground.run_for(MS)
        for piece in pieces:
            ground.stack.tcp.incoming = piece
            ground.xprt.xs_tcp_data_ready(ground.sk)
        ground.run_for(MS)
        ground.xprt.check()
    finally:
        ground.kernel.shutdown()


def test_tasks_of_both_kinds_are_asynchronous(ground):
    assert ground.start("a", proc=ground.proc).tk_flags & RPC_TASK_ASYNC
