"""UDP's congestion window and retransmit times, on a transport whose server is a function."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.sunrpc.rpc_task import RpcProc
from kemu_nfs.sunrpc.xprt_cong import RPC_CWNDSCALE, CongXprt
from kemu_nfs.sunrpc.xprt_timeout import UDP_TIMEOUT
from rpc_ground import MS, SECOND, FakeXprt, RpcGround, success

READ = RpcProc("READ", 6, lambda args: (args, None, b""), lambda reply, offset, _args: reply[offset:], p_timer=3)


class FakeCong(FakeXprt, CongXprt):
    """A FakeXprt with a window; ``most`` calls were on their way at once."""

    def __init__(self, rpc, timeout=UDP_TIMEOUT, *, slots=16, latency=MS) -> None:
        FakeXprt.__init__(self, rpc, timeout, slots=slots, latency=latency)
        self.most = 0

    def send_request(self, task) -> int:
        task.tk_rqstp.rq_xtime = self.sched.jiffies
        status = super().send_request(task)
        self.most = max(self.most, self.cong // RPC_CWNDSCALE)
        return status

    def _reply(self, reply) -> None:
        req = self.recv.get(int.from_bytes(reply[:4], "big"))
        if req is not None:
            self.xprt_complete_cong(req, req.rq_task, reply)


class Cong(RpcGround):
    def __init__(self, **options) -> None:
        super().__init__(timeout=UDP_TIMEOUT, **options)
        self.xprt = self.clnt.xprt = FakeCong(self.rpc)

    def rtt(self):
        return self.clnt.cl_rtt


@pytest.fixture
def ground():
    g = Cong()
    yield g
    g.check()
    g.kernel.shutdown()


def calls(ground, number):
    for i in range(number):
        ground.start(i, proc=READ)


def test_it_begins_with_one_call_at_a_time(ground):
    ground.xprt.server = lambda _call: None
    calls(ground, 5)
    ground.run_for(100 * MS)
    assert len(ground.xprt.sent) == 1
    assert len(ground.xprt.sending) == 4
    assert not ground.xprt.locked, "nobody sends: there is no room"


def test_each_reply_to_a_full_window_makes_room_for_more_up_to_the_slot_table(ground):
    calls(ground, 200)
    ground.run_for(SECOND)
    assert len(ground.ops.done) == 200
    assert ground.xprt.most == 16
    assert ground.xprt.cwnd == 16 * RPC_CWNDSCALE


def test_the_window_grows_by_one_call_per_window(ground):
    cwnd = [ground.xprt.cwnd]
    calls(ground, 3)
    while len(ground.ops.done) < 3:
        ground.run_for(MS // 10)
        if ground.xprt.cwnd != cwnd[-1]:
            cwnd.append(ground.xprt.cwnd)
    # 256 + 256*256/256, then + (65536 + 256) / 512
    assert cwnd[:2] == [256, 512]


def test_a_timeout_halves_the_window_but_leaves_one_call(ground):
    calls(ground, 200)
    ground.run_for(SECOND)
    ground.xprt.server = lambda _call: None
    ground.start("lost", proc=READ)
    seen = []
    while ground.xprt.retransmissions < 6:
        ground.run_for(50 * MS)
        if not seen or seen[-1] != ground.xprt.cwnd:
            seen.append(ground.xprt.cwnd)
    assert [size // RPC_CWNDSCALE for size in seen] == [16, 8, 4, 2, 1]


def test_an_answered_call_leaves_the_window_and_so_does_one_that_gave_up(ground):
    ground.call()
    assert ground.xprt.cong == 0
    ground.xprt.server = lambda _call: None
    calls(ground, 4)
    ground.run_for(SECOND)
    ground.clnt.rpc_killall_tasks()
    ground.run_for(SECOND)
    assert len(ground.ops.released) == 4
    assert ground.xprt.cong == 0


def test_the_wait_for_a_reply_is_learnt_from_those_before(ground):
    for _ in range(60):
        ground.clnt.rpc_call_sync(READ, b"", None)
    ground.xprt.server = lambda _call: None
    before = len(ground.xprt.sent)
    ground.start("lost", proc=READ)
    ground.run_for(3 * SECOND)
    times = [at for at, _ in ground.xprt.sent[before:]]
    gaps = [round((b - a) / SECOND, 2) for a, b in pairwise(times)]
    # 1 ms is one jiffy; the deviation stays at its floor of 25 jiffies; then doubled each time
    assert gaps[0] == pytest.approx(0.104, abs=0.01)
    assert gaps[1] == pytest.approx(2 * gaps[0], abs=0.02)
    assert gaps[2] == pytest.approx(4 * gaps[0], abs=0.04)


def test_a_reply_to_a_retransmitted_call_measures_nothing(ground):
    ground.xprt.server = lambda call: None if len(ground.xprt.sent) < 2 else success(call)
    ground.start("twice", proc=READ)
    ground.run_for(5 * SECOND)
    assert ground.ops.done[0][1] == 0
    fresh = Cong()
    assert ground.rtt().srtt == fresh.rtt().srtt
    fresh.kernel.shutdown()
    assert ground.rtt().rpc_ntimeo(3) == 1


def test_what_timed_out_lately_waits_longer_from_the_start(ground):
    ground.rtt().rpc_set_timeo(3, 2)
    ground.xprt.server = lambda _call: None
    ground.start("lost", proc=READ)
    ground.run_for(10 * SECOND)
    first, second = (at for at, _ in ground.xprt.sent[:2])
    assert (second - first) / SECOND == pytest.approx(4 * 0.7, abs=0.02)


def test_a_major_timeout_begins_the_estimates_anew(ground):
    for _ in range(60):
        ground.clnt.rpc_call_sync(READ, b"", None)
    assert ground.rtt().rpc_calc_rto(3) < 30
    ground.xprt.server = lambda _call: None
    ground.start("lost", proc=READ)
    ground.run_for(100 * SECOND)
    assert any("not responding" in text for text in ground.messages())
    assert ground.rtt().rpc_calc_rto(3) == UDP_TIMEOUT.initval


def test_no_wait_is_longer_than_a_minute(ground):
    ground.xprt.server = lambda _call: None
    ground.start("lost", proc=READ)
    ground.run_for(1000 * SECOND)
    gaps = [b - a for (a, _), (b, _) in pairwise(ground.xprt.sent)]
    assert max(gaps) <= 60 * SECOND + 10 * MS


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 30))
def test_whatever_is_lost_every_call_ends_once_and_the_window_is_empty(lost, number):
    ground = Cong()
    try:
        losses = iter(lost)
        ground.xprt.server = lambda call: None if next(losses, False) else success(call)
        calls(ground, number)
        ground.run_for(4000 * SECOND)
        assert sorted(name for name, _, _ in ground.ops.done) == list(range(number))
        ground.check()
        assert ground.xprt.cong == 0
    finally:
        ground.kernel.shutdown()
