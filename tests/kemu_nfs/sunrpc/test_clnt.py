"""The life of a call: every transition is in the table; errors end it or start it over as the base does."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from kemu.kernel.errno import (
    EACCES,
    EAGAIN,
    ECONNREFUSED,
    EHOSTUNREACH,
    EIO,
    ENOMEM,
    ENOTCONN,
    EOPNOTSUPP,
    EPFNOSUPPORT,
    EPROTONOSUPPORT,
    ETIMEDOUT,
)
from kemu_nfs.sunrpc.auth import RpcCred
from kemu_nfs.sunrpc.rpc_const import (
    RPC_AUTH_BADCRED,
    RPC_AUTH_BADVERF,
    RPC_AUTH_REJECTEDCRED,
    RPC_AUTH_REJECTEDVERF,
    RPC_AUTH_TOOWEAK,
)
from kemu_nfs.sunrpc.rpc_task import CALL_START, CALL_STATES, RpcProc
from kemu_nfs.sunrpc.xdr import XdrError
from kemu_nfs.sunrpc.xprt import UDP_TIMEOUT
from rpc_ground import ACCEPTED, MS, SECOND, read_call, rpc_ground, success

ALLOWED = {state.name: {CALL_STATES[then].name for then in state.then} | {"rpc_exit_task"} for state in CALL_STATES.values()}
INLINE = {"call_transmit": {"call_status", "call_transmit_status"}, "call_transmit_status": {"call_status"}}


@pytest.fixture
def ground():
    with rpc_ground() as g:
        yield g
        g.check()


@pytest.fixture
def soft():
    with rpc_ground(soft=True) as g:
        yield g


def states(ground):
    """Switch tracing on; return a function that gives each task's states so far."""
    point = ground.rpc._trace_action
    point.enabled = True
    seen: dict[int, list[str]] = {}
    steps = ground.clnt.steps
    for number, state in CALL_STATES.items():
        if number:
            steps[number] = _recorded(steps[number], state.name, seen)
    return seen


def _recorded(step, name, seen):
    def run(task):
        seen.setdefault(task.tk_pid, []).append(name)
        step(task)

    return run


def legal(path):
    return all(b in ALLOWED[a] | INLINE.get(a, set()) for a, b in pairwise(path))


def test_a_call_goes_through_the_table(ground):
    seen = states(ground)
    ground.call()
    (path,) = seen.values()
    assert path == [
        "call_start", "call_reserve", "call_reserveresult", "call_allocate", "call_bind", "call_connect", "call_connect_status",
        "call_transmit", "call_status", "call_decode", "rpc_exit_task",
    ]  # fmt: skip


def test_with_a_connection_there_is_nothing_to_wait_for(ground):
    ground.call()
    seen = states(ground)
    ground.call()
    (path,) = seen.values()
    assert "call_connect_status" not in path


def test_the_call_on_the_wire_has_program_procedure_credential_and_arguments(ground):
    calls = []
    ground.xprt.server = lambda call: calls.append(read_call(call)) or success(call)
    ground.call(b"args")
    _, prog, vers, proc, flavour, args = calls[0]
    assert (prog, vers, proc, flavour, args) == (100, 3, 1, 1, b"args")


def test_every_transition_of_many_calls_over_a_bad_transport_is_in_the_table(ground):
    seen = states(ground)
    count = 0

    def server(call):
        nonlocal count
        count += 1
        return None if count % 3 == 0 else call[:4] + bytes(8) if count % 7 == 0 else success(call)

    ground.xprt.server = server
    ground.xprt.results = [-EAGAIN, -ENOTCONN, -EHOSTUNREACH]
    for i in range(40):
        ground.start(i)
    for _ in range(60):
        ground.run_for(20 * SECOND)
        if _ % 9 == 4:
            ground.xprt.xprt_disconnect()
    assert len(ground.ops.released) == 40
    assert all(legal(path) for path in seen.values()), seen
    assert all(path[-1] == "rpc_exit_task" for path in seen.values())


