"""Opening connections."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EADDRNOTAVAIL, EAGAIN, ECONNREFUSED, EINPROGRESS, ENETUNREACH, ENOBUFS
from tcp_ground import ACK, IP_B, RST, SYN, Peer, connected, one_tcp, state, two_tcps


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


def test_no_route():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        host.inet.route_error = -ENETUNREACH
        assert host.tcp.connect(sk, IP_B, 1) == -ENETUNREACH
        host.tcp.close(sk)
        host.assert_nothing_left()


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


def test_sndtimeo_bounds_the_wait_for_an_answer_and_the_connection_goes_on():
    with one_tcp() as host:
        sk = host.tcp.sock_create()
        sk.sk_sndtimeo = 250
        start = host.kernel.sched.now
        assert host.tcp.connect(sk, IP_B, 2049) == -EINPROGRESS
        assert host.kernel.sched.now - start == pytest.approx(1e9, rel=0.05)
        assert state(sk) == "SYN_SENT"
        (syn,) = host.sent()
        peer = Peer(host, 2049, syn.sport)
        peer.saw(syn)
        peer.send(SYN | ACK)
        assert state(sk) == "ESTABLISHED"
