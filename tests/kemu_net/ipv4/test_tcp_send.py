"""Writing: segments, pages, room, memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EAGAIN, ECONNRESET, EPIPE
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from kemu_net.core.sock import SEND_SHUTDOWN, SOCK_ASYNC_NOSPACE, SOCK_NOSPACE, SOCK_SNDBUF_LOCK
from kemu_net.ipv4.tcp_sock import TCP_NAGLE_OFF, TCP_NAGLE_PUSH
from tcp_ground import ACK, FIN, PSH, RST, connected, connecting, flags_of, one_tcp


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


@pytest.mark.parametrize("kind", ["sendmsg", "sendpage"])
def test_nothing_is_sent_behind_a_shutdown(kind):
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.sk_shutdown |= SEND_SHUTDOWN
        page = host.page_alloc.alloc_pages(GFP_KERNEL)
        call = host.tcp.sendmsg if kind == "sendmsg" else lambda sk, _data: host.tcp.sendpage(sk, page, 0, 1)
        assert call(sk, b"x") == -EPIPE
        sk.sk_shutdown = 0
        sk.sk_err = ECONNRESET
        assert call(sk, b"x") == -ECONNRESET
        assert sk.sk_err == 0
        assert host.sent() == []


def test_an_error_that_comes_while_a_writer_waits_is_given_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_wmem_queued = sk.sk_sndbuf  # full, of something else
        results = []
        host.kernel.sched.spawn("writer", lambda: results.append(host.tcp.sendmsg(sk, b"x")))
        host.run(10)
        sk.sk_wmem_queued = 0
        peer.send(RST | ACK)
        host.run(10)
        assert results == [-ECONNRESET]
        assert sk.sk_err == 0


def test_a_page_that_may_not_be_charged_leaves_no_empty_segment():
    with one_tcp(mtu=9000) as host:
        sk, _peer = connected(host)
        sk.mss_cache = 8960
        sk.sk_sndbuf, sk.sk_userlocks = 1 << 20, SOCK_SNDBUF_LOCK
        page = host.page_alloc.alloc_pages(GFP_KERNEL)
        real = host.tcp.streams.sk_stream_mem_schedule
        host.tcp.streams.sk_stream_mem_schedule = lambda sk, size, *rest: size != 4096 and real(sk, size, *rest)
        assert host.tcp.sendpage(sk, page, 0, 4096, nonblock=True) == -EAGAIN
        assert not sk.sk_write_queue
        assert page.count == 1
        host.check()
        assert host.tcp.sendpage(sk, page, 0, 100, more=True) == 100
        assert host.tcp.sendpage(sk, page, 0, 4096, nonblock=True) == -EAGAIN
        assert [skb.len for skb in sk.sk_write_queue] == [100]
        del host.tcp.streams.sk_stream_mem_schedule
        assert host.tcp.sendpage(sk, page, 0, 4096, nonblock=True) == 4096
        host.check()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4095), st.integers(1, 4096), st.booleans()), min_size=1, max_size=12),
    st.sampled_from((536, 1460, 8960)),
)
def test_copies_and_pages_make_one_stream(writes, mss):
    with one_tcp(mtu=mss + 40) as host:
        sk, peer = connected(host)
        sk.mss_cache = mss
        sk.sk_sndbuf = 1 << 20
        sk.snd_cwnd = 1000
        page = host.page_alloc.alloc_pages(GFP_KERNEL)
        page.contents = bytes(n * 7 % 251 for n in range(4096))
        expected = b""
        for paged, start, size, more in writes:
            piece = page.contents[start : start + size]
            if paged:
                assert host.tcp.sendpage(sk, page, start, len(piece), more) == len(piece)
            else:
                assert host.tcp.sendmsg(sk, piece, more) == len(piece)
            expected += piece
        host.tcp.close(sk)
        got = b""
        for _ in range(200):
            segs = host.sent()
            if not segs:
                break
            for seg in segs:
                assert len(seg.data) <= mss
                got += seg.data
                peer.saw(seg)
            host.inet.sent.extend(peer.send(ACK))
        assert got == expected
        peer.send(FIN | ACK)
        assert page.count == 1
        host.run(61_000)
        host.sent()
        host.assert_nothing_left()


# segments longer than a head


def test_a_jumbo_segment_has_pages_behind_its_head():
    with one_tcp(mtu=9000) as host:
        sk, peer = connected(host, mss=b"\x02\x04\x23\x00")
        assert sk.mss_cache == 8960
        sk.sk_sndbuf, sk.snd_cwnd = 1 << 20, 10
        data = bytes(range(251)) * 100
        assert host.tcp.sendmsg(sk, data) == len(data)
        segs = host.sent()
        assert [len(seg.data) for seg in segs] == [8960, 8960, 7180]
        assert b"".join(seg.data for seg in segs) == data
        first = sk.sk_rtx_queue[0]
        assert first.len - first.data_len == 3648  # 3592, rounded up to a cache line with its headers
        host.check()
        peer.saw(segs[-1])
        peer.send(ACK)
        host.tcp.abort(sk)
        host.assert_nothing_left()


def test_writes_share_the_sockets_page_and_what_was_sent_stays():
    with one_tcp(mtu=9000) as host:
        sk, peer = connected(host, mss=b"\x02\x04\x23\x00")
        sk.sk_sndbuf = 1 << 20
        free = host.page_alloc.nr_free_pages()
        host.tcp.sendmsg(sk, b"a" * 4000, more=True)
        host.tcp.sendmsg(sk, b"b" * 300, more=True)
        host.tcp.sendmsg(sk, b"c" * 300)
        (skb,) = sk.sk_rtx_queue
        assert len(skb.frags) == 1
        host.tcp.sendmsg(sk, b"d" * 5000)
        host.inet.sent.clear()
        sk.nonagle = 1
        host.tcp.tcp_retransmit_skb(sk, skb)
        (again,) = host.sent()
        assert again.data == b"a" * 4000 + b"b" * 300 + b"c" * 300
        peer.ack = sk.snd_nxt
        peer.send(ACK)
        host.tcp.abort(sk)
        host.assert_nothing_left()
        assert host.page_alloc.nr_free_pages() >= free - 8  # slabs may have grown


def test_without_a_page_the_writer_waits_for_one():
    with one_tcp(mtu=9000) as host:
        sk, peer = connected(host, mss=b"\x02\x04\x23\x00")
        sk.sk_sndbuf = 1 << 20
        host.skbs.page_alloc = SimpleNamespace(alloc_pages=lambda *_args: None)  # slabs have their own
        taken = host.tcp.sendmsg(sk, bytes(8000), nonblock=True)
        host.skbs.page_alloc = host.page_alloc
        assert taken == 3648
        assert sk.sk_prot.memory_pressure
        assert sk.sk_sndbuf == 2048  # the shortage shrinks the buffer
        peer.saw(host.sent()[-1])
        peer.send(ACK)
        assert host.tcp.sendmsg(sk, bytes(8000)) == 8000
        host.check()


def test_sndtimeo_bounds_the_wait_for_room():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.sk_sndtimeo = 250
        start = host.kernel.sched.now
        taken = host.tcp.sendmsg(sk, bytes(1 << 20))
        assert 0 < taken < 1 << 20
        assert host.kernel.sched.now - start == pytest.approx(1e9, rel=0.05)
        assert host.tcp.sendmsg(sk, bytes(1 << 20)) == -EAGAIN


def test_sndtimeo_bounds_the_wait_for_the_connection():
    with one_tcp() as host:
        sk, _peer = connecting(host)
        sk.sk_sndtimeo = 250
        assert host.tcp.sendmsg(sk, b"too early") == -EAGAIN


def test_a_segment_that_starts_ends_the_push_of_nodelay():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.nonagle = TCP_NAGLE_OFF | TCP_NAGLE_PUSH
        host.tcp.sendmsg(sk, b"x")
        assert sk.nonagle == TCP_NAGLE_OFF
