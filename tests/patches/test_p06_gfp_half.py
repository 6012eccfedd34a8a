"""Patch 06, its half in the page allocator: PF_MEMALLOC counts unless a hard interrupt runs."""

from __future__ import annotations

import pytest

from kemu.kernel.task import PF_MEMALLOC, TIF_MEMDIE
from kemu.mm import gfp as g
from mm_ground import MIB, ground

PROCESS, BH, HARDIRQ = 0, 1 << 8, 1 << 16


@pytest.mark.parametrize(
    ("context", "before", "after"),
    [(PROCESS, True, True), (BH, False, True), (HARDIRQ, False, False), (BH + HARDIRQ, False, False)],
    ids=["process", "softirq or BH disabled", "hard irq", "hard irq inside softirq"],
)
@pytest.mark.parametrize("patches", ["all", "all,-1"])
def test_pf_memalloc_by_context(patches, context, before, after):
    for this, expected in ((patches, after), (patches + ",-6", before)):
        with ground(2 * MIB, this) as machine:
            machine.starve(1)
            machine.task.flags |= PF_MEMALLOC
            with machine.preempt_count(context):
                page = machine.pa.alloc_page(g.GFP_ATOMIC | g._GFP_NOWARN)
            assert (page is not None) is expected


@pytest.mark.parametrize("patches", ["all", "all,-6"])
@pytest.mark.parametrize(("context", "expected"), [(PROCESS, True), (BH, False), (HARDIRQ, False)])
def test_a_dying_task_lends_nothing_to_interrupts(patches, context, expected):
    with ground(2 * MIB, patches) as machine:
        machine.task.thread_flags |= TIF_MEMDIE
        with machine.preempt_count(context):
            assert machine.pa.entitled(g.GFP_ATOMIC) is expected


def test_kswapd_keeps_its_entitlement_where_it_disables_bottom_halves():
    with ground(2 * MIB) as machine:
        machine.task.flags |= PF_MEMALLOC
        machine.kernel.softirq.local_bh_disable()
        entitled = machine.pa.entitled(g.GFP_ATOMIC)
        machine.kernel.softirq.local_bh_enable()
        assert entitled
