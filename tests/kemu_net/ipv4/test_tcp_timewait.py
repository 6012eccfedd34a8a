"""TIME_WAIT, and orphans that wait for the peer's FIN."""

from __future__ import annotations

from tcp_ground import ACK, FIN, RST, SECOND, SYN, Peer, accepted, connected, flags_of, one_tcp, transfer, two_tcps


def _time_wait(host):
    sk, peer = connected(host)
    host.tcp.close(sk)
    peer.saw(host.sent()[0])
    peer.send(FIN | ACK)
    return peer


def test_data_for_an_orphan_is_answered_with_a_reset():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        assert flags_of(peer.send(ACK, b"too late")) == [RST]
        host.assert_nothing_left()


def test_an_orphan_waits_60_seconds_for_the_peers_fin():
    with one_tcp() as host:
        sk, peer = connected(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(ACK)
        assert host.in_use()["TCP"] == 0
        assert host.in_use()["tw_sock_TCP"] == 1
        host.run(50_000)
        (ack,) = peer.send(FIN | ACK)
        assert ack.ack == peer.seq
        host.run(59_000)
        assert host.in_use()["tw_sock_TCP"] == 1
        host.run(2_000)
        host.assert_nothing_left()


def test_time_wait_acknowledges_a_repeated_fin_and_starts_again():
    with one_tcp() as host:
        peer = _time_wait(host)
        host.run(40_000)
        (ack,) = peer.send(FIN | ACK, seq=peer.seq - 1)
        assert ack.ack == peer.seq
        host.run(40_000)
        assert host.in_use()["tw_sock_TCP"] == 1
        host.run(21_000)
        host.assert_nothing_left()


def test_a_reset_ends_time_wait():
    with one_tcp() as host:
        peer = _time_wait(host)
        peer.send(RST)
        host.assert_nothing_left()


def test_a_new_syn_passes_a_time_wait_of_the_listener():
    with one_tcp() as host:
        listener, sk, peer = accepted(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(FIN | ACK)
        again = Peer(host, peer.sport, 2049, isn=peer.seq + 100_000)
        (synack,) = again.send(SYN)
        assert synack.flags == SYN | ACK
        again.saw(synack)
        again.send(ACK)
        assert host.tcp.accept(listener, nonblock=True) is not None


def test_an_old_syn_does_not_pass():
    with one_tcp() as host:
        _listener, sk, peer = accepted(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(FIN | ACK)
        (answer,) = peer.send(SYN, seq=peer.isn)
        assert answer.flags == ACK


def test_without_memory_for_time_wait_the_connection_just_ends():
    with one_tcp() as host:
        real = host.slub.kmem_cache_alloc
        host.slub.kmem_cache_alloc = lambda cache, gfp: None if cache is host.tcp.tw_cache else real(cache, gfp)
        _time_wait(host)
        del host.slub.kmem_cache_alloc
        host.assert_nothing_left()


def test_the_closer_of_a_stream_is_the_one_in_time_wait():
    with two_tcps() as (world, a, b, _link):
        transfer(world, a, b, b"hello")
        world.run(for_ns=SECOND)
        assert a.in_use()["tw_sock_TCP"] == 1
        assert b.in_use()["tw_sock_TCP"] == 0
