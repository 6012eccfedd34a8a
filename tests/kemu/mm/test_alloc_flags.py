"""From a request and its context to ALLOC_* flags."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.task import PF_MEMALLOC, TIF_MEMDIE
from kemu.mm.gfp import (
    _GFP_HIGH,
    _GFP_MEMALLOC,
    _GFP_NOMEMALLOC,
    _GFP_WAIT,
    ALLOC_CPUSET,
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_NO_WATERMARKS,
    ALLOC_WMARK_MIN,
    GFP_ATOMIC,
    GFP_KERNEL,
)
from mm_ground import ground

SOFTIRQ = 1 << 8
HARDIRQ = 1 << 16


@pytest.fixture
def machine():
    with ground() as ground_:
        yield ground_


def test_who_may_wait_gets_no_discount_and_keeps_to_his_cpuset(machine):
    assert machine.pa.gfp_to_alloc_flags(GFP_KERNEL) == ALLOC_WMARK_MIN | ALLOC_CPUSET


def test_an_atomic_request_gets_both_discounts(machine):
    assert machine.pa.gfp_to_alloc_flags(GFP_ATOMIC) == ALLOC_WMARK_MIN | ALLOC_HIGH | ALLOC_HARDER


def test_a_real_time_task_gets_one_discount_and_keeps_to_its_cpuset(machine):
    machine.task.rt = True
    assert machine.pa.gfp_to_alloc_flags(GFP_KERNEL) == ALLOC_WMARK_MIN | ALLOC_HARDER | ALLOC_CPUSET


def test_an_interrupt_does_not_inherit_what_its_task_gets_for_being_real_time(machine):
    machine.task.rt = True
    with machine.preempt_count(HARDIRQ):
        assert not machine.pa.gfp_to_alloc_flags(GFP_KERNEL) & ALLOC_HARDER


@pytest.mark.parametrize(("context", "entitled"), [(0, True), (SOFTIRQ, True), (HARDIRQ, False)])
def test_pf_memalloc_opens_the_reserves_outside_of_hard_interrupts(machine, context, entitled):
    machine.task.flags |= PF_MEMALLOC
    with machine.preempt_count(context):
        assert machine.pa.entitled(GFP_KERNEL) == entitled


def test_an_oom_victim_is_not_entitled_in_a_softirq_that_borrows_it(machine):
    machine.task.thread_flags |= TIF_MEMDIE
    assert machine.pa.entitled(GFP_KERNEL)
    with machine.preempt_count(SOFTIRQ):
        assert not machine.pa.entitled(GFP_KERNEL)


@pytest.mark.parametrize("context", [0, SOFTIRQ, HARDIRQ])
def test_gfp_memalloc_opens_the_reserves_in_every_context(machine, context):
    with machine.preempt_count(context):
        assert machine.pa.entitled(GFP_ATOMIC | _GFP_MEMALLOC)


@pytest.mark.parametrize("context", [0, SOFTIRQ, HARDIRQ])
def test_nomemalloc_beats_everything(machine, context):
    machine.task.flags |= PF_MEMALLOC
    machine.task.thread_flags |= TIF_MEMDIE
    with machine.preempt_count(context):
        assert not machine.pa.entitled(GFP_ATOMIC | _GFP_MEMALLOC | _GFP_NOMEMALLOC)


@given(st.sets(st.sampled_from([_GFP_WAIT, _GFP_HIGH, _GFP_MEMALLOC, _GFP_NOMEMALLOC])), st.booleans())
@settings(max_examples=25, deadline=None)
def test_entitled_is_the_no_watermarks_flag(bits, memalloc):
    gfp = sum(bits)
    with ground() as machine:
        machine.task.flags |= PF_MEMALLOC * memalloc
        assert machine.pa.entitled(gfp) == bool(machine.pa.gfp_to_alloc_flags(gfp) & ALLOC_NO_WATERMARKS)


def test_without_patch_01_nobody_outside_the_page_allocator_learns_of_an_entitlement():
    with ground(patches="none") as machine:
        machine.task.flags |= PF_MEMALLOC
        assert not machine.pa.entitled(GFP_KERNEL)
