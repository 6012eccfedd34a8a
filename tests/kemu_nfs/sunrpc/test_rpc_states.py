"""The table of states."""

from __future__ import annotations

from kemu_nfs.sunrpc.call_steps import CallSteps
from kemu_nfs.sunrpc.rpc_sched import RpcSched
from kemu_nfs.sunrpc.rpc_task import CALL_DONE, CALL_EXIT, CALL_START, CALL_STATES


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


def test_every_state_is_a_function_and_says_what_it_does():
    for number, state in CALL_STATES.items():
        assert number == CALL_DONE or hasattr(CallSteps, state.name) or hasattr(RpcSched, state.name), state.name
        assert state.does
