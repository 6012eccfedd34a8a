"""Timed events of a CPU, and the fields of ``preempt_count``."""

from __future__ import annotations


def test_cancelled_events_are_dropped_and_the_heap_is_compacted(kernel):
    cpu = kernel.cpus[0]
    before = len(cpu.events)
    events = [cpu.post(10**9, lambda _arg: None) for _ in range(100)]
    for event in events[:90]:
        event.cancel()
    assert len(cpu.events) == before + 10
    assert len(cpu.events.heap) < 30
