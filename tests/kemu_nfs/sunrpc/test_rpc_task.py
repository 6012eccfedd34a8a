"""The table of states, and the queue with priorities."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kemu_nfs.sunrpc.rpc_task import CALL_DONE, CALL_EXIT, CALL_START, CALL_STATES, RpcWaitQueue


class Sleeper:
    def __init__(self, name, priority=1) -> None:
        self.name = name
        self.tk_priority = priority


def wake_all(queue):
    names = []
    while (task := queue.first()) is not None:
        queue.remove(task)
        names.append(task.name)
    return names


def test_every_state_that_may_follow_is_in_the_table():
    assert all(then in CALL_STATES for state in CALL_STATES.values() for then in state.then)


def test_every_state_is_reached_and_leads_to_the_end():
    seen = {CALL_START}
    todo = [CALL_START]
    while todo:
        for then in CALL_STATES[todo.pop()].then:
            if then not in seen:
                seen.add(then)
                todo.append(then)
    assert seen == set(CALL_STATES)
    assert CALL_DONE in CALL_STATES[CALL_EXIT].then


def test_one_level_is_first_come_first_served():
    queue = RpcWaitQueue("q")
    for name in range(20):
        queue.add(Sleeper(name))
    assert wake_all(queue) == list(range(20))


def test_the_higher_level_goes_first():
    queue = RpcWaitQueue("q")
    queue.add(Sleeper("low", 0))
    queue.add(Sleeper("normal", 1))
    queue.add(Sleeper("high", 2))
    assert wake_all(queue) == ["high", "normal", "low"]


def test_the_lower_level_is_slowed_but_not_starved():
    queue = RpcWaitQueue("q")
    for i in range(60):
        queue.add(Sleeper(f"high{i}", 2))
    queue.add(Sleeper("low", 0))
    queue.add(Sleeper("normal", 1))
    woken = wake_all(queue)
    assert woken.index("normal") == 16
    assert woken.index("low") == 17


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40))
def test_everybody_is_woken_exactly_once_whatever_comes_between(events):
    queue = RpcWaitQueue("q")
    added, woken = [], []
    for i, (priority, wake) in enumerate(events):
        queue.add(Sleeper(i, priority))
        added.append(i)
        if wake:
            task = queue.first()
            queue.remove(task)
            woken.append(task.name)
    assert len(queue) == len(added) - len(woken)
    woken += wake_all(queue)
    assert sorted(woken) == added
