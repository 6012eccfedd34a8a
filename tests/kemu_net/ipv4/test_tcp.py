"""The socket calls: connecting, sending, reading, and the end of a connection."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EAGAIN, ECONNREFUSED, ECONNRESET, ENETUNREACH, ENOTCONN, EPIPE
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from kemu_net.core.sock import SOCK_ASYNC_NOSPACE, SOCK_NOSPACE
from kemu_net.ipv4.tcp_timewait import TimeWaitSock
from tcp_ground import ACK, FIN, IP_B, PSH, RST, SECOND, SYN, Peer, connected, flags_of, one_tcp, state, transfer, two_tcps


def test_blocking_connect_gives_the_error_and_may_be_tried_again():
    with two_tcps() as (_world, a, b, _link):
        sk = a.tcp.sock_create()
        assert a.tcp.connect(sk, IP_B, 2049) == -ECONNREFUSED
        assert state(sk) == "CLOSE"
        listener = b.tcp.sock_create()
        b.tcp.bind(listener, 0, 2049)
        b.tcp.listen(listener, 5)
        assert a.tcp.connect(sk, IP_B, 2049) == 0
        assert state(sk) == "ESTABLISHED"


def test_closing_a_listener_resets_who_waits_in_it():
    with one_tcp() as host:
        tcp = host.tcp
        listener = tcp.sock_create()
        tcp.bind(listener, 0, 2049)
        tcp.listen(listener, 5)
        ready, half = Peer(host, 1000, 2049), Peer(host, 1001, 2049)
        ready.saw(ready.send(SYN)[0])
        ready.send(ACK)
        half.send(SYN)
        tcp.close(listener)
        (reset,) = host.sent()
        assert reset.flags & RST and reset.dport == 1000
        assert flags_of(half.send(ACK, ack=1)) == [RST]
        host.assert_nothing_left()


def test_closing_a_listener_ends_accept():
    with one_tcp() as host:
        tcp = host.tcp
        listener = tcp.sock_create()
        tcp.bind(listener, 0, 2049)
        tcp.listen(listener, 5)
        results = []
        host.kernel.sched.spawn("acceptor", lambda: results.append(tcp.accept(listener)))
        host.run(10)
        tcp.close(listener)
        host.run(10)
        assert results == [None]


def test_no_route():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.inet.route_error = -ENETUNREACH
        assert host.tcp.connect(sk, IP_B, 1) == -ENETUNREACH
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_calls_on_an_unconnected_socket():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.sendmsg(sk, b"x") == -EPIPE
        assert host.tcp.recvmsg(sk, 5) == -ENOTCONN
        assert host.tcp.shutdown(sk) == -ENOTCONN
        host.tcp.close(sk)
        host.assert_nothing_left()


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


def test_we_close_first():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.shutdown(sk)
        (fin,) = host.sent()
        assert fin.flags == FIN | ACK
        assert state(sk) == "FIN_WAIT1"
        peer.saw(fin)
        peer.send(ACK)
        assert state(sk) == "FIN_WAIT2"
        peer.send(ACK, b"last words")
        assert host.tcp.recvmsg(sk, 100) == b"last words"
        (ack,) = [seg for seg in peer.send(FIN | ACK) if seg.ack == peer.seq]
        assert ack.flags == ACK
        assert host.tcp.recvmsg(sk, 100) == b""
        assert any(isinstance(tw, TimeWaitSock) for tw in host.tcp.ehash.values())
        host.tcp.close(sk)
        host.run(61_000)
        host.assert_nothing_left()


def test_the_peer_closes_first():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(FIN | ACK)
        assert state(sk) == "CLOSE_WAIT"
        assert host.tcp.recvmsg(sk, 10) == b""
        host.tcp.sendmsg(sk, b"still here")
        assert host.sent()[-1].data == b"still here"
        host.tcp.close(sk)
        fin = host.sent()[-1]
        assert fin.flags & FIN
        assert state(sk) == "LAST_ACK"
        peer.saw(fin)
        peer.send(ACK)
        host.assert_nothing_left()


def test_both_close_at_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        (fin,) = host.sent()
        peer.send(FIN | ACK)  # does not acknowledge ours
        assert state(sk) == "CLOSING"
        peer.saw(fin)
        peer.send(ACK)
        assert any(isinstance(tw, TimeWaitSock) for tw in host.tcp.ehash.values())
        host.run(61_000)
        host.assert_nothing_left()


def test_fin_acknowledged_together_with_the_peers_fin():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        (ack,) = peer.send(FIN | ACK)
        assert ack.ack == peer.seq
        host.run(61_000)
        host.assert_nothing_left()


def test_closing_with_unread_data_resets():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"nobody reads this")
        host.sent()
        host.tcp.close(sk)
        assert flags_of(host.sent()) == [RST | ACK]
        host.assert_nothing_left()


def test_abort_resets_and_frees_what_was_queued():
    with one_tcp() as host:
        sk, _peer = connected(host)
        host.tcp.sendmsg(sk, bytes(10_000))
        host.sent()
        host.tcp.abort(sk)
        assert flags_of(host.sent()) == [RST | ACK]
        host.assert_nothing_left()


def test_disconnect_lets_the_socket_connect_again():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.bind(sk, 0, 0)
        host.tcp.disconnect(sk)
        assert flags_of(host.sent()) == [RST | ACK]
        assert state(sk) == "CLOSE"
        assert host.tcp.connect_nonblock(sk, peer.host.inet.ip + 1, 2049) < 0
        (syn,) = host.sent()
        assert syn.flags == SYN
