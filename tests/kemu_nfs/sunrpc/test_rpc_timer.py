"""Round trips of calls over UDP: the estimator's sums, in jiffies (HZ 250)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.timer import HZ
from kemu_nfs.sunrpc.rpc_timer import RPC_RTO_MAX, RPC_RTO_MIN, RpcRtt

TIMEO = 7 * HZ // 10


def test_the_first_estimate_is_the_mounts_timeout():
    rtt = RpcRtt(TIMEO)
    assert [rtt.rpc_calc_rto(timer) for timer in range(6)] == [TIMEO] * 6


def test_a_short_timeout_leaves_the_initial_fifth_of_a_second():
    assert RpcRtt(10).rpc_calc_rto(1) == HZ // 5


def test_kind_0_learns_nothing():
    rtt = RpcRtt(TIMEO)
    rtt.rpc_update_rtt(0, 1)
    rtt.rpc_set_timeo(0, 5)
    assert rtt.rpc_calc_rto(0) == TIMEO
    assert rtt.rpc_ntimeo(0) == 0


def test_one_measurement_moves_the_mean_by_an_eighth_and_the_deviation_by_a_quarter():
    rtt = RpcRtt(TIMEO)  # mean 125, deviation 50 as sdrtt
    rtt.rpc_update_rtt(3, 45)
    assert rtt.srtt[2] == 8 * 125 - 80
    assert rtt.sdrtt[2] == 50 + 80 - 50 // 4
    assert rtt.srtt[1] == 8 * 125, "the other kinds know nothing of it"


def test_a_steady_time_is_learnt_and_the_deviation_stays_above_its_floor():
    rtt = RpcRtt(TIMEO)
    for _ in range(200):
        rtt.rpc_update_rtt(1, 2)
    assert rtt.rpc_calc_rto(1) - RPC_RTO_MIN in (2, 3)


def test_timeouts_are_remembered_and_forgotten_one_by_one():
    rtt = RpcRtt(TIMEO)
    rtt.rpc_set_timeo(4, 3)
    assert rtt.rpc_ntimeo(4) == 3
    seen = []
    for _ in range(4):
        rtt.rpc_set_timeo(4, 0)
        seen.append(rtt.rpc_ntimeo(4))
    assert seen == [2, 1, 0, 0]
    rtt.rpc_set_timeo(4, 100)
    assert rtt.rpc_ntimeo(4) == 8


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 100_000)), max_size=50))
def test_an_estimate_is_positive_and_at_most_a_minute(measured):
    rtt = RpcRtt(TIMEO)
    for timer, jiffies in measured:
        rtt.rpc_update_rtt(timer, jiffies)
        assert 0 < rtt.rpc_calc_rto(timer) <= RPC_RTO_MAX
        assert rtt.sdrtt[timer - 1] >= RPC_RTO_MIN
