"""Sleeping, waking, rpciod, and memory for tasks and buffers."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kemu.kernel.errno import ETIMEDOUT
from kemu.mm.fault_inject import FailPageAlloc
from kemu_nfs.sunrpc.rpc_sched import RPC_BUFFER_MAXSIZE, RPC_BUFFER_POOLSIZE, RPC_TASK_POOLSIZE
from kemu_nfs.sunrpc.rpc_task import RPC_TASK_ASYNC, RPC_TASK_SWAPPER, RpcProc, RpcRqst, RpcWaitQueue
from rpc_ground import ECHO, MS, SECOND, rpc_ground


@pytest.fixture
def ground():
    with rpc_ground() as g:
        yield g


def sleeper(ground, name="t"):
    task = ground.clnt.rpc_init_task(RPC_TASK_ASYNC, ECHO, b"", None, ground.ops, name)
    ground.rpc.live[task] = None
    return task


def test_a_task_without_a_timeout_sleeps_until_woken(ground):
    queue, task = RpcWaitQueue("q"), sleeper(ground)
    ground.rpc.rpc_sleep_on(queue, task)
    ground.run_for(1000 * SECOND)
    assert task.tk_waitqueue is queue
    task.tk_action = 0
    ground.rpc.rpc_wake_up_task(task)
    ground.run_for(MS)
    assert ground.ops.released == ["t"]


def test_time_over_wakes_with_etimedout(ground):
    queue, task = RpcWaitQueue("q"), sleeper(ground)
    task.tk_action = 0
    task.tk_timeout = 250
    ground.rpc.rpc_sleep_on(queue, task)
    ground.run_for(SECOND - MS)
    assert task.tk_waitqueue is queue
    ground.run_for(10 * MS)
    assert task.tk_status == -ETIMEDOUT
    assert len(queue) == 0


def test_a_timeout_function_decides_itself(ground):
    task = sleeper(ground)
    task.tk_timeout = 1
    seen = []
    ground.rpc.rpc_sleep_on(RpcWaitQueue("q"), task, None, seen.append)
    ground.run_for(SECOND)
    assert seen == [task]
    assert task.tk_waitqueue is not None


def test_a_callback_is_the_first_thing_after_waking(ground):
    task = sleeper(ground)
    task.tk_action = 0
    seen = []
    ground.rpc.rpc_sleep_on(RpcWaitQueue("q"), task, lambda t: seen.append(("callback", t.tk_status)))
    task.tk_status = -7
    ground.rpc.rpc_wake_up_task(task)
    ground.run_for(MS)
    assert seen == [("callback", -7)]


def test_waking_twice_queues_once(ground):
    task = sleeper(ground)
    task.tk_action = 0
    ground.rpc.rpc_sleep_on(RpcWaitQueue("q"), task)
    ground.rpc.rpc_wake_up_task(task)
    ground.rpc.rpc_wake_up_task(task)
    ground.run_for(MS)
    assert ground.ops.released == ["t"]


def test_a_status_for_all(ground):
    queue = RpcWaitQueue("q")
    tasks = [sleeper(ground, i) for i in range(3)]
    for task in tasks:
        task.tk_action = 0
        ground.rpc.rpc_sleep_on(queue, task)
    ground.rpc.rpc_wake_up_status(queue, -5)
    assert [task.tk_status for task in tasks] == [-5] * 3
    assert len(queue) == 0


def test_an_asynchronous_call_runs_on_rpciod_and_not_in_its_caller(ground):
    ran = []
    ground.ops.on_done = lambda _task: ran.append(ground.sched.current.comm)
    ground.start("a")
    assert ground.xprt.sent == []
    ground.run_for(SECOND)
    assert ran == ["rpciod"]
    assert ground.ops.done[0][:2] == ("a", 0)


def test_in_the_bases_manner_the_first_steps_are_the_callers(ground):
    ground.rpc.async_in_caller = True
    assert ground.call()[0] == 0
    ground.start("a")
    assert len(ground.xprt.sent) == 2, "sent before rpc_execute() came back"
    ground.run_for(SECOND)
    assert ground.ops.done[0][:2] == ("a", 0)


def test_a_synchronous_call_blocks_its_caller(ground):
    before = ground.sched.now
    assert ground.call(b"four") == (0, b"four")
    assert ground.sched.now - before >= MS


def test_a_task_that_stands_alone_comes_from_the_pool_and_goes_back(ground):
    in_use = ground.slub.objects_in_use(ground.rpc.task_cache)
    assert in_use == RPC_TASK_POOLSIZE
    ground.call()
    assert ground.slub.objects_in_use(ground.rpc.task_cache) == in_use


def test_buffers_up_to_2048_bytes_are_the_pools(ground):
    task = sleeper(ground)
    task.tk_rqstp = req = RpcRqst()
    before = ground.slub.objects_in_use(ground.rpc.buffer_cache)
    assert before == RPC_BUFFER_POOLSIZE
    assert ground.rpc.rpc_malloc(task, RPC_BUFFER_MAXSIZE)
    assert ground.slub.objects_in_use(ground.rpc.buffer_cache) == before + 1
    ground.rpc.rpc_free(req)
    assert ground.slub.objects_in_use(ground.rpc.buffer_cache) == before
    assert ground.rpc.rpc_malloc(task, RPC_BUFFER_MAXSIZE + 1)
    assert ground.slub.objects_in_use(ground.rpc.buffer_cache) == before
    ground.rpc.rpc_free(req)
    ground.rpc.rpc_free(req)


def test_the_pool_serves_eight_when_the_allocator_serves_none(ground):
    ground.page_alloc.fail_page_alloc = FailPageAlloc(ground.kernel, ignore_gfp_wait=False, min_order=0)
    got = 0
    for _ in range(40):
        task = sleeper(ground)
        task.tk_rqstp = RpcRqst()
        got += ground.rpc.rpc_malloc(task, 1000)
    slab_rest = got - RPC_BUFFER_POOLSIZE
    assert 0 <= slab_rest < 8
    assert ground.rpc.buffer_failures == 40 - got


def test_without_a_buffer_the_slot_goes_back_and_the_call_tries_again_after_a_sixteenth_of_a_second(ground):
    tries = []
    malloc = ground.rpc.rpc_malloc

    def refuse(task, size):
        tries.append(ground.sched.jiffies)
        assert task.tk_rqstp is not None
        return len(tries) > 2 and malloc(task, size)

    ground.rpc.rpc_malloc = refuse
    ground.start("a")
    ground.run_for(10 * MS)
    assert len(ground.xprt.free) == 16, "nobody holds a slot while he waits for memory"
    ground.check()
    ground.run_for(SECOND)
    assert ground.ops.done[0][:2] == ("a", 0)
    assert [b - a for a, b in pairwise(tries)] == [15, 15]


def test_a_call_may_be_started_again_from_its_end(ground):
    runs = []

    def again(task):
        runs.append(task.tk_result)
        if len(runs) < 3:
            task.tk_action = 1

    ground.ops.on_done = again
    ground.start("a")
    ground.run_for(SECOND)
    assert len(runs) == 3
    assert len({xid for _, xid in ground.xprt.sent}) == 3, "each run is a call of its own"
    assert ground.ops.released == ["a"]


def test_a_call_may_be_put_off_from_its_end(ground):
    def later(task):
        if len(ground.ops.done) == 1:
            task.tk_action = 1
            ground.rpc.rpc_delay(task, 250)

    ground.ops.on_done = later
    ground.start("a")
    others = [ground.start(i) for i in range(20)]
    ground.run_for(SECOND // 2)
    assert len(ground.ops.released) == len(others)
    ground.run_for(2 * SECOND)
    assert ground.ops.released[-1] == "a"
    ground.check()


def test_the_swapper_flag_of_the_transport_marks_every_task(ground):
    ground.xprt.swapper = 1
    assert sleeper(ground).tk_flags & RPC_TASK_SWAPPER
    ground.xprt.swapper = 0
    assert not sleeper(ground).tk_flags & RPC_TASK_SWAPPER


def test_what_a_call_waits_for_can_be_told(ground):
    ground.xprt.server = lambda _call: None
    big = RpcProc("BIG", 1, lambda a: (a, None, b""), lambda r, _o, _a: r)
    tasks = [ground.start(i, proc=big) for i in range(18)]
    ground.run_for(100 * MS)
    explain = ground.kernel.judge.explainers["rpc"]
    text, link = explain(tasks[0])
    assert text.startswith("BIG xid 0x")
    assert "waits for its reply" in text
    assert link == ("reply", ground.xprt)
    text, link = explain(tasks[17])
    assert "waits for a slot" in text
    text, link = ground.kernel.judge.explainers["slot"](link[1])
    assert "all 16 slots" in text
    assert link[0] == "rpc"
