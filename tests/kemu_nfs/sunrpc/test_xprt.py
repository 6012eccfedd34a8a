"""A transport: slots, the right to send, timeouts."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EAGAIN, EIO, ENOMEM
from kemu.mm.fault_inject import FailPageAlloc
from kemu_nfs.sunrpc.rpc_task import RPC_TASK_ASYNC, RpcRqst
from kemu_nfs.sunrpc.xprt import SIZEOF_RPC_RQST, TCP_TIMEOUT, UDP_TIMEOUT, XS_IDLE_DISC_TO
from rpc_ground import ECHO, MS, SECOND, FakeXprt, rpc_ground, success


@pytest.fixture
def ground():
    with rpc_ground() as g:
        yield g
        g.check()


def test_sixteen_calls_are_on_their_way_and_the_rest_wait(ground):
    ground.xprt.server = lambda _call: None
    for i in range(20):
        ground.start(i)
    ground.run_for(SECOND)
    assert len(ground.xprt.recv) == 16
    assert len(ground.xprt.backlog) == 4
    assert ground.xprt.free == []


def test_the_backlog_is_served_in_order(ground):
    for i in range(40):
        ground.start(i)
    ground.run_for(SECOND)
    assert [name for name, _, _ in ground.ops.done] == list(range(40))


def test_a_slot_table_is_between_two_and_128():
    for asked, got in ((1, 2), (16, 16), (1000, 128)):
        with rpc_ground(slots=asked) as ground:
            assert len(ground.xprt.slots) == got


def test_the_slot_table_is_memory_from_the_mount_on(ground):
    page = ground.slub.virt_to_page(ground.xprt.slot_memory)
    assert page is not None
    assert 16 * SIZEOF_RPC_RQST == 4800
    ground.xprt.xprt_destroy()
    assert ground.xprt.slot_memory is None


def test_without_memory_for_the_slots_calls_fail(ground):
    ground.page_alloc.fail_page_alloc = FailPageAlloc(ground.kernel, ignore_gfp_wait=False, min_order=0)
    xprt = FakeXprt(ground.rpc)
    assert xprt.slots == []
    ground.clnt.xprt = xprt
    task = ground.clnt.rpc_init_task(RPC_TASK_ASYNC, ECHO, b"", None, ground.ops, "a")
    xprt.xprt_reserve(task)
    assert task.tk_status == -ENOMEM


def test_xids_count_up_and_wrap(ground):
    ground.xprt.xid = 0xFFFFFFFE
    for i in range(3):
        ground.start(i)
    ground.run_for(SECOND)
    assert [xid for _, xid in ground.xprt.sent] == [0xFFFFFFFF, 0, 1]


def test_one_task_at_a_time_has_the_right_to_send(ground):
    ground.call()
    tasks = [ground.clnt.rpc_init_task(RPC_TASK_ASYNC, ECHO, b"", None, ground.ops, i) for i in range(3)]
    for task in tasks:
        ground.rpc.live[task] = None
        ground.xprt.xprt_reserve(task)
    assert ground.xprt.xprt_reserve_xprt(tasks[0])
    assert ground.xprt.xprt_reserve_xprt(tasks[0]), "again, for who has it"
    assert not ground.xprt.xprt_reserve_xprt(tasks[1])
    assert tasks[1].tk_status == -EAGAIN
    ground.xprt.xprt_release_write(tasks[0])
    assert ground.xprt.snd_task is tasks[1], "handed over, not left for the quickest"
    ground.xprt.xprt_release_write(tasks[2])
    assert ground.xprt.snd_task is tasks[1], "who has it not cannot give it away"
    for task in tasks:
        ground.xprt.xprt_release(task)
        ground.rpc.live.pop(task, None)
    ground.rpc.rpciod.works.clear()


def test_a_call_that_was_sent_before_goes_ahead_of_new_ones(ground):
    ground.call()
    first, old, new = (ground.clnt.rpc_init_task(RPC_TASK_ASYNC, ECHO, b"", None, ground.ops, i) for i in range(3))
    for task in (first, old, new):
        ground.xprt.xprt_reserve(task)
    old.tk_rqstp.rq_ntrans = 1
    ground.xprt.xprt_reserve_xprt(first)
    ground.xprt.xprt_reserve_xprt(new)
    ground.xprt.xprt_reserve_xprt(old)
    ground.xprt.xprt_release_write(first)
    assert ground.xprt.snd_task is old
    for task in (first, old, new):
        ground.xprt.xprt_release(task)
    ground.rpc.rpciod.works.clear()


def test_who_leaves_half_a_record_behind_closes_the_connection(ground):
    ground.call()
    task = ground.clnt.rpc_init_task(RPC_TASK_ASYNC, ECHO, b"", None, ground.ops, "a")
    ground.xprt.xprt_reserve(task)
    ground.xprt.xprt_reserve_xprt(task)
    task.tk_rqstp.rq_slen = 100
    task.tk_rqstp.rq_bytes_sent = 50
    ground.xprt.xprt_release(task)
    assert ground.xprt.locked, "nobody may send before the connection is closed"
    ground.run_for(SECOND)
    assert ground.xprt.closed == 1
    assert not ground.xprt.locked
    assert not ground.xprt.connected


def test_tcp_timeouts_are_60_120_180_and_the_third_is_major(ground):
    req = RpcRqst()
    req.rq_timeout = TCP_TIMEOUT.initval
    ground.xprt._xprt_reset_majortimeo(req)
    assert req.rq_majortimeo - ground.sched.jiffies == 180 * 250
    assert not ground.xprt.xprt_adjust_timeout(req)
    assert req.rq_timeout == 120 * 250
    ground.run_for(181 * SECOND)
    assert ground.xprt.xprt_adjust_timeout(req)
    assert req.rq_timeout == 60 * 250


def test_udp_timeouts_double_up_to_a_minute():
    with rpc_ground(timeout=UDP_TIMEOUT) as ground:
        req = RpcRqst()
        req.rq_timeout = UDP_TIMEOUT.initval
        ground.xprt._xprt_reset_majortimeo(req)
        assert req.rq_majortimeo - ground.sched.jiffies == 175 << 5
        seen = []
        for _ in range(8):
            ground.xprt.xprt_adjust_timeout(req)
            seen.append(req.rq_timeout)
        assert seen[:3] == [350, 700, 1400]
        assert seen[-1] == 60 * 250


def test_a_connection_that_nobody_uses_is_closed_after_five_minutes(ground):
    ground.call()
    ground.run_for(XS_IDLE_DISC_TO // 250 * SECOND - SECOND)
    assert ground.xprt.connected
    ground.run_for(3 * SECOND)
    assert not ground.xprt.connected
    assert ground.xprt.closed == 1
    assert ground.call()[0] == 0, "and made anew when somebody calls"


def test_a_connection_in_use_stays(ground):
    for _ in range(4):
        ground.call()
        ground.run_for(200 * SECOND)
    assert ground.xprt.connected


def test_who_waits_for_the_connection_is_one_and_the_others_wait_to_send(ground):
    ground.xprt.refuse = -111
    for i in range(5):
        ground.start(i)
    ground.run_for(2 * MS)
    assert len(ground.xprt.pending) == 1
    assert len(ground.xprt.sending) == 4
    ground.xprt.refuse = 0
    ground.run_for(SECOND)
    assert len(ground.ops.released) == 5


def test_a_closed_transport_ends_calls(ground):
    ground.xprt.shutdown = True
    assert ground.call() == (-EIO, None)
    ground.xprt.shutdown = False


def test_a_transport_with_calls_is_not_destroyed(ground):
    ground.xprt.server = lambda _call: None
    ground.start("a")
    ground.run_for(SECOND)
    with pytest.raises(KernelBug):
        ground.xprt.xprt_destroy()


def test_a_reply_while_the_call_is_still_being_sent_is_not_lost(ground):
    ground.call()
    send = ground.xprt.send_request

    def send_and_answer(task):
        status = send(task)
        ground.xprt._reply(success(task.tk_rqstp.rq_head))
        return status

    ground.xprt.send_request = send_and_answer
    assert ground.call(b"fast") == (0, b"fast")


def test_a_late_reply_to_a_finished_call_is_nobodys(ground):
    ground.xprt.latency = MS
    ground.call()
    xid = ground.xprt.sent[-1][1]
    ground.xprt._reply(xid.to_bytes(4, "big") + bytes(20))
    assert ground.call()[0] == 0


def test_the_trace_tells_a_calls_way(ground):
    ground.kernel.trace.enable("sunrpc:*")
    ground.call()
    names = [name for name, _ in ground.kernel.trace.events("sunrpc:*")]
    assert names.count("sunrpc:xprt_transmit") == names.count("sunrpc:xprt_lookup_rqst") == 1
    assert names.count("sunrpc:rpc_task_sleep") == names.count("sunrpc:rpc_task_wakeup") == 2, "the connection and the reply"
    (sent,) = [fields for name, fields in ground.kernel.trace.events("sunrpc:xprt_transmit")]
    assert sent["xid"] == ground.xprt.sent[0][1]


def test_the_trace_tells_of_timeouts(ground):
    ground.kernel.trace.enable("sunrpc:xprt_timer")
    ground.xprt.server = lambda call: None if len(ground.xprt.sent) < 2 else success(call)
    ground.call()
    assert len(list(ground.kernel.trace.events("sunrpc:xprt_timer"))) == 1


def test_a_late_reply_after_the_retransmission_answers_once(ground):
    late = []
    ground.xprt.server = lambda call: late.append(call) if len(ground.xprt.sent) < 2 else success(call)
    assert ground.call(b"once") == (0, b"once")
    ground.xprt._reply(success(late[0]))
    ground.run_for(SECOND)
    assert ground.call(b"next") == (0, b"next")
    assert ground.xprt.retransmissions == 1


def test_the_reply_to_the_first_try_answers_a_call_that_was_sent_again(ground):
    late = []
    ground.xprt.server = late.append
    ground.start("a")
    ground.run_for(70 * SECOND)
    assert len(late) == 2
    ground.xprt._reply(success(late[0]))
    ground.run_for(SECOND)
    assert ground.ops.done == [("a", 0, b"abcd")]
    ground.xprt._reply(success(late[1]))
    assert len(ground.ops.done) == 1


def test_a_soft_call_of_a_dead_server_leaves_the_transport_to_others():
    with rpc_ground(soft=True) as ground:
        ground.xprt.server = lambda _call: None
        assert ground.call() == (-EIO, None)
        ground.xprt.server = success
        assert ground.call()[0] == 0
        ground.check()
