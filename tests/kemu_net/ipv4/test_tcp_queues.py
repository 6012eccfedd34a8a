"""The receive queue and the out-of-order queue."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN
from tcp_ground import ACK, FIN, connected, one_tcp, state


def test_fin_out_of_order_waits_for_the_data():
    with one_tcp() as host:
        sk, peer = connected(host)
        base = peer.seq
        peer.send(FIN | ACK, b"B", seq=base + 1)
        assert state(sk) == "ESTABLISHED"
        peer.send(ACK, b"A", seq=base)
        assert state(sk) == "CLOSE_WAIT"
        assert host.tcp.recvmsg(sk, 10) == b"AB"


def test_out_of_order_data_waits_and_is_acknowledged_at_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        base = peer.seq
        (dup,) = peer.send(ACK, b"BBBB", seq=base + 4)
        assert dup.ack == base
        assert host.tcp.recvmsg(sk, 10, nonblock=True) == -EAGAIN
        (dup,) = peer.send(ACK, b"CCCC", seq=base + 8)
        assert dup.ack == base
        (ack,) = peer.send(ACK, b"AAAA", seq=base)
        assert ack.ack == base + 12
        assert host.tcp.recvmsg(sk, 100) == b"AAAABBBBCCCC"
        host.check()


def test_overlap_and_repetition_deliver_every_byte_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        base = peer.seq
        stream = bytes(range(40))
        for start, end in ((8, 16), (4, 12), (20, 30), (18, 40), (0, 6), (0, 10), (10, 20), (5, 25)):
            peer.send(ACK, stream[start:end], seq=base + start)
        got = b""
        while not isinstance(piece := host.tcp.recvmsg(sk, 7, nonblock=True), int):
            got += piece
        assert got == stream
        host.tcp.abort(sk)
        host.assert_nothing_left()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_pattern_of_segments_delivers_the_stream(data):
    size = data.draw(st.integers(1, 60), label="size")
    stream = bytes(range(100, 100 + size))
    spans = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 20)), max_size=20), label="spans")
    fin = data.draw(st.booleans(), label="fin")
    with one_tcp() as host:
        sk, peer = connected(host, isn=data.draw(st.sampled_from((1000, 0xFFFFFFF0, 0x7FFFFFF0)), label="isn"))
        base = peer.seq
        for start, length in [*spans, *((at, 7) for at in range(0, size, 7))]:
            end = min(start + length, size)
            last = fin and end == size
            peer.send(ACK | (FIN if last else 0), stream[start:end], seq=base + start)
        host.check()
        got = b""
        while not isinstance(piece := host.tcp.recvmsg(sk, 9, nonblock=True), int) and piece:
            got += piece
        assert got == stream
        assert state(sk) == ("CLOSE_WAIT" if fin else "ESTABLISHED")
        host.tcp.abort(sk)
        host.assert_nothing_left()


def test_the_window_grows_to_64k_when_data_fills_its_buffers():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
        for _ in range(60):
            peer.send(ACK, bytes(1460))
        assert sk.rcv_wnd > 60_000
