"""Patch 06: a softirq starts without PF_MEMALLOC, and whoever it borrowed has its own bit back afterwards.

The half in the page allocator is in test_p06_gfp_half.py; the last tests here join the two.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.core import Kernel
from kemu.kernel.softirq import NET_RX_SOFTIRQ, NET_TX_SOFTIRQ
from kemu.kernel.task import (
    PF_FSTRANS,
    PF_KSWAPD,
    PF_LESS_THROTTLE,
    PF_MEMALLOC,
    PF_NAMES,
    PF_SWAPWRITE,
    TIF_MEMDIE,
    tsk_restore_flags,
)
from kemu.kernel.world import World
from kemu.mm import gfp as g
from kemu.patches import PatchSet
from mm_ground import MIB, ground

KSWAPD = PF_MEMALLOC | PF_SWAPWRITE | PF_KSWAPD


@pytest.fixture(params=["all", "all,-6"])
def kernel(request):
    with World() as world:
        yield Kernel(world=world, patched=PatchSet.parse(request.param))


def softirq(kernel, *handlers):
    """Run these as softirqs of the current task, now."""
    for nr, handler in zip((NET_TX_SOFTIRQ, NET_RX_SOFTIRQ), handlers, strict=False):
        kernel.softirq.open_softirq(nr, handler)
        kernel.cpus[0].post(0, lambda _arg, nr=nr: kernel.softirq.raise_softirq(nr))
    kernel.sched.spend(1)


def test_handlers_start_without_pf_memalloc_when_patched(kernel):
    seen = []
    kernel.init.flags |= KSWAPD
    softirq(kernel, lambda: seen.append(kernel.sched.current.flags))
    expected = KSWAPD & ~PF_MEMALLOC if kernel.patched.softirq_memalloc else KSWAPD
    assert seen == [expected]
    assert kernel.init.flags == KSWAPD


def test_what_one_handler_leaves_the_next_one_of_the_round_sees(kernel):
    """The bit is cleared once per __do_softirq, not per handler: who sets it must restore it (patch 23 does)."""
    seen = []

    def careless():
        kernel.sched.current.flags |= PF_MEMALLOC

    softirq(kernel, careless, lambda: seen.append(kernel.sched.current.flags & PF_MEMALLOC))
    assert seen == [PF_MEMALLOC]


@settings(max_examples=40, deadline=None)
@given(before=st.integers(0, (1 << 24) - 1), changes=st.lists(st.integers(0, (1 << 24) - 1), max_size=3))
def test_only_that_bit_is_restored(before, changes):
    with World() as world:
        kernel = Kernel(world=world)
        kernel.init.flags = before

        def handler():
            for change in changes:
                kernel.sched.current.flags ^= change

        softirq(kernel, handler)
        expected = before & ~PF_MEMALLOC
        for change in changes:
            expected ^= change
        assert kernel.init.flags == (expected & ~PF_MEMALLOC) | (before & PF_MEMALLOC)


def test_unpatched_a_handlers_bit_stays_with_the_borrowed_task():
    with World() as world:
        kernel = Kernel(world=world, patched=PatchSet.parse("all,-6"))

        def careless():
            kernel.sched.current.flags |= PF_MEMALLOC

        softirq(kernel, careless)
        assert kernel.init.flags & PF_MEMALLOC


@pytest.mark.parametrize("memalloc", [0, PF_MEMALLOC])
def test_every_round_and_nested_interrupts_leave_the_bit_as_it_was(kernel, memalloc):
    rounds = itertools.count()
    kernel.init.flags |= memalloc

    def handler():
        kernel.cpus[0].post(kernel.sched.now, lambda _arg: None)
        kernel.sched.spend(1_000)
        if next(rounds) < 30:
            kernel.softirq.raise_softirq(NET_TX_SOFTIRQ)

    softirq(kernel, handler)
    assert kernel.init.flags & PF_MEMALLOC == memalloc
    kernel.world.run()
    assert next(rounds) == 31
    assert all(not task.flags & PF_MEMALLOC for task in kernel.sched.tasks.values() if task.comm == "ksoftirqd/0")


def test_ksoftirqd_gets_the_same_treatment(kernel):
    seen = []
    ksoftirqd = next(task for task in kernel.sched.tasks.values() if task.comm == "ksoftirqd/0")
    ksoftirqd.flags |= PF_MEMALLOC
    kernel.softirq.open_softirq(NET_RX_SOFTIRQ, lambda: seen.append(kernel.sched.current.flags & PF_MEMALLOC))
    kernel.softirq.raise_softirq(NET_RX_SOFTIRQ)
    kernel.world.run()
    assert seen == [0 if kernel.patched.softirq_memalloc else PF_MEMALLOC]
    assert ksoftirqd.flags & PF_MEMALLOC


def test_local_bh_enable_borrows_too(kernel):
    seen = []
    kernel.init.flags |= PF_MEMALLOC
    kernel.softirq.open_softirq(NET_RX_SOFTIRQ, lambda: seen.append(bool(kernel.sched.current.flags & PF_MEMALLOC)))
    kernel.softirq.local_bh_disable()
    kernel.softirq.raise_softirq(NET_RX_SOFTIRQ)
    kernel.softirq.local_bh_enable()
    assert seen == [not kernel.patched.softirq_memalloc]


@pytest.mark.parametrize("mask", list(PF_NAMES))
def test_tsk_restore_flags_touches_the_mask_alone(kernel, mask):
    task = kernel.init
    task.flags = PF_FSTRANS | PF_LESS_THROTTLE
    tsk_restore_flags(task, (1 << 24) - 1, mask)
    assert task.flags == PF_FSTRANS | PF_LESS_THROTTLE | mask
    tsk_restore_flags(task, 0, mask)
    assert task.flags == (PF_FSTRANS | PF_LESS_THROTTLE) & ~mask


# ---- both halves: who may use the reserve in a softirq that has interrupted kswapd


def reserve_page_in_softirq(machine, *, set_inside, hard=False):
    """Take a page in a softirq that borrows a PF_MEMALLOC task, on a machine that has only reserve pages; tell if there was one."""
    kernel, got = machine.kernel, []
    machine.starve(1)
    machine.task.flags |= KSWAPD

    def allocate(_arg=None):
        page = machine.pa.alloc_page(g.GFP_ATOMIC | g._GFP_NOWARN)
        got.append(page is not None)

    def handler():
        task = kernel.sched.current
        saved = task.flags
        if set_inside:
            task.flags |= PF_MEMALLOC
        if hard:
            kernel.cpus[0].post(kernel.sched.now, allocate)
            kernel.sched.spend(1)
        else:
            allocate()
        tsk_restore_flags(task, saved, PF_MEMALLOC)

    softirq(kernel, handler)
    return got == [True]


@pytest.mark.parametrize(
    ("patches", "set_inside", "entitled"),
    [("all", False, False), ("all", True, True), ("all,-6", False, False), ("all,-6", True, False)],
)
def test_a_softirq_uses_the_reserve_only_if_patched_and_if_it_asked_for_it_itself(patches, set_inside, entitled):
    with ground(2 * MIB, patches) as machine:
        assert reserve_page_in_softirq(machine, set_inside=set_inside) is entitled


@pytest.mark.parametrize("patches", ["all", "all,-6"])
def test_a_hard_interrupt_inside_such_a_softirq_does_not(patches):
    with ground(2 * MIB, patches) as machine:
        assert not reserve_page_in_softirq(machine, set_inside=True, hard=True)


@pytest.mark.parametrize("patches", ["all", "all,-6"])
def test_a_victim_of_the_oom_killer_is_not_entitled_in_softirq(patches):
    with ground(2 * MIB, patches) as machine:
        machine.task.thread_flags |= TIF_MEMDIE
        assert not reserve_page_in_softirq(machine, set_inside=False)


def test_without_the_clear_a_foreign_flood_would_drain_the_reserve():
    """One half alone: the page allocator believes the flag in a softirq, and the softirq has it from kswapd."""
    taken = {}
    for patches in ("all", "all,-6"):
        with ground(2 * MIB, patches) as machine:
            machine.pa.patched = PatchSet.all()  # its half is on in any case
            machine.starve(5)
            machine.task.flags |= KSWAPD
            softirq(machine.kernel, lambda machine=machine: machine.take())
            taken[patches] = 5 - machine.pa.nr_free_pages()
            machine.task.flags &= ~KSWAPD
    assert taken == {"all": 0, "all,-6": 5}
