import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN, ECONNRESET, EPIPE
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from kemu_net.core.sock import SOCK_ASYNC_NOSPACE, SOCK_NOSPACE
from kemu_net.ipv4.tcp_sock import TCP_NAGLE_OFF
from tcp_ground import (
    ACK,
    FIN,
    IP_A,
    IP_B,
    PSH,
    RST,
    SECOND,
    SYN,
    accepted,
    connected,
    flags_of,
    one_tcp,
    segment,
    state,
    transfer,
    two_tcps,
)

# sending


def test_data_is_cut_into_segments():
    with one_tcp() as host:
        sk, peer = connected(host)
        assert host.tcp.sendmsg(sk, bytes(4000)) == 4000
        segs = host.sent()
        assert [len(seg.data) for seg in segs] == [1460, 1460, 1080]
        assert segs[-1].flags == ACK | PSH
        peer.saw(segs[-1])
        assert peer.send(ACK) == []
        assert not sk.sk_rtx_queue and sk.sk_wmem_queued == 0
        host.check()


def test_congestion_window_limits_what_is_in_flight_and_doubles():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_sndbuf = 1 << 20
        host.tcp.sendmsg(sk, bytes(20 * 1460))
        first = host.sent()
        assert len(first) == 3  # RFC 3390 with 1460 bytes
        out = []
        for seg in first:
            peer.saw(seg)
            out += peer.send(ACK)
        assert len(out) == 6
        assert sk.snd_cwnd == 6


def test_receivers_window_limits_what_is_in_flight():
    with one_tcp() as host:
        sk, _peer = connected(host, win=2000)
        host.tcp.sendmsg(sk, bytes(4000))
        assert [len(seg.data) for seg in host.sent()] == [1460]


def test_nagle_holds_a_short_segment_while_another_is_unacknowledged():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.sendmsg(sk, b"a")
        (first,) = host.sent()
        host.tcp.sendmsg(sk, b"b")
        host.tcp.sendmsg(sk, b"c")
        assert host.sent() == []
        peer.saw(first)
        (second,) = peer.send(ACK)
        assert second.data == b"bc"


def test_nodelay_ends_nagle():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.nonagle |= TCP_NAGLE_OFF
        host.tcp.sendmsg(sk, b"a")
        host.tcp.sendmsg(sk, b"b")
        assert [seg.data for seg in host.sent()] == [b"a", b"b"]


def test_more_corks_a_short_segment_until_the_rest_comes():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.sendmsg(sk, b"head", more=True)
        assert host.sent() == []
        host.tcp.sendmsg(sk, b" and tail")
        assert [seg.data for seg in host.sent()] == [b"head and tail"]


def test_sendpage_copies_nothing_and_holds_the_page_until_acknowledged():
    with one_tcp() as host:
        sk, peer = connected(host)
        page = host.page_alloc.alloc_pages(GFP_KERNEL)
        page.contents = bytes(range(256)) * 16
        assert host.tcp.sendmsg(sk, b"header", more=True) == 6
        assert host.tcp.sendpage(sk, page, 0, 4096) == 4096
        segs = host.sent()
        assert b"".join(seg.data for seg in segs) == b"header" + page.contents
        assert [len(seg.data) for seg in segs] == [1460, 1460, 1182]
        assert page.count == 4
        host.check()
        page.contents = bytes(4096)
        host.run(4000)  # the peer is silent: what is sent again is what the page holds now
        assert host.sent()[0].data == b"header" + bytes(1454)
        peer.ack = segs[-1].seq + 1182
        peer.send(ACK)
        assert page.count == 1
        host.page_alloc.put_page(page)
        host.tcp.abort(sk)
        host.assert_nothing_left()


def test_neighbouring_parts_of_a_page_make_one_fragment():
    with one_tcp() as host:
        sk, _peer = connected(host)
        page = host.page_alloc.alloc_pages(GFP_KERNEL)
        page.contents = bytes(range(256)) * 16
        host.tcp.sendpage(sk, page, 0, 100, more=True)
        host.tcp.sendpage(sk, page, 100, 100, more=True)
        host.tcp.sendpage(sk, page, 300, 50)
        (skb,) = sk.sk_rtx_queue
        assert [(off, size) for _page, off, size in skb.frags] == [(0, 200), (300, 50)]
        assert page.count == 3


def test_a_full_send_buffer_gives_eagain_and_reports_room_later():
    with one_tcp() as host:
        sk, peer = connected(host)
        woken = []
        sk.sk_write_space = lambda sk: woken.append(sk.sk_wmem_queued)
        taken = host.tcp.sendmsg(sk, bytes(1 << 20), nonblock=True)
        assert 0 < taken < 1 << 20
        assert host.tcp.sendmsg(sk, b"x" * 2000, nonblock=True) == -EAGAIN
        assert sk.sk_socket_flags & SOCK_NOSPACE and sk.sk_socket_flags & SOCK_ASYNC_NOSPACE
        pending = host.sent()
        while pending and sk.sk_sndbuf == 16384:
            peer.saw(pending.pop(0))
            pending += peer.send(ACK)
            if not sk.sk_write_queue:
                host.tcp.sendmsg(sk, bytes(1 << 20), nonblock=True)
        assert woken
        assert sk.sk_sndbuf > 16384  # it grows with the window
        host.check()


