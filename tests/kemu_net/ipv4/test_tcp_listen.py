"""Listening and accepting."""

from __future__ import annotations

from types import SimpleNamespace

from kemu.kernel.errno import EINVAL, ENOTCONN
from tcp_ground import ACK, FIN, IP_B, RST, SYN, Peer, accepted, connected, flags_of, listen_on, one_tcp, state


def refuse(host, name):
    """Let one cache be without memory."""
    real = host.slub.kmem_cache_alloc
    host.slub.kmem_cache_alloc = lambda cache, gfp: None if cache is host.slub.caches[name] else real(cache, gfp)


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


def test_without_memory_for_an_inode_an_accepted_connection_is_closed():
    with one_tcp() as host:
        listener = listen_on(host)
        peer = Peer(host, 999, 2049)
        peer.saw(peer.send(SYN)[0])
        peer.send(ACK)
        refuse(host, "sock_inode_cache")
        assert host.tcp.accept(listener, nonblock=True) is None
        assert flags_of(host.sent()) == [FIN | ACK]


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


def test_a_connection_half_made_is_not_accepted():
    with one_tcp() as host:
        listener = listen_on(host)
        peer = Peer(host, 999, 2049)
        peer.saw(peer.send(SYN)[0])
        req = listener.syn_table[(IP_B, 999)]
        # before its first segment was processed
        child = host.tcp._tcp_v4_syn_recv_sock(listener, SimpleNamespace(flags=65535, len=20), req)
        listener.accept_queue.append(child)
        listener.sk_ack_backlog += 1
        assert state(child) == "SYN_RECV"
        assert host.tcp.accept(listener, nonblock=True) is None
        peer.send(ACK)
        assert host.tcp.accept(listener, nonblock=True) is child