@pytest.mark.parametrize("status", [-ENOTCONN, -ECONNREFUSED, -ETIMEDOUT])
def test_a_hard_mount_goes_on_after_the_usual_connect_errors(ground, status):
    ground.xprt.refuse = status
    ground.start("a")
    ground.run_for(10 * SECOND)
    assert ground.ops.done == []
    ground.xprt.refuse = 0
    ground.run_for(100 * SECOND)
    assert ground.ops.done[0][1] == 0


@pytest.mark.parametrize("status", [-ENOMEM, -EHOSTUNREACH, -98, -105])
def test_every_other_connect_error_ends_the_call_with_eio_even_there(ground, status):
    ground.xprt.refuse = status
    ground.start("a")
    ground.run_for(10 * SECOND)
    assert ground.ops.done[0][1] == -EIO
    assert not ground.xprt.locked


def test_a_soft_mount_gives_up_at_the_first_refusal(soft):
    soft.xprt.refuse = -ECONNREFUSED
    assert soft.call() == (-EIO, None)


def test_a_soft_mount_gives_up_after_a_major_timeout(soft):
    soft.xprt.server = lambda _call: None
    assert soft.call() == (-EIO, None)
    assert soft.messages()[-1] == "nfs: server server not responding, timed out"
    assert 180 * SECOND <= soft.sched.now < 400 * SECOND


@pytest.mark.parametrize(
    ("tail", "answer"),
    [
        (struct.pack("!5I", 1, 0, 0, 0, 1), -EPFNOSUPPORT),
        (struct.pack("!7I", 1, 0, 0, 0, 2, 3, 3), -EPROTONOSUPPORT),
        (struct.pack("!5I", 1, 0, 0, 0, 3), -EOPNOTSUPP),
        (struct.pack("!5I", 1, 1, 0, 2, 2), -EPROTONOSUPPORT),
        (struct.pack("!4I", 1, 1, 1, RPC_AUTH_TOOWEAK), -EACCES),
        (struct.pack("!4I", 1, 1, 1, 99), -EIO),
        (struct.pack("!3I", 1, 1, 7), -EIO),
        (struct.pack("!5I", 1, 0, 0, 0, 0) + b"odd", -EIO),
    ],
)
def test_a_refusal_ends_the_call(ground, tail, answer):
    ground.xprt.server = lambda call: call[:4] + tail
    assert ground.call() == (answer, None)
    assert len(ground.xprt.sent) == 1


@pytest.mark.parametrize("tail", [struct.pack("!5I", 1, 0, 0, 0, 4), struct.pack("!3I", 1, 0, 0), b"\xff" * 40])
def test_a_reply_without_sense_is_asked_for_twice_again_then_eio(ground, tail):
    ground.xprt.server = lambda call: call[:4] + tail
    assert ground.call() == (-EIO, None)
    assert len(ground.xprt.sent) == 3
    assert len({xid for _, xid in ground.xprt.sent}) == 1


@pytest.mark.parametrize("tail", [b"", b"\0\0\0\1"])
def test_a_reply_too_short_to_be_one_is_asked_for_until_it_is_one(ground, tail):
    ground.xprt.server = lambda call: call[:4] + tail if len(ground.xprt.sent) < 9 else success(call)
    assert ground.call()[0] == 0
    assert len(ground.xprt.sent) == 9
    assert len({xid for _, xid in ground.xprt.sent}) == 1


def refuse(ground, auth_stat, times):
    """Let the server refuse the credential of the first calls."""
    ground.xprt.server = lambda call: (
        call[:4] + struct.pack("!4I", 1, 1, 1, auth_stat) if len(ground.xprt.sent) <= times else success(call)
    )