def test_a_blocking_writer_sleeps_until_there_is_room():
    with one_tcp() as host:
        sk, peer = connected(host)
        results = []
        host.kernel.sched.spawn("writer", lambda: results.append(host.tcp.sendmsg(sk, bytes(100_000))))
        total = 0
        for _ in range(200):
            host.run(1)
            segs = host.sent()
            for seg in segs:
                total += len(seg.data)
                peer.saw(seg)
            if segs:
                host.inet.sent.extend(peer.send(ACK))
        assert results == [100_000]
        assert total == 100_000


def test_a_writer_learns_of_a_reset():
    with one_tcp() as host:
        sk, peer = connected(host)
        results = []
        host.kernel.sched.spawn("writer", lambda: results.append(host.tcp.sendmsg(sk, bytes(1 << 20))))
        host.run(10)
        assert results == []
        peer.send(RST | ACK)
        host.run(10)
        assert len(results) == 1 and (results[0] > 0 or results[0] == -ECONNRESET)
        assert host.tcp.sendmsg(sk, b"x") in (-ECONNRESET, -EPIPE)


def test_without_memory_for_a_segment_nonblocking_gives_eagain_without_the_promise_of_room():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.skbs.alloc_skb = lambda *_args: None
        assert host.tcp.sendmsg(sk, b"x", nonblock=True) == -EAGAIN
        assert sk.sk_socket_flags & (SOCK_NOSPACE | SOCK_ASYNC_NOSPACE) == SOCK_ASYNC_NOSPACE
        del host.skbs.alloc_skb
        assert host.tcp.sendmsg(sk, b"x", nonblock=True) == 1
        host.check()


def test_without_memory_a_blocking_writer_tries_again_later():
    with one_tcp() as host:
        sk, _peer = connected(host)
        failures = [None] * 3
        real = host.skbs.alloc_skb
        host.skbs.alloc_skb = lambda *args: failures.pop() if failures else real(*args)
        start = host.kernel.sched.now
        assert host.tcp.sendmsg(sk, b"x") == 1
        assert host.kernel.sched.now - start > 0
        assert failures == []


# receiving


def test_in_order_data_is_read():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"one ")
        peer.send(ACK | PSH, b"two")
        assert host.tcp.recvmsg(sk, 100) == b"one two"
        assert host.tcp.recvmsg(sk, 100, nonblock=True) == -EAGAIN
        host.check()


def test_recvmsg_gives_at_most_what_is_asked():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abcdef")
        assert [host.tcp.recvmsg(sk, 4), host.tcp.recvmsg(sk, 4)] == [b"abcd", b"ef"]


def test_read_sock_stops_when_the_actor_takes_less():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abcdef")
        peer.send(ACK, b"ghi")
        seen = []

        def actor(data):
            seen.append(bytes(data))
            return 4 if len(seen) == 1 else len(data)

        assert host.tcp.read_sock(sk, actor) == 4
        assert host.tcp.read_sock(sk, actor) == 5
        assert seen == [b"abcdef", b"ef", b"ghi"]


def test_read_sock_in_the_data_ready_callback():
    with one_tcp() as host:
        sk, peer = connected(host)
        got = []
        in_softirq = []

        def data_ready(sk):
            in_softirq.append(host.kernel.sched.in_softirq())
            host.tcp.read_sock(sk, lambda data: got.append(data) or len(data))

        sk.sk_data_ready = data_ready
        peer.send(ACK, b"x" * 1460)
        peer.send(ACK, b"y" * 10)
        assert b"".join(got) == b"x" * 1460 + b"y" * 10
        assert all(in_softirq)
        assert sk.sk_rmem_alloc == 0


def test_every_second_full_segment_is_acknowledged_at_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
        for _ in range(40):  # past the quick acknowledgements
            peer.send(ACK, bytes(1460))
        answers = [len(peer.send(ACK, bytes(1460))) for _ in range(10)]
        assert sum(answers) == 5


def test_a_single_segment_is_acknowledged_after_40_ms():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
        for _ in range(40):
            peer.send(ACK, bytes(1460))
        host.run(300)
        host.sent()
        sk.ack_quick = 0
        start = host.kernel.sched.now
        if not peer.send(ACK, bytes(100)):
            host.run(250)
            (ack,) = host.sent()
            assert 36 <= (ack.time - start) / 1e6 <= 204


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


