"""The socket calls: connecting, sending, reading, and the end of a connection."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import (
    EADDRNOTAVAIL,
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EINPROGRESS,
    EINVAL,
    ENETUNREACH,
    ENOBUFS,
    ENOTCONN,
    EPIPE,
)
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from kemu_net.core.sock import SEND_SHUTDOWN, SOCK_ASYNC_NOSPACE, SOCK_NOSPACE, SOCK_SNDBUF_LOCK
from kemu_net.ipv4.tcp_timewait import TimeWaitSock
from tcp_ground import (
    ACK,
    FIN,
    IP_A,
    IP_B,
    PSH,
    RST,
    SECOND,
    SYN,
    Peer,
    accepted,
    connected,
    flags_of,
    listen_on,
    one_tcp,
    state,
    transfer,
    two_tcps,
)


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


# what goes wrong


def refuse(host, name):
    """Let one cache be without memory."""
    real = host.slub.kmem_cache_alloc
    host.slub.kmem_cache_alloc = lambda cache, gfp: None if cache is host.slub.caches[name] else real(cache, gfp)


def test_without_memory_for_an_inode_there_is_no_socket():
    with one_tcp() as host:
        refuse(host, "sock_inode_cache")
        assert host.tcp.sock_create() is None
        host.assert_nothing_left()


def test_without_memory_for_an_inode_an_accepted_connection_is_closed():
    with one_tcp() as host:
        listener = listen_on(host)
        peer = Peer(host, 999, 2049)
        peer.saw(peer.send(SYN)[0])
        peer.send(ACK)
        refuse(host, "sock_inode_cache")
        assert host.tcp.accept(listener, nonblock=True) is None
        assert flags_of(host.sent()) == [FIN | ACK]


def test_only_own_addresses_can_be_bound_and_once():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.bind(sk, IP_B, 80) == -EADDRNOTAVAIL
        assert host.tcp.bind(sk, IP_A, 80) == 0
        assert host.tcp.bind(sk, IP_A, 81) == -EINVAL


def test_two_connections_need_two_pairs_of_ends():
    with one_tcp() as host:
        first, _peer = connected(host)
        second, third = host.tcp.sock_create(), host.tcp.sock_create()
        first.sk_reuse = second.sk_reuse = True
        second.sport, second.saddr = first.sport, first.saddr
        host.tcp.inet_bind_hash(second, first.bind_bucket, True)
        second.bind_port = first.sport
        assert host.tcp.connect(second, IP_B, 2049) == -EADDRNOTAVAIL
        assert host.tcp.connect_nonblock(second, IP_B, 2050) == -EINPROGRESS
        third.sport, third.saddr = first.sport, first.saddr
        host.tcp.inet_bind_hash(third, first.bind_bucket, True)
        assert host.tcp.connect(third, IP_B, 2049) == -EADDRNOTAVAIL
        assert third.bind_bucket is None  # its port was not asked for


def test_without_memory_for_a_syn_connecting_fails_and_can_be_tried_again():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.skbs.alloc_skb = lambda *_args: None
        assert host.tcp.connect(sk, IP_B, 2049) == -ENOBUFS
        assert state(sk) == "CLOSE"
        assert not host.tcp.ehash and not host.tcp.bhash
        del host.skbs.alloc_skb
        assert host.tcp.connect_nonblock(sk, IP_B, 2049) == -EINPROGRESS
        host.tcp.close(sk)
        host.assert_nothing_left()


def test_without_memory_for_a_route_connecting_says_so():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.inet.route_error = -ENOBUFS
        assert host.tcp.connect(sk, IP_B, 2049) == -ENOBUFS


def test_a_listener_without_a_port_gets_one():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        assert host.tcp.listen(sk, 5) == 0
        assert host.tcp.listening_hash == {sk.sport: sk}
        assert host.tcp.accept(sk, nonblock=True) is None
        assert host.tcp.read_sock(sk, len) == -ENOTCONN


def test_a_connection_cannot_listen():
    with one_tcp() as host:
        sk, _peer = connected(host)
        assert host.tcp.listen(sk, 5) == -EINVAL
        assert state(sk) == "ESTABLISHED"


def test_disconnecting_a_listener_refuses_who_waits():
    with one_tcp() as host:
        listener, _sk, _peer = accepted(host)
        waiting = Peer(host, 999, 2049)
        waiting.saw(waiting.send(SYN)[0])
        waiting.send(ACK)
        assert host.tcp.disconnect(listener) == 0
        assert flags_of(host.sent()) == [RST | ACK]
        assert state(listener) == "CLOSE"
        assert not listener.accept_queue and not host.tcp.listening_hash


def test_disconnecting_frees_what_came_too_early():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"early", seq=peer.seq + 100)
        host.tcp.disconnect(sk)
        assert not sk.out_of_order_queue
        host.tcp.close(sk)
        host.sent()
        host.assert_nothing_left()


def test_a_connection_half_made_is_not_accepted():
    with one_tcp() as host:
        listener = listen_on(host)
        peer = Peer(host, 999, 2049)
        peer.saw(peer.send(SYN)[0])
        req = listener.syn_table[(IP_B, 999)]
        child = host.tcp._tcp_v4_syn_recv_sock(listener, req)  # before its first segment was processed
        listener.accept_queue.append(child)
        listener.sk_ack_backlog += 1
        assert state(child) == "SYN_RECV"
        assert host.tcp.accept(listener, nonblock=True) is None
        peer.send(ACK)
        assert host.tcp.accept(listener, nonblock=True) is child


def test_a_writer_waits_for_the_connection():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        assert host.tcp.sendmsg(sk, b"x", nonblock=True) == -EAGAIN
        results = []
        host.kernel.sched.spawn("writer", lambda: results.append(host.tcp.sendmsg(sk, b"hello")))
        host.run(10)
        assert results == []
        peer = Peer(host, 2049, syn.sport)
        peer.saw(syn)
        sent = peer.send(SYN | ACK)
        host.run(10)
        assert results == [5]
        assert [seg.data for seg in [*sent, *host.sent()]][-1] == b"hello"


def test_a_writer_that_waits_learns_that_nobody_listens():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        results = []
        host.kernel.sched.spawn("writer", lambda: results.append(host.tcp.sendmsg(sk, b"hello")))
        host.run(10)
        peer = Peer(host, 2049, syn.sport)
        peer.saw(syn)
        peer.send(RST | ACK)
        host.run(10)
        assert results == [-ECONNREFUSED]


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


def test_an_actor_may_empty_the_socket():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abc")

        def actor(data):
            host.socks.skb_queue_purge(sk.sk_receive_queue)
            return len(data)

        assert host.tcp.read_sock(sk, actor) == 3


def test_an_actor_that_takes_nothing_leaves_everything():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"abc")
        assert host.tcp.read_sock(sk, lambda _data: 0) == 0
        assert host.tcp.recvmsg(sk, 10) == b"abc"


def test_data_on_a_repeated_syn_is_read_once():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        (syn,) = host.sent()
        peer = Peer(host, 2049, syn.sport)
        peer.saw(peer.send(SYN)[0])  # both connect at once
        peer.send(SYN | ACK, b"data", seq=peer.isn)
        assert state(sk) == "ESTABLISHED"
        assert host.tcp.recvmsg(sk, 10) == b"data"


def test_shutdown_of_what_is_not_connected_yet():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.tcp.connect_nonblock(sk, IP_B, 2049)
        assert host.tcp.shutdown(sk) == -ENOTCONN
        assert flags_of(host.sent()) == [SYN]


def test_shutting_down_twice_sends_one_fin():
    with one_tcp() as host:
        sk, _peer = connected(host)
        assert [host.tcp.shutdown(sk), host.tcp.shutdown(sk)] == [0, 0]
        assert flags_of(host.sent()) == [FIN | ACK]
        assert state(sk) == "FIN_WAIT1"


def test_closing_after_the_peer_acknowledged_our_fin_leaves_a_minisocket():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.shutdown(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        assert state(sk) == "FIN_WAIT2"
        host.tcp.close(sk)
        assert (host.in_use()["TCP"], host.in_use()["tw_sock_TCP"]) == (0, 1)
        host.run(61_000)
        host.assert_nothing_left()


def test_a_reader_waits_for_the_first_byte():
    with one_tcp() as host:
        sk, peer = connected(host)
        got = []
        host.kernel.sched.spawn("reader", lambda: got.append(host.tcp.recvmsg(sk, 10)))
        host.run(10)
        peer.send(ACK, b"at last")
        host.run(10)
        assert got == [b"at last"]


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
