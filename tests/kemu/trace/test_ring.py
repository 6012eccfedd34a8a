"""Tracepoints and their ring."""

from __future__ import annotations

import pytest

from kemu.kernel.core import Kernel
from kemu.trace import Trace


@pytest.fixture
def trace():
    return Trace(lambda: (1_234_567_891, 2, "kswapd0", 7), size=100)


def test_a_point_is_off_until_it_is_enabled(trace):
    point = trace.point("kmem:mm_page_alloc", ("page", "order"))
    assert not point.enabled
    assert trace.enable("kmem:*") == 1
    assert point.enabled
    assert trace.disable("kmem:mm_page_alloc") == 1
    assert not point.enabled


def test_a_name_is_one_point(trace):
    assert trace.point("skb:kfree_skb", ("skbaddr",)) is trace.point("skb:kfree_skb", ("skbaddr",))


def test_a_point_made_later_obeys_what_was_said_before(trace):
    trace.enable("skb:*")
    trace.disable("skb:consume*")
    assert trace.point("skb:kfree_skb", ()).enabled
    assert not trace.point("skb:consume_skb", ()).enabled
    assert not trace.point("kmem:kfree", ()).enabled


def test_a_line_reads_like_the_kernels(trace):
    trace.point("kmem:mm_page_alloc", ("page", "order", "gfp_flags"))(0x1A3, 1, 0x20)
    assert trace.last() == ["           kswapd0-7 [002]     1.234567: mm_page_alloc: page=0x1a3 order=1 gfp_flags=0x20"]


def test_the_ring_is_bounded_and_gives_the_last(trace):
    point = trace.point("kemu:step", ("n",))
    for n in range(250):
        point(n)
    assert len(trace) == 100
    assert [line.rpartition("=")[2] for line in trace.last(2)] == ["248", "249"]
    assert trace.last(0) == []
    assert next(iter(trace.events())) == ("kemu:step", {"n": 150})


def test_events_are_chosen_by_glob_and_can_be_forgotten(trace):
    trace.point("a:x", ("n",))(1)
    trace.point("b:y", ("n",))(2)
    assert list(trace.events("b:*")) == [("b:y", {"n": 2})]
    trace.clear()
    assert len(trace) == 0


def test_points_are_listed_by_name(trace):
    for name in ("b:y", "a:x"):
        trace.point(name, ())
    assert [repr(point) for point in trace.points()] == ["<tracepoint a:x off>", "<tracepoint b:y off>"]


def test_a_machine_stamps_records_with_its_task_and_its_time():
    with Kernel().world as world:
        kernel = world.machines[0]
        point = kernel.trace.point("kemu:here", ("n",))
        kernel.sched.spawn("worker", lambda: (kernel.sched.spend(5_000), point(1)))
        world.run()
        world.post(world.now + 1_000_000, lambda _arg: point(2))
        world.run()
        first, second = kernel.trace.last()
        assert first.split()[:3] == ["worker-3", "[000]", "0.000007:"]
        assert second.split()[0] == "<hub>-0"


def test_a_probe_is_called_where_the_event_happens(trace):
    point = trace.point("net:rx", ("len", "why"))
    seen = []
    trace.register_probe("net:rx", lambda length, why: seen.append((length, why)))
    assert point.enabled
    point(60, "nic")
    assert seen == [(60, "nic")] and len(trace) == 1
