"""Round trip time, congestion and recovery."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_net.ipv4.tcp_sock import (
    TCP_CA_DISORDER,
    TCP_CA_LOSS,
    TCP_CA_OPEN,
    TCP_CA_RECOVERY,
    TCP_RTO_MAX,
    TCP_RTO_MIN,
    TCPCB_LOST,
    TCPCB_SACKED_RETRANS,
)
from tcp_ground import ACK, SECOND, connected, one_tcp, transfer, two_tcps


def _six_in_flight(host, sk):
    sk.sk_sndbuf = 1 << 20
    sk.snd_cwnd = 6
    host.tcp.sendmsg(sk, bytes(6 * 1460))
    return host.sent()


def test_three_duplicates_send_the_hole_again():
    with one_tcp() as host:
        sk, peer = connected(host)
        segs = _six_in_flight(host, sk)
        peer.saw(segs[0])
        assert peer.send(ACK) == []
        assert peer.send(ACK) == []
        assert sk.ca_state == TCP_CA_DISORDER
        assert peer.send(ACK) == []
        (again,) = peer.send(ACK)
        assert again.seq == segs[1].seq
        assert sk.ca_state == TCP_CA_RECOVERY
        assert sk.snd_ssthresh == 3
        assert host.stats.retransmits == 1
        peer.saw(segs[-1])
        peer.send(ACK)
        assert sk.ca_state == TCP_CA_RECOVERY  # RFC 2582: something above what was in flight must be acknowledged
        for expected in (TCP_CA_DISORDER, TCP_CA_OPEN):  # once more, for D-SACKs that might come
            host.tcp.sendmsg(sk, b"more")
            peer.saw(host.sent()[-1])
            peer.send(ACK)
            assert sk.ca_state == expected
        assert sk.snd_cwnd <= 4
        host.check()


def test_a_partial_acknowledgement_sends_the_next_hole():
    with one_tcp() as host:
        sk, peer = connected(host)
        segs = _six_in_flight(host, sk)
        peer.ack = segs[0].seq
        peer.send(ACK)  # the first one after the handshake is news of the window
        first = [peer.send(ACK) for _ in range(3)][-1]  # segments 2, 4 and 6 have arrived
        assert [seg.seq for seg in first] == [segs[0].seq]
        peer.saw(segs[1])
        (again,) = peer.send(ACK)
        assert again.seq == segs[2].seq
        host.check()


def test_data_or_a_window_update_is_no_duplicate():
    with one_tcp() as host:
        sk, peer = connected(host)
        segs = _six_in_flight(host, sk)
        peer.ack = segs[0].seq
        for n in range(4):
            peer.send(ACK, win=60000 + n)
            peer.send(ACK, b"x")
        assert sk.sacked_out == 0
        assert host.stats.retransmits == 0


def test_a_lost_burst_is_sent_again():
    with two_tcps() as (world, a, b, link):
        link.fate = lambda _seg, number: [] if 12 <= number < 20 else [0]
        data = bytes(range(256)) * 200
        got, _results = transfer(world, a, b, data)
        assert got == data
        assert 1 <= a.stats.retransmits <= 20
        assert link.log[-1].time < 5 * SECOND


def test_congestion_avoidance_adds_one_segment_per_window():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.snd_cwnd, sk.snd_ssthresh, sk.snd_cwnd_cnt = 10, 5, 0
        for _ in range(11):
            host.tcp.tcp_cong_avoid(sk, sk.snd_cwnd)
        assert sk.snd_cwnd == 11


def test_a_window_that_is_not_used_does_not_grow():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.snd_cwnd = 10
        host.tcp.tcp_cong_avoid(sk, 2)
        assert sk.snd_cwnd == 10


def test_after_idle_the_window_starts_again():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.snd_cwnd = 40
        host.run(60_000)
        host.tcp.sendmsg(sk, b"x")
        assert sk.snd_cwnd == 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2000), min_size=1, max_size=40))
def test_the_rto_stays_within_its_bounds(samples):
    with one_tcp() as host:
        sk, _peer = connected(host)
        for sample in samples:
            host.tcp.tcp_rtt_estimator(sk, sample)
            assert 51 <= sk.rto <= 120 * 250
            assert sk.mdev >= 0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(("ok", "ok", "ok", "lose", "late", "twice")), min_size=1, max_size=30),
    st.integers(0, 40_000),
    st.integers(1, 9000),
)
def test_any_pattern_of_loss_delivers_the_stream(pattern, size, chunk):
    fates = {"ok": [0], "lose": [], "late": [700_000], "twice": [0, 90_000]}
    with two_tcps() as (world, a, b, link):
        link.fate = lambda _seg, number: fates[pattern[number % len(pattern)]] if number < 400 else [0]
        data = bytes(n % 251 for n in range(size))
        got, results = transfer(world, a, b, data, chunk=chunk, seconds=3000)
        if results.get("connect") == 0 and results.get("end") == b"":
            assert got == data
        else:
            assert data.startswith(got)
            assert "lose" in pattern
        link.fate = None
        world.run(for_ns=2000 * SECOND)
        a.assert_nothing_left()
        b.check()


@pytest.mark.parametrize("loss", [2, 5, 20])
def test_random_loss(loss):
    with two_tcps() as (world, a, b, link):
        rng = a.kernel.rng
        link.fate = lambda _seg, _number: [] if rng.randrange(100) < loss else [rng.randrange(3) * 150_000]
        data = bytes(n * 7 % 256 for n in range(200_000))
        got, results = transfer(world, a, b, data, seconds=4000)
        assert got == data
        assert results["end"] == b""
        assert a.stats.retransmits > 0
        link.fate = None
        world.run(for_ns=200 * SECOND)
        a.assert_nothing_left()
        b.assert_nothing_left()


def test_enter_loss_marks_all():
    with one_tcp() as host:
        sk, _peer = connected(host)
        _six_in_flight(host, sk)
        host.tcp.tcp_enter_loss(sk)
        assert (sk.lost_out, sk.snd_cwnd, sk.ca_state) == (6, 1, TCP_CA_LOSS)
        assert sk.snd_ssthresh == 3


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=30))
def test_the_rto_is_between_its_limits_whatever_is_measured(samples):
    with one_tcp() as host:
        sk, _peer = connected(host)
        for sample in samples:
            host.tcp.tcp_rtt_estimator(sk, sample)
            assert TCP_RTO_MIN <= sk.rto <= TCP_RTO_MAX
            assert sk.rto >= min(sk.srtt >> 3, TCP_RTO_MAX)


def test_a_steady_path_brings_the_deviation_down():
    with one_tcp() as host:
        sk, _peer = connected(host)
        for sample in (10, 500):
            host.tcp.tcp_rtt_estimator(sk, sample)
        high = sk.rttvar
        for _ in range(60):
            sk.snd_una = sk.snd_nxt = sk.snd_nxt + 1 & 0xFFFFFFFF  # a window passes
            host.tcp.tcp_rtt_estimator(sk, 60)
        assert sk.rttvar < high // 4
        assert sk.rto < 200


def test_beyond_the_threshold_a_window_grows_by_one_per_window():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.snd_cwnd, sk.snd_ssthresh = 10, 5
        for _ in range(11):
            host.tcp.tcp_cong_avoid(sk, 10)
        assert sk.snd_cwnd == 11
        before = sk.snd_cwnd
        host.tcp.tcp_cong_avoid(sk, 1)  # not limited by the window
        assert (sk.snd_cwnd, sk.snd_cwnd_cnt) == (before, 0)


def test_the_window_has_a_limit():
    with one_tcp() as host:
        sk, _peer = connected(host)
        sk.snd_cwnd_clamp = 12
        for threshold in (1 << 30, 5):
            sk.snd_cwnd, sk.snd_ssthresh = 10, threshold
            for _ in range(100):
                host.tcp.tcp_cong_avoid(sk, sk.snd_cwnd)
            assert sk.snd_cwnd == 12


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["ack", "dup", "wait", "send", "part"]), st.integers(1, 8)), max_size=30),
    st.integers(1, 20),
)
def test_the_counts_of_what_is_in_flight_stay_in_range(steps, cwnd):
    with one_tcp() as host:
        sk, peer = connected(host, fast_rto=True)
        sk.sk_sndbuf, sk.snd_cwnd = 1 << 20, cwnd
        for kind, count in steps:
            for _ in range(count):
                if kind == "send":
                    host.tcp.sendmsg(sk, bytes(1460))
                elif kind == "ack" and sk.sk_rtx_queue:
                    peer.ack = sk.sk_rtx_queue[0].end_seq
                    peer.send(ACK)
                elif kind == "part" and sk.sk_rtx_queue:
                    peer.ack = sk.snd_una + 700 & 0xFFFFFFFF
                    if (sk.snd_nxt - peer.ack) & 0xFFFFFFFF < 1 << 31:
                        peer.send(ACK)
                elif kind == "dup":
                    peer.ack = sk.snd_una
                    peer.send(ACK)
                elif kind == "wait":
                    host.run(50)
            out = len(sk.sk_rtx_queue)
            assert 0 <= sk.sacked_out + sk.lost_out <= out
            assert 0 <= sk.retrans_out <= out
            assert sum(bool(skb.sacked & TCPCB_LOST) for skb in sk.sk_rtx_queue) == sk.lost_out
            assert sum(bool(skb.sacked & TCPCB_SACKED_RETRANS) for skb in sk.sk_rtx_queue) == sk.retrans_out
            assert sk.snd_cwnd >= 1
            host.check()
        host.inet.sent.clear()
        for _ in range(400):
            if not sk.sk_rtx_queue and not sk.sk_write_queue:
                break
            peer.ack = sk.snd_nxt
            peer.send(ACK)
            host.run(20)
        assert not sk.sk_write_queue
        for _ in range(2):  # something new must be acknowledged, once to leave the state, once in case of D-SACKs
            host.tcp.sendmsg(sk, b"x")
            peer.ack = sk.snd_nxt
            peer.send(ACK)
        assert sk.ca_state == TCP_CA_OPEN