def test_window_closes_when_nobody_reads_and_opens_with_an_update():
    with one_tcp() as host:
        sk, peer = connected(host)
        acked, window = peer.seq, sk.rcv_wnd
        while window:
            size = min(1460, acked + window - peer.seq)
            if size <= 0:
                host.run(250)
                out = host.sent()
            else:
                out = peer.send(ACK, bytes(size))
            for seg in out:
                acked, window = seg.ack, seg.win
            assert acked + window - peer.seq >= 0
            if not out and size <= 0:
                break
        assert window < 1460
        assert sk.sk_rmem_alloc <= sk.sk_rcvbuf
        total = len(host.tcp.recvmsg(sk, 1 << 20))
        assert total == peer.seq - 1001
        (update,) = host.sent()
        assert update.win > 10_000


def test_the_window_grows_to_64k_when_data_fills_its_buffers():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
        for _ in range(60):
            peer.send(ACK, bytes(1460))
        assert sk.rcv_wnd > 60_000


def test_a_packet_for_an_owned_socket_waits_in_the_backlog():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.socks.lock_sock(sk)
        assert peer.send(ACK, b"a" * 1460) == []
        peer.send(ACK, b"b")
        assert len(sk.sk_backlog) == 2
        assert not sk.sk_receive_queue
        host.socks.release_sock(sk)
        assert host.tcp.recvmsg(sk, 2000) == b"a" * 1460 + b"b"


def test_header_prediction_agrees_with_the_slow_path():
    pieces = [bytes([n]) * (n * 37 % 1460 + 1) for n in range(40)]
    seen = []
    for predicted in (True, False):
        with one_tcp() as host:
            sk, peer = connected(host)
            got = b""
            for piece in pieces:
                if not predicted:
                    sk.pred_flags = 0
                peer.send(ACK, piece)
                got += host.tcp.recvmsg(sk, 5000)
            host.check()
            seen.append((got, sk.rcv_nxt - sk.copied_seq))
    assert seen[0] == seen[1]


def test_a_bad_checksum_is_dropped():
    with one_tcp() as host:
        sk, peer = connected(host)
        raw = bytearray(segment(peer.sport, peer.dport, peer.seq, peer.ack, ACK, b"hello"))
        raw[-1] ^= 1
        host.receive(bytes(raw))
        assert host.stats.ignored["tcp: checksum"] == 1
        assert host.tcp.recvmsg(sk, 5, nonblock=True) == -EAGAIN


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.integers(-5, 5), st.integers(-5, 5), st.integers(0, 40), st.integers(0, 65535)),
        max_size=12,
    )
)
def test_random_segments_never_raise(segments):
    with one_tcp() as host:
        listener, sk, peer = accepted(host)
        other, second = connected(host, port=99)
        for flags, dseq, dack, size, win in segments:
            for one, who in ((sk, peer), (other, second)):
                seq = (one.rcv_nxt or 1000) + dseq * 300
                host.receive(segment(who.sport, who.dport, seq, one.snd_nxt + dack, flags, bytes(size), win))
                host.check()
            host.receive(segment(7, 2049, dseq & 0xFFFF, dack & 0xFFFF, flags, bytes(size), win))
        host.run(10)
        host.sent()
        for one in (sk, other, listener):
            host.tcp.close(one)
        host.run(400_000)
        host.assert_nothing_left()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=80))
def test_random_bytes_never_raise(raw):
    with one_tcp() as host:
        accepted(host)
        host.receive(raw)
        host.receive(raw, saddr=IP_A, daddr=IP_B)
        host.check()


# both ends


def test_two_hosts():
    with two_tcps() as (world, a, b, link):
        data = bytes(range(256)) * 1000
        got, results = transfer(world, a, b, data)
        assert got == data
        assert results["connect"] == 0 and results["end"] == b""
        assert a.stats.retransmits == b.stats.retransmits == 0
        world.run(for_ns=70 * SECOND)
        a.assert_nothing_left()
        b.assert_nothing_left()
        assert all(seg.flags & ~(FIN | SYN | PSH | ACK) == 0 for seg in link.log)


@pytest.mark.parametrize("mtu", [576, 1500, 9000])
def test_any_mtu(mtu):
    with two_tcps(mtu=mtu) as (world, a, b, _link):
        data = bytes(range(251)) * 300
        got, _results = transfer(world, a, b, data, chunk=30_000)
        assert got == data


def test_two_cpus():
    with two_tcps(ncpus=2) as (world, a, b, _link):
        data = bytes(range(251)) * 500
        got, _results = transfer(world, a, b, data)
        assert got == data
        a.check()
        b.check()


def test_sndbuf_and_allocation_flags_are_the_sockets():
    with one_tcp() as host:
        sk, _peer = connected(host)
        seen = []
        real = host.skbs.alloc_skb
        host.skbs.alloc_skb = lambda size, gfp, flags=0: seen.append(gfp) or real(size, gfp, flags)
        sk.sk_allocation = GFP_ATOMIC
        host.tcp.sendmsg(sk, b"x")
        sk.sk_allocation = GFP_KERNEL
        host.tcp.sendmsg(sk, b"y" * 3000)
        assert seen[0] == GFP_ATOMIC and seen[1] == GFP_KERNEL
        assert flags_of(host.sent())
