"""The receive buffer and its acknowledgements: quick and delayed ones, growth of the window, fitting to the reader."""

from __future__ import annotations

import pytest

from kemu_net.core.sock import SOCK_RCVBUF_LOCK
from kemu_net.ipv4.tcp_options import tcp_win_from_space
from tcp_ground import ACK, PSH, connected, flags_of, one_tcp
from tcp_options_ground import opened, ts

JIFFY_MS = 4


def quiet(sk):
    """Leave quick acknowledgements behind, as a connection does after its first segments."""
    sk.ack_quick = 0
    sk.ack_pingpong = 0
    sk.ack_ato = 10


def test_the_first_segments_are_acknowledged_at_once():
    with one_tcp() as host:
        _sk, peer = connected(host)
        assert [flags_of(peer.send(ACK, b"x")) for _ in range(3)] == [[ACK]] * 3


def test_then_an_acknowledgement_waits_40_ms():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"x")
        quiet(sk)
        assert peer.send(ACK, b"x") == []
        before = host.kernel.sched.now
        host.run(100)
        (ack,) = host.sent()
        assert 36 <= (ack.time - before) / 1e6 <= 44


def test_a_slow_sender_gets_later_acknowledgements_up_to_200_ms():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"x")
        quiet(sk)
        delays = []
        for _ in range(12):
            host.run(45)
            host.sent()
            if peer.send(ACK | PSH, b"x") == []:
                before = host.kernel.sched.now
                host.run(400)
                delays.append((host.sent()[0].time - before) / 1e6)
            sk.ack_quick = 0
        assert delays
        assert all(36 <= delay <= 204 for delay in delays)


def test_two_full_segments_are_acknowledged_at_once():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
        for _ in range(20):
            peer.send(ACK, bytes(1460))
        quiet(sk)
        host.run(200)
        host.sent()
        sk.ack_quick = 0
        answers = [len(peer.send(ACK, bytes(1460))) for _ in range(6)]
        assert sum(answers) == 3


def test_old_data_is_acknowledged_at_once_and_ends_the_delay():
    with one_tcp() as host:
        sk, peer = connected(host)
        peer.send(ACK, b"x")
        quiet(sk)
        sk.ack_pingpong = 1
        (ack,) = peer.send(ACK, b"x", seq=peer.seq - 1)
        assert ack.ack == peer.seq
        assert sk.ack_pingpong == 0
        assert sk.ack_quick > 0


def test_a_probe_of_a_closed_window_is_answered():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.rcv_wnd = 0
        sk.sk_rcvbuf = 0
        (ack,) = peer.send(ACK, b"x", advance=False)
        assert (ack.ack, ack.win) == (peer.seq, 0)
        assert not sk.sk_receive_queue


def test_data_with_its_head_old_and_the_window_closed_is_dropped_but_told():
    with one_tcp() as host:
        sk, peer = opened(host)
        peer.send(ACK, b"abc")
        sk.rcv_wnd = 0
        sk.sk_rcvbuf = 0
        (ack,) = peer.send(ACK, b"cd", seq=peer.seq - 1)
        assert ack.win == 0
        assert sk.rcv_nxt == peer.seq
        assert b"\5\x0a" in ack.options  # the D-SACK of the old byte


def test_well_filled_segments_open_the_window():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
        first = sk.rcv_ssthresh
        for _ in range(20):
            peer.send(ACK, bytes(1460))
        assert sk.rcv_ssthresh > 2 * first
        assert sk.rcv_ssthresh <= sk.window_clamp


def test_badly_filled_segments_do_not():
    with one_tcp() as host:
        sk, peer = connected(host)
        sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
        first = sk.rcv_ssthresh
        for _ in range(20):
            peer.send(ACK, bytes(20))
        assert sk.rcv_ssthresh == first


def _stream(host, sk, peer, rounds, per_round):
    """Let a reader take what comes, a round trip of 8 ms each."""
    sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
    for n in range(rounds):
        for _ in range(per_round):
            peer.send(ACK, bytes(1448), options=ts(100 + 2 * n, host.jiffies - 2))
        host.run(8)
        host.sent()


def test_the_buffer_follows_a_fast_reader():
    with one_tcp() as host:
        host.run(100)
        sk, peer = opened(host, tsval=100, scale=2)
        sk.sk_rcvbuf = 20_000
        sk.window_clamp = 15_000
        sk.rcvq_space = 5_000
        _stream(host, sk, peer, 30, 8)
        assert sk.sk_rcvbuf > 20_000
        assert sk.sk_rcvbuf <= host.tcp.prot.sysctl_rmem[2]
        assert sk.window_clamp > 15_000


@pytest.mark.parametrize("fixed", ["lock", "switch"])
def test_a_fixed_buffer_stays(fixed):
    with one_tcp() as host:
        host.run(100)
        sk, peer = opened(host, tsval=100, scale=2)
        sk.sk_rcvbuf = 20_000
        sk.rcvq_space = 5_000
        if fixed == "lock":
            sk.sk_userlocks |= SOCK_RCVBUF_LOCK
        else:
            host.tcp.sysctl_tcp_moderate_rcvbuf = 0
        _stream(host, sk, peer, 30, 8)
        assert sk.sk_rcvbuf == 20_000


def test_the_round_trip_is_measured_by_stamps():
    with one_tcp() as host:
        host.run(100)
        sk, peer = opened(host, tsval=100)
        sk.ack_rcv_mss = 1000
        host.run(40)
        peer.send(ACK, bytes(1448), options=ts(101, host.jiffies - 10))
        assert sk.rcv_rtt == 10 << 3


def test_a_stamp_that_was_never_sent_measures_nothing():
    with one_tcp() as host:
        sk, peer = opened(host, tsval=100)
        peer.send(ACK, bytes(1448), options=ts(101, host.jiffies + 1000))
        assert sk.rcv_rtt == 0


def test_a_window_worth_of_data_measures_it_without_stamps():
    with one_tcp() as host:
        sk, peer = opened(host)
        sk.sk_data_ready = lambda sk: host.tcp.read_sock(sk, len)
        for _ in range(10):
            peer.send(ACK, bytes(1460))
            host.run(JIFFY_MS)
        assert 1 << 3 <= sk.rcv_rtt <= 10 << 3


def test_the_clamp_leaves_room_for_one_segment():
    with one_tcp() as host:
        sk, _peer = opened(host, scale=1)
        maxwin = tcp_win_from_space(sk.sk_rcvbuf)
        assert sk.window_clamp + sk.advmss <= maxwin
