"""The contract of stacks, on both vehicles."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from kemu.errors import ConfigError
from kemu.kernel.switch import TaskKilled, make_vehicle


class Ring:
    """A hub of the simplest kind: the test's own stack."""

    def __init__(self, name):
        self.vehicle = make_vehicle(name)
        self.me = self.vehicle.adopt()
        self.log = []

    def stack(self, fn):
        stack = self.vehicle.spawn(fn, self.me)
        self.vehicle.start(stack)
        return stack

    def enter(self, stack):
        self.vehicle.switch(self.me, stack)

    def leave(self, stack):
        self.vehicle.switch(stack, self.me)


@pytest.fixture
def ring(vehicle):
    return Ring(vehicle)


def test_a_stack_goes_on_where_it_was_left(ring):
    def body():
        for step in range(3):
            ring.log.append(step)
            ring.leave(stack)

    stack = ring.stack(body)
    for steps in range(1, 4):
        ring.enter(stack)
        assert ring.log == list(range(steps))
    assert not stack.done
    ring.enter(stack)
    assert stack.done


def test_stacks_switch_among_each_other(ring):
    def first():
        ring.log.append("first")
        ring.vehicle.switch(one, two)
        ring.log.append("first again")

    def second():
        ring.log.append("second")
        ring.vehicle.switch(two, one)

    one, two = ring.stack(first), ring.stack(second)
    ring.enter(one)
    assert ring.log == ["first", "second", "first again"]
    ring.vehicle.reap([one, two])


def test_an_exception_of_a_body_is_raised_in_the_stack_behind_it(ring):
    def body():
        raise ZeroDivisionError("from inside")

    stack = ring.stack(body)
    with pytest.raises(ZeroDivisionError, match="from inside"):
        ring.enter(stack)
    assert stack.done


def test_a_pending_exception_is_raised_where_the_stack_sleeps(ring):
    def body():
        try:
            ring.leave(stack)
        except ValueError as error:
            ring.log.append(str(error))

    stack = ring.stack(body)
    ring.enter(stack)
    stack.pending = ValueError("wake up")
    ring.enter(stack)
    assert ring.log == ["wake up"]
    assert stack.done


def test_a_stack_that_is_dying_and_sleeps_is_killed_again(ring):
    def body():
        try:
            ring.leave(stack)
        except TaskKilled:
            ring.log.append("once")
            try:
                ring.leave(stack)
            except TaskKilled:
                ring.log.append("twice")
                raise

    stack = ring.stack(body)
    ring.enter(stack)
    ring.vehicle.reap([stack])
    assert ring.log == ["once", "twice"]
    assert stack.done


def test_what_a_dying_stack_raises_is_heard_by_nobody(ring):
    def body():
        try:
            ring.leave(stack)
        finally:
            raise RuntimeError("too late")

    stack = ring.stack(body)
    ring.enter(stack)
    ring.vehicle.reap([stack])
    assert stack.done


def test_reaping_runs_the_finally_blocks_of_nested_frames(ring):
    def inner():
        try:
            ring.leave(stack)
        finally:
            ring.log.append("inner")

    def body():
        try:
            inner()
        finally:
            ring.log.append("outer")

    stack = ring.stack(body)
    ring.enter(stack)
    ring.vehicle.reap([stack])
    assert ring.log == ["inner", "outer"]


def test_a_stack_that_was_never_started_is_dropped(ring):
    stack = ring.vehicle.spawn(lambda: ring.log.append("ran"), ring.me)
    ring.vehicle.reap([stack])
    assert ring.log == []


def test_a_stack_that_was_started_but_never_entered_is_dropped_without_running(ring):
    stack = ring.stack(lambda: ring.log.append("ran"))
    ring.vehicle.reap([stack])
    assert ring.log == []
    assert stack.done


def test_threads_are_gone_after_reaping():
    ring = Ring("threads")
    stacks = []
    for index in range(5):
        stacks.append(ring.stack(lambda index=index: ring.leave(stacks[index])))
    for stack in stacks:
        ring.enter(stack)
    assert sum(thread.name == "kemu" for thread in threading.enumerate()) == 5
    ring.vehicle.reap(stacks)
    assert not any(thread.name == "kemu" for thread in threading.enumerate())


def test_an_unknown_vehicle_is_refused():
    with pytest.raises(ConfigError, match="'greenlet' or 'threads'"):
        make_vehicle("bicycle")


def test_without_greenlet_threads_are_taken(monkeypatch):
    monkeypatch.setattr("kemu.kernel.switch.greenlet", None)
    assert make_vehicle().name == "threads"
    with pytest.raises(ConfigError, match="needs the package greenlet"):
        make_vehicle("greenlet")


def test_a_thread_that_is_woken_without_the_baton_sleeps_on():
    ring = Ring("threads")

    def body():
        for step in range(3):
            ring.log.append(step)
            ring.leave(stack)

    stack = ring.stack(body)
    for steps in range(1, 4):
        for sleeper in (stack, ring.me, stack):
            with contextlib.suppress(RuntimeError):  # its lock is free: it is awake, or about to be
                sleeper.handle.release()
        time.sleep(0.005)
        assert ring.log == list(range(steps - 1))
        ring.enter(stack)
        assert ring.log == list(range(steps))
    ring.enter(stack)
    assert stack.done
