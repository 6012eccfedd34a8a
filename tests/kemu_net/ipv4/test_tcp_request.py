"""The SYN queue and the accept queue: their limits, and what a connection takes over."""

from __future__ import annotations

import pytest

from kemu_net.core.sock import SOCK_KEEPOPEN, SOCK_MEMALLOC, SOCK_URGINLINE
from tcp_ground import ACK, FIN, RST, SYN, Peer, flags_of, one_tcp, state
from tcp_options_ground import MSS_1460


def listening(host, backlog=5, port=2049):
    sk = host.tcp.sock_create()
    assert host.tcp.bind(sk, 0, port) == 0
    assert host.tcp.listen(sk, backlog) == 0
    return sk


def knock(host, number):
    """Send a SYN from another port; give the peer and what came back."""
    peer = Peer(host, 10_000 + number, 2049, isn=number * 1000)
    answer = peer.send(SYN, options=MSS_1460)
    for seg in answer:
        peer.saw(seg)
    return peer, answer


def established(host, number):
    peer, answer = knock(host, number)
    assert flags_of(answer) == [SYN | ACK]
    peer.send(ACK)
    return peer


@pytest.mark.parametrize(("backlog", "room"), [(0, 16), (5, 16), (8, 16), (15, 16), (16, 32), (60, 64), (1000, 193)])
def test_how_many_requests_wait(backlog, room):
    """The next power of two above the backlog, 16 at least; above 192 only known peers, and there are none."""
    with one_tcp() as host:
        listener = listening(host, backlog)
        for n in range(300):
            knock(host, n)
        assert len(listener.syn_table) == room
        host.tcp.close(listener)
        host.assert_nothing_left()


def test_max_syn_backlog_bounds_it():
    with one_tcp() as host:
        host.tcp.sysctl_tcp_max_syn_backlog = 8
        listener = listening(host, 1000)
        for n in range(30):
            knock(host, n)
        assert len(listener.syn_table) == 7  # the last quarter of 8


def test_a_full_accept_queue_takes_no_third_segment():
    with one_tcp() as host:
        listener = listening(host, 1)
        peers = [established(host, n) for n in range(3)]
        assert listener.sk_ack_backlog == 2
        assert len(listener.syn_table) == 1
        assert next(iter(listener.syn_table.values())).acked
        assert host.tcp.accept(listener, nonblock=True) is not None
        peers[2].send(ACK)
        assert listener.sk_ack_backlog == 2
        assert not listener.syn_table


def test_a_full_accept_queue_takes_no_syn_when_two_fresh_ones_wait():
    with one_tcp() as host:
        listener = listening(host, 0)
        established(host, 0)
        assert listener.sk_ack_backlog == 1
        assert [len(knock(host, n)[1]) for n in (1, 2, 3)] == [1, 1, 0]
        for req in listener.syn_table.values():
            req.retrans = 1  # old ones do not count
        assert len(knock(host, 4)[1]) == 1


@pytest.mark.parametrize(("abort", "answer"), [(0, []), (1, [RST])])
def test_abort_on_overflow(abort, answer):
    with one_tcp() as host:
        host.tcp.sysctl_tcp_abort_on_overflow = abort
        listener = listening(host, 0)
        established(host, 0)
        peer, _ = knock(host, 1)
        assert flags_of(peer.send(ACK)) == answer
        assert len(listener.syn_table) == (0 if abort else 1)


def test_a_deferred_accept_waits_for_data():
    with one_tcp() as host:
        listener = listening(host)
        listener.rskq_defer_accept = 3
        peer, _ = knock(host, 0)
        assert peer.send(ACK) == []
        assert len(listener.syn_table) == 1
        assert host.tcp.accept(listener, nonblock=True) is None
        peer.send(ACK, b"hello")
        sk = host.tcp.accept(listener, nonblock=True)
        assert host.tcp.recvmsg(sk, 10) == b"hello"
        assert sk.rskq_defer_accept == 0


