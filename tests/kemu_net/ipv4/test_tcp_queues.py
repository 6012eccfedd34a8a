"""The receive queue and the out-of-order queue."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN
from kemu_net.core.sock import SOCK_RCVBUF_LOCK
from tcp_ground import ACK, FIN, MIB, connected, one_tcp, state


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


def ofo(sk):
    return [(skb.seq - sk.rcv_nxt, skb.len) for skb in sk.out_of_order_queue]


def test_what_others_hold_whole_is_dropped():
    with one_tcp() as host:
        sk, peer = connected(host)
        base = peer.seq
        peer.send(ACK, b"x" * 30, seq=base + 100)
        peer.send(ACK, b"x" * 10, seq=base + 110)  # inside the first
        assert ofo(sk) == [(100, 30)]
        peer.send(ACK, b"x" * 50, seq=base + 90)  # around it
        assert ofo(sk) == [(90, 50)]
        host.check()


def test_beyond_the_window_nothing_is_kept():
    with one_tcp() as host:
        sk, peer = connected(host)
        window = sk.rcv_wnd
        (ack,) = peer.send(ACK, b"x", seq=peer.seq + window + 1)
        assert ack.ack == peer.seq
        assert not sk.out_of_order_queue
        peer.send(ACK, b"x", seq=peer.seq + window)  # touches its end
        assert not sk.out_of_order_queue
        peer.send(ACK, b"x", seq=peer.seq + window - 1)
        assert len(sk.out_of_order_queue) == 1


def test_a_probe_of_a_closed_window_is_answered_and_dropped():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.rcv_wnd = 0
        sk.pred_flags = 0
        sk.sk_rmem_alloc = sk.sk_rcvbuf  # full, of something else
        (ack,) = peer.send(ACK, b"x", advance=False)
        assert (ack.ack, ack.win) == (peer.seq, 0)
        assert not sk.sk_receive_queue
        sk.sk_rmem_alloc = 0


def test_a_fin_behind_a_hole_ends_the_stream_once_it_is_filled():
    with one_tcp() as host:
        sk, peer = connected(host)
        base = peer.seq
        peer.send(ACK | FIN, b"C", seq=base + 2)
        peer.send(ACK, b"B", seq=base + 1)
        peer.send(ACK, b"later", seq=base + 10)  # behind the end: it cannot be
        peer.send(ACK, b"A", seq=base)
        assert host.tcp.recvmsg(sk, 10) == b"ABC"
        assert host.tcp.recvmsg(sk, 10) == b""
        assert not sk.out_of_order_queue
        host.check()


def test_refused_segments_are_counted():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.streams.sk_stream_rmem_schedule = lambda _sk, _skb: False
        sk.sk_forward_alloc = 0
        sk.pred_flags = 0
        peer.send(ACK, b"x", advance=False)
        peer.send(ACK, b"x", seq=peer.seq + 10)
        assert host.stats.drops["rmem"] == 2
        assert not sk.sk_receive_queue and not sk.out_of_order_queue


def small_segments(peer, count, size=100):
    stream = b""
    for number in range(count):
        piece = bytes([number % 256]) * size
        peer.send(ACK, piece)
        stream += piece
    return stream


def drain(host, sk):
    got = b""
    while isinstance(piece := host.tcp.recvmsg(sk, 1 << 20, nonblock=True), bytes) and piece:
        got += piece
    return got


def test_small_segments_are_copied_together_and_read_as_before():
    with one_tcp() as host:
        sk, peer = connected(host)
        stream = small_segments(peer, 60)
        before = sk.sk_rmem_alloc
        assert host.tcp.recvmsg(sk, 150) == stream[:150]
        assert host.tcp.tcp_prune_queue(sk) == 0
        assert sk.sk_rmem_alloc < before // 4
        assert len(sk.sk_receive_queue) == 2
        host.check()
        assert drain(host, sk) == stream[150:]


def test_a_fin_is_never_copied():
    with one_tcp() as host:
        sk, peer = connected(host)
        stream = small_segments(peer, 5)
        peer.send(ACK | FIN, b"end")
        host.tcp.tcp_prune_queue(sk)
        assert len(sk.sk_receive_queue) == 2
        assert drain(host, sk) == stream + b"end"


def test_what_does_not_save_memory_is_not_copied():
    with one_tcp() as host:
        sk, peer = connected(host)
        small_segments(peer, 2, 1460)
        before = list(sk.sk_receive_queue)
        for skb in before:  # as if they had come in buffers of their size
            sk.sk_rmem_alloc -= skb.truesize - 1700
            sk.sk_forward_alloc += skb.truesize - 1700
            skb.truesize = 1700
        host.tcp.tcp_prune_queue(sk)
        assert list(sk.sk_receive_queue) == before
        host.check()


def test_without_memory_for_a_copy_everything_stays():
    with one_tcp() as host:
        sk, peer = connected(host)
        stream = small_segments(peer, 20)
        host.skbs.alloc_skb = lambda *_args: None
        host.tcp.tcp_prune_queue(sk)
        assert len(sk.sk_receive_queue) == 20
        del host.skbs.alloc_skb
        assert drain(host, sk) == stream


def test_a_socket_over_its_buffer_gives_up_what_came_too_early():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_userlocks |= SOCK_RCVBUF_LOCK
        stream = small_segments(peer, 4, 1400)
        peer.send(ACK, b"early" * 200, seq=peer.seq + 2000)
        sk.sk_rcvbuf = 7500  # too little even for what is copied together
        assert host.tcp.tcp_prune_queue(sk) == 0
        assert not sk.out_of_order_queue
        sk.sk_rcvbuf = 100
        assert host.tcp.tcp_prune_queue(sk) == -1
        assert sk.rcv_ssthresh <= 2 * sk.advmss
        host.check()
        assert drain(host, sk) == stream


def test_a_buffer_grows_to_what_it_holds_unless_its_size_was_set():
    for locked in (0, SOCK_RCVBUF_LOCK):
        with one_tcp(mem=256 * MIB) as host:
            sk, peer = connected(host)
            sk.sk_userlocks = locked
            small_segments(peer, 4, 1400)
            sk.sk_rcvbuf = 5000
            host.tcp.tcp_clamp_window(sk)
            assert (sk.sk_rcvbuf == 5000) == bool(locked)
            assert (sk.sk_rcvbuf >= sk.sk_rmem_alloc) != bool(locked)


def test_under_pressure_the_window_shrinks_to_four_segments():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.rcv_ssthresh = 50_000
        host.tcp.prot.memory_pressure = 1
        host.tcp.tcp_prune_queue(sk)
        assert sk.rcv_ssthresh == 4 * 1460


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_copying_together_at_any_time_changes_no_byte(data):
    size = data.draw(st.integers(1, 6000), label="size")
    stream = bytes(n * 31 % 256 for n in range(size))
    spans = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 1460)), max_size=15), label="spans")
    prune = data.draw(st.sets(st.integers(0, 20)), label="prune")
    with one_tcp() as host:
        sk, peer = connected(host, isn=data.draw(st.sampled_from((1000, 0xFFFFF000)), label="isn"))
        base = peer.seq
        got = b""
        for number, (start, length) in enumerate([*spans, *((at, 1400) for at in range(0, size, 1400))]):
            end = min(start + length, size)
            peer.send(ACK | (FIN if end == size else 0), stream[start:end], seq=base + start)
            if number in prune:
                host.tcp.tcp_prune_queue(sk)
                host.check()
                if number % 2 and isinstance(piece := host.tcp.recvmsg(sk, 700, nonblock=True), bytes):
                    got += piece
        assert got + drain(host, sk) == stream
        host.tcp.abort(sk)
        host.sent()
        host.assert_nothing_left()
