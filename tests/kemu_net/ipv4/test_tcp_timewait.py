"""TIME_WAIT, and orphans that wait for the peer's FIN."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemu_net.ipv4.tcp_states import TCP_FIN_WAIT2, TCP_TIME_WAIT
from kemu_net.ipv4.tcp_timewait import tcp_in_window
from tcp_ground import ACK, FIN, M32, PSH, RST, SECOND, SYN, Peer, accepted, connected, flags_of, one_tcp, transfer, two_tcps


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


def fin_wait2_orphan(host):
    """Close first; the peer acknowledges but does not close."""
    sk, peer = connected(host)
    host.tcp.close(sk)
    peer.saw(host.sent()[0])
    assert peer.send(ACK) == []
    (tw,) = host.tcp.ehash.values()
    assert tw.substate == TCP_FIN_WAIT2
    return tw, peer


@pytest.mark.parametrize(
    ("flags", "data", "ahead", "answer", "lives"),
    [
        (ACK, b"x", 100_000, [ACK], True),  # outside of the window
        (RST, b"", 100_000, [ACK], True),
        (RST, b"", 0, [], False),
        (SYN, b"", 0, [RST | ACK], False),
        (ACK, b"", 0, [], True),  # a repeated acknowledgement
        (PSH, b"x", 0, [RST | ACK], False),  # data without an acknowledgement: 2.6.23 does not look for one
        (ACK, b"x", -1, [ACK], True),  # old
        (ACK | FIN, b"x", 0, [RST], False),  # data that nobody will read
        (ACK | FIN, b"", 0, [ACK], True),
    ],
)
def test_what_an_orphan_without_the_peers_fin_answers(flags, data, ahead, answer, lives):
    with one_tcp() as host:
        tw, peer = fin_wait2_orphan(host)
        assert flags_of(peer.send(flags, data, seq=peer.seq + ahead)) == answer
        assert (tw in host.tcp.ehash.values()) == lives
        if not lives:
            host.assert_nothing_left()


def test_the_peers_fin_starts_time_wait():
    with one_tcp() as host:
        tw, peer = fin_wait2_orphan(host)
        peer.send(FIN | ACK)
        assert tw.substate == TCP_TIME_WAIT
        assert tw.rcv_nxt == peer.seq
        assert f"substate {TCP_TIME_WAIT}" in repr(tw)


def test_an_old_reset_does_not_end_time_wait():
    with one_tcp() as host:
        peer = _time_wait(host)
        assert peer.send(RST, seq=peer.seq - 10) == []
        assert host.in_use()["tw_sock_TCP"] == 1


def test_a_new_syn_waits_while_the_listener_is_in_use():
    with one_tcp() as host:
        listener, sk, peer = accepted(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(FIN | ACK)
        host.socks.lock_sock(listener)
        again = Peer(host, peer.sport, 2049, isn=peer.seq + 100_000)
        assert flags_of(again.send(SYN)) == [ACK]
        assert host.in_use()["tw_sock_TCP"] == 1
        host.socks.release_sock(listener)


def test_a_minisocket_keeps_the_port():
    with one_tcp() as host:
        listener, sk, peer = accepted(host)
        host.tcp.close(sk)
        peer.saw(host.sent()[0])
        peer.send(FIN | ACK)
        host.tcp.close(listener)
        assert 2049 in host.tcp.bhash
        host.run(61_000)
        host.assert_nothing_left()


def test_killing_twice_frees_once():
    with one_tcp() as host:
        _time_wait(host)
        (tw,) = host.tcp.ehash.values()
        host.tcp.inet_twsk_kill(tw)
        host.tcp.inet_twsk_kill(tw)
        host.assert_nothing_left()


@given(st.integers(0, M32), st.integers(0, 70_000), st.integers(-80_000, 80_000), st.integers(0, 3000))
def test_a_segment_is_in_the_window_iff_it_touches_it(start, size, offset, length):
    """Compared with the same question on numbers that do not wrap."""
    seq, end = offset, offset + length
    touches = seq == 0 or (end > 0 and seq < size) or (seq == end == size)
    shifted = [start + number & M32 for number in (seq, end, 0, size)]
    assert tcp_in_window(*shifted) == touches