def test_a_deferred_accept_is_answered_as_often_as_it_says():
    with one_tcp() as host:
        listener = listening(host)
        listener.rskq_defer_accept = 2
        host.tcp.sysctl_tcp_synack_retries = 1
        peer, _ = knock(host, 0)
        peer.send(ACK)
        host.run(3_300)
        assert len(host.sent()) == 1
        host.run(6_300)
        assert len(host.sent()) == 1
        host.run(13_000)
        assert host.sent() == []
        assert not listener.syn_table


def test_answers_are_repeated_after_3_6_12_24_48_seconds():
    with one_tcp() as host:
        listener = listening(host)
        knock(host, 0)
        host.run(200_000)
        times = [round(seg.time / 1e9) for seg in host.sent()]
        assert times == [3, 9, 21, 45, 93]
        assert not listener.syn_table


def test_old_requests_give_way_when_half_of_the_queue_is_taken():
    with one_tcp() as host:
        listener = listening(host)
        for n in range(8):
            knock(host, n)
        for req in listener.syn_table.values():
            req.retrans = 3
        host.sent()
        host.run(3_300)
        assert len(listener.syn_table) == 0
        assert host.sent() == []


def test_fresh_requests_stay_when_half_of_the_queue_is_taken():
    with one_tcp() as host:
        listener = listening(host)
        for n in range(8):
            knock(host, n)
        host.run(3_300)
        assert len(listener.syn_table) == 8


def test_a_listeners_options_are_taken_over():
    with one_tcp() as host:
        listener = listening(host)
        listener.sk_flags |= SOCK_KEEPOPEN | SOCK_URGINLINE | SOCK_MEMALLOC
        listener.sk_rcvbuf = 50_000
        listener.sk_rcvlowat = 7
        listener.nonagle = 1
        listener.linger2 = 99
        peer = established(host, 0)
        listener.sk_flags &= ~SOCK_MEMALLOC
        sk = host.tcp.accept(listener, nonblock=True)
        assert (sk.sk_rcvbuf, sk.sk_rcvlowat, sk.nonagle, sk.linger2) == (50_000, 7, 1, 99)
        assert sk.sk_flags & (SOCK_KEEPOPEN | SOCK_URGINLINE) == SOCK_KEEPOPEN | SOCK_URGINLINE
        assert not sk.sk_flags & SOCK_MEMALLOC
        assert sk.keepalive_timer is not None
        peer.send(RST)
        host.tcp.close(sk)
        host.tcp.close(listener)
        host.assert_nothing_left()


@pytest.mark.parametrize(
    ("flags", "seq", "answer", "waits"),
    [
        (SYN, 0, [SYN | ACK], 1),  # again the SYN
        (ACK | RST, 1, [], 0),
        (RST, 5000, [], 0),  # anywhere in the window
        (RST, 100_000, [], 1),
        (SYN | ACK, 1, [RST], 0),
        (ACK, 100_000, [ACK], 1),
        (0, 1, [], 1),
        (FIN, 1, [], 1),
    ],
)
def test_segments_for_a_request(flags, seq, answer, waits):
    with one_tcp() as host:
        listener = listening(host)
        peer, _ = knock(host, 0)
        assert flags_of(peer.send(flags, seq=peer.isn + seq)) == answer
        assert len(listener.syn_table) == waits


def test_a_wrong_acknowledgement_is_reset():
    with one_tcp() as host:
        listener = listening(host)
        peer, _ = knock(host, 0)
        (rst,) = peer.send(ACK, ack=peer.ack + 1)
        assert (rst.flags, rst.seq) == (RST, peer.ack + 1)
        assert len(listener.syn_table) == 1


def test_the_third_segment_may_bring_data_and_a_fin():
    with one_tcp() as host:
        listener = listening(host)
        peer, _ = knock(host, 0)
        peer.send(ACK | FIN, b"all")
        sk = host.tcp.accept(listener, nonblock=True)
        assert state(sk) == "CLOSE_WAIT"
        assert host.tcp.recvmsg(sk, 10) == b"all"