@pytest.mark.parametrize("auth_stat", [RPC_AUTH_REJECTEDCRED, RPC_AUTH_REJECTEDVERF])
def test_a_stale_credential_is_refreshed_and_the_call_has_a_new_xid(ground, auth_stat):
    refuse(ground, auth_stat, 2)
    seen = states(ground)
    assert ground.call()[0] == 0
    assert len({xid for _, xid in ground.xprt.sent}) == 3
    (path,) = seen.values()
    assert path.count("call_refresh") == 2
    assert legal(path)
    assert ground.auth.creds()[0].up_to_date


@pytest.mark.parametrize("auth_stat", [RPC_AUTH_REJECTEDCRED, RPC_AUTH_BADCRED, RPC_AUTH_BADVERF])
def test_a_credential_refused_three_times_ends_the_call(ground, auth_stat):
    refuse(ground, auth_stat, 99)
    assert ground.call() == (-EACCES, None)
    assert len(ground.xprt.sent) == 3


@pytest.mark.parametrize("auth_stat", [RPC_AUTH_BADCRED, RPC_AUTH_BADVERF])
def test_a_garbled_credential_is_sent_again_with_the_same_xid(ground, auth_stat):
    refuse(ground, auth_stat, 1)
    assert ground.call()[0] == 0
    (_, first), (_, second) = ground.xprt.sent
    assert first == second


def test_a_refresh_that_fails_is_tried_again_every_three_seconds(ground, monkeypatch):
    refuse(ground, RPC_AUTH_REJECTEDCRED, 1)
    tries = []
    good = RpcCred.crrefresh

    def slow(cred):
        tries.append(ground.sched.now)
        return -EAGAIN if len(tries) < 3 else good(cred)

    monkeypatch.setattr(RpcCred, "crrefresh", slow)
    assert ground.call()[0] == 0
    assert [round((b - a) / SECOND) for a, b in pairwise(tries)] == [3, 3]


def test_a_refresh_without_permission_ends_the_call(ground, monkeypatch):
    refuse(ground, RPC_AUTH_REJECTEDCRED, 1)
    monkeypatch.setattr(RpcCred, "crrefresh", lambda _cred: -EACCES)
    assert ground.call() == (-EACCES, None)


def test_a_call_by_nobody_has_nothing_to_refresh(ground):
    refuse(ground, RPC_AUTH_REJECTEDCRED, 1)
    assert ground.clnt.rpc_ping() == 0


def test_a_ping_is_procedure_0_by_nobody(ground):
    calls = []
    ground.xprt.server = lambda call: calls.append(read_call(call)) or success(call)
    assert ground.clnt.rpc_ping() == 0
    assert calls[0][3:] == (0, 0, b"")


def test_a_ping_is_soft_even_of_a_hard_client(ground):
    ground.xprt.server = lambda _call: None
    assert ground.clnt.rpc_ping() == -EIO


# killing


def test_killed_calls_end_with_eio_wherever_they_sleep(ground):
    ground.xprt.server = lambda _call: None
    for i in range(20):
        ground.start(i)
    ground.run_for(SECOND)
    ground.clnt.rpc_killall_tasks()
    ground.run_for(SECOND)
    assert sorted(name for name, _, _ in ground.ops.done) == list(range(20))
    assert {status for _, status, _ in ground.ops.done} == {-EIO}
    assert sorted(ground.ops.released) == list(range(20))
    assert len(ground.xprt.free) == 16


def test_a_killed_call_that_waits_for_the_connection_gives_back_the_right_to_send(ground):
    ground.xprt.refuse = -ECONNREFUSED
    for i in range(3):
        ground.start(i)
    ground.run_for(2 * MS)
    ground.clnt.rpc_killall_tasks()
    ground.run_for(SECOND)
    assert len(ground.ops.released) == 3
    assert not ground.xprt.locked


