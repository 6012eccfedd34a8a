"""Queues of calls: swappers at the head; priorities and batches by owner on the backlog."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.sunrpc.rpc_task import RPC_TASK_SWAPPER
from kemu_nfs.sunrpc.rpc_wait_queue import RPC_BATCH_COUNT, RpcPriorityQueue, RpcWaitQueue


class Sleeper:
    def __init__(self, name, priority=1, cookie=1, flags=0) -> None:
        self.name = name
        self.tk_priority = priority
        self.tk_cookie = cookie
        self.tk_flags = flags


def wake_all(queue):
    names = []
    while (task := queue.first()) is not None:
        queue.remove(task)
        names.append(task.name)
    return names


def filled(queue, *sleepers):
    for sleeper in sleepers:
        queue.add(sleeper)
    return queue


def test_first_come_first_served():
    assert wake_all(filled(RpcWaitQueue("q"), *map(Sleeper, range(20)))) == list(range(20))


def test_a_swapper_comes_to_the_head():
    queue = filled(
        RpcWaitQueue("q"), Sleeper("a"), Sleeper("s", flags=RPC_TASK_SWAPPER), Sleeper("b"), Sleeper("t", flags=RPC_TASK_SWAPPER)
    )
    assert [task.name for task in queue.tasks()] == ["t", "s", "a", "b"]
    assert len(queue) == 4
    assert wake_all(queue) == ["t", "s", "a", "b"]


def test_one_owner_of_one_priority_is_first_come_first_served():
    assert wake_all(filled(RpcPriorityQueue("q"), *map(Sleeper, range(40)))) == list(range(40))


def test_the_higher_priority_goes_first():
    queue = filled(RpcPriorityQueue("q"), Sleeper("low", 0), Sleeper("normal", 1), Sleeper("high", 2))
    assert [task.name for task in queue.tasks()] == ["high", "normal", "low"]
    assert wake_all(queue) == ["high", "normal", "low"]


def test_of_many_owners_fifteen_turns_of_high_priority_pass_before_a_lower_one_has_its_own():
    queue = filled(RpcPriorityQueue("q"), *(Sleeper(f"high{i}", 2, i + 1) for i in range(40)), Sleeper("low", 0), Sleeper("normal"))
    woken = wake_all(queue)
    assert woken.index("normal") == 15
    assert woken.index("low") == 16


def test_a_batch_of_one_owner_is_one_turn():
    first = [Sleeper(("one", i), 2, 1) for i in range(2 * RPC_BATCH_COUNT)]
    queue = filled(RpcPriorityQueue("q"), *first, *(Sleeper(("two", i), 2, 2) for i in range(4)))
    owners = [owner for owner, _ in wake_all(queue)]
    assert owners[: RPC_BATCH_COUNT + 1] == ["one"] * (RPC_BATCH_COUNT + 1), "the last of them opens the next batch"
    assert owners[RPC_BATCH_COUNT + 1 : RPC_BATCH_COUNT + 5] == ["two"] * 4


def test_an_empty_queue_begins_again_with_the_highest_priority():
    queue = filled(RpcPriorityQueue("q"), Sleeper("low", 0))
    assert wake_all(queue) == ["low"]
    filled(queue, Sleeper("low", 0), Sleeper("high", 2))
    assert wake_all(queue) == ["high", "low"]


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.booleans(), st.booleans()), max_size=60))
def test_everybody_is_woken_exactly_once_whatever_comes_between(priorities, events):
    queue = RpcPriorityQueue("q") if priorities else RpcWaitQueue("q")
    added, woken = [], []
    for i, (priority, cookie, swapper, wake) in enumerate(events):
        queue.add(Sleeper(i, priority, cookie, RPC_TASK_SWAPPER if swapper else 0))
        added.append(i)
        if wake:
            task = queue.first()
            queue.remove(task)
            woken.append(task.name)
    assert len(queue) == len(queue.tasks()) == len(added) - len(woken)
    woken += wake_all(queue)
    assert sorted(woken) == added
