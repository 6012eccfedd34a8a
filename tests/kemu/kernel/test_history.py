"""The history: what is in the hash, and what is not."""

from __future__ import annotations

from kemu.kernel.core import Kernel
from kemu.kernel.history import FRAME, KINDS, PAGE_OUT, History


def test_equal_events_give_equal_hashes_and_any_difference_shows():
    def digest(*events):
        history = History()
        for event in events:
            history.add(*event)
        return history.hexdigest()

    base = digest((FRAME, 1, 2, 3), (PAGE_OUT, 4, 5, 6))
    assert base == digest(("frame", 1, 2, 3), ("page_out", 4, 5, 6))
    others = [
        digest((FRAME, 1, 2, 3)),
        digest((PAGE_OUT, 4, 5, 6), (FRAME, 1, 2, 3)),
        digest((FRAME, 1, 2, 3), (PAGE_OUT, 4, 5, 7)),
    ]
    assert len({base, *others}) == 4


def test_asking_does_not_change_the_hash():
    one, other = History(), History()
    for n in range(10_000):
        one.add(FRAME, n, n * 7)
        other.add(FRAME, n, n * 7)
        if n % 1000 == 0:
            one.hexdigest()
    assert one.hexdigest() == other.hexdigest()
    assert one.counts[FRAME] == 10_000


def test_numbers_of_any_size_are_taken():
    history = History()
    history.add(FRAME, 1, -1, 1 << 70)
    assert history.hexdigest().startswith("sha256:")


def test_there_are_five_kinds():
    assert list(KINDS) == ["task_switch", "frame", "page_out", "page_in", "outcome"]


def test_task_switches_are_recorded_printk_and_trace_are_not():
    with Kernel().world as world:
        kernel = world.machines[0]
        kernel.printk("hello")
        kernel.trace.enable()
        kernel.trace.point("kemu:x", ("a",))(1)
        assert world.history.counts == [0] * 5
        kernel.sched.spawn("t", int)
        world.run()
        assert world.history.counts == [1, 0, 0, 0, 0]