def test_a_killed_call_cannot_be_started_again(ground):
    ground.xprt.server = lambda _call: None
    ground.ops.on_done = lambda task: ground.rpc.rpc_restart_call(task, CALL_START)
    ground.start("a")
    ground.run_for(SECOND)
    ground.clnt.rpc_killall_tasks()
    ground.run_for(SECOND)
    assert ground.ops.released == ["a"]


def test_a_clients_calls_alone_are_killed(ground):
    ground.xprt.server = lambda _call: None
    ground.start("mine")
    other = type(ground.clnt)(ground.rpc, ground.xprt, 100, 3, "other")
    ground.run_for(SECOND)
    other.rpc_killall_tasks()
    ground.run_for(SECOND)
    assert ground.ops.done == []


def test_a_client_that_is_shut_down_has_no_calls_and_no_transport(ground):
    ground.xprt.server = lambda _call: None
    for i in range(20):
        ground.start(i)
    ground.run_for(SECOND)
    ground.clnt.rpc_shutdown_client()
    assert len(ground.ops.released) == 20
    assert ground.xprt.slots == []


def test_results_that_cannot_be_read_are_eio(ground):
    def decode(_reply, _offset, _args):
        raise XdrError("nonsense")

    proc = RpcProc("BAD", 1, lambda args: (args, None, b""), decode)
    assert ground.clnt.rpc_call_sync(proc, b"", None) == (-EIO, None)
    assert "BAD reply: nonsense" in ground.messages()[-1]


def test_an_unreachable_host_is_tried_again_three_seconds_later(ground):
    ground.call()
    ground.xprt.results = [-EHOSTUNREACH]
    before = ground.sched.now
    assert ground.call()[0] == 0
    assert 3 * SECOND - 4 * MS <= ground.sched.now - before < 4 * SECOND


def test_silence_is_answered_by_the_same_call_again(ground):
    ground.xprt.server = lambda call: None if len(ground.xprt.sent) < 2 else success(call)
    assert ground.call()[0] == 0
    (first, xid), (second, again) = ground.xprt.sent
    assert xid == again
    assert second - first == pytest.approx(60 * SECOND, abs=10 * MS)
    assert ground.xprt.retransmissions == 1
    assert ground.messages() == [], "a minor timeout is not talked about"


def test_a_server_that_comes_back_is_told_of(ground):
    ground.call()
    ground.xprt.server = lambda _call: None
    ground.start("a")
    ground.run_for(400 * SECOND)
    assert ground.messages() == ["nfs: server server not responding, still trying"]
    ground.xprt.server = success
    ground.run_for(400 * SECOND)
    assert ground.messages()[1:] == ["nfs: server server OK"]
    assert ground.ops.done[0][1] == 0


def test_udp_is_sent_again_after_ever_longer_times_up_to_a_minute():
    with rpc_ground(timeout=UDP_TIMEOUT) as ground:
        ground.xprt.server = lambda _call: None
        ground.start("a")
        ground.run_for(120 * SECOND)
        times = [at for at, _ in ground.xprt.sent]
        gaps = [round((b - a) / SECOND, 1) for a, b in pairwise(times)]
        assert gaps[:5] == [0.7, 1.4, 2.8, 5.6, 11.2]
        assert max(gaps) <= 60


def test_a_lost_connection_brings_the_call_back_with_the_same_xid(ground):
    ground.call()
    ground.xprt.server = lambda _call: None
    ground.start("a")
    ground.run_for(SECOND)
    ground.xprt.server = success
    ground.xprt.xprt_disconnect()
    ground.run_for(SECOND)
    assert ground.ops.done[0][1] == 0
    assert ground.xprt.sent[-1][1] == ground.xprt.sent[-2][1]


def test_a_reply_is_progress(ground):
    calls = []
    ground.xprt.judge = type("Judge", (), {"progress": staticmethod(lambda: calls.append(1))})
    ground.call()
    assert calls


def test_an_answer_may_be_empty(ground):
    ground.xprt.server = lambda call: call[:4] + ACCEPTED
    assert ground.call(b"") == (0, b"")
