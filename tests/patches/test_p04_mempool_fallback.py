"""Patch 04, mm: allow mempool to fall back to memalloc reserves: a reclaimer does not sleep beside a reserve."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.task import PF_MEMALLOC, TIF_MEMDIE
from kemu.mm.gfp import (
    _GFP_IO,
    _GFP_MEMALLOC,
    _GFP_NOMEMALLOC,
    _GFP_NORETRY,
    _GFP_NOWARN,
    _GFP_WAIT,
    GFP_ATOMIC,
    GFP_NOFS,
    GFP_NOIO,
)
from kemu.mm.mempool import Mempool, mempool_create_kmalloc_pool
from slab_ground import slab_ground

FORCED = _GFP_NOMEMALLOC | _GFP_NORETRY | _GFP_NOWARN
EMERGENCY = _GFP_NORETRY


class Shop:
    """A plain allocator that refuses until somebody waits; it writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.serve = lambda _: False

    def alloc(self, gfp: int) -> int | None:
        self.asked.append(gfp)
        return 7 if self.serve(gfp) else None

    def free(self, element: int) -> None:
        pass


def empty_pool(sg):
    shop = Shop()
    return Mempool(sg.kernel, "empty", 0, shop.alloc, shop.free, sg.pa), shop


def drained_rpc_pool(sg):
    """The rpc_buffers pool with all eight elements out, at the floor."""
    sg.slub.kmem_cache_shrink(sg.cache(2048))
    pool = mempool_create_kmalloc_pool(sg.kernel, "rpc_buffers", 8, sg.slub, 2048)
    sg.floor()
    while pool.elements:
        pool.elements.pop()
    while sg.slub.kmalloc(2048, GFP_ATOMIC | _GFP_NOWARN) is not None:
        pass
    return pool


def test_a_reclaimer_is_served_from_the_reserve_without_sleeping():
    """Invariant b."""
    with slab_ground() as sg:
        pool = drained_rpc_pool(sg)
        with sg.memalloc():
            address = pool.alloc(GFP_NOIO)
        assert sg.slub.is_reserve_backed(address)
        assert pool.sleeps == 0 and sg.kernel.sched.now == 0


@pytest.mark.parametrize("patches", ["all,-4", "all,-1"])
def test_without_it_the_reclaimer_sleeps_for_five_seconds(patches):
    """With 01 off nobody is known to be entitled, so 04 cannot act."""
    with slab_ground(patches=patches) as sg:
        pool = drained_rpc_pool(sg)

        def relief():
            sg.kernel.sched.msleep(1)
            sg.relief()

        sg.kernel.sched.spawn("relief", relief)
        with sg.memalloc():
            assert pool.alloc(GFP_NOIO) is not None
        assert pool.sleeps == 1 and sg.kernel.sched.now >= 5 * 10**9


def test_the_order_of_one_lap():
    """Plain, pool, reserve, pool, then NULL for who cannot wait."""
    with slab_ground() as sg:
        pool, shop = empty_pool(sg)
        with sg.memalloc():
            assert pool.alloc(GFP_ATOMIC) is None
        assert shop.asked == [GFP_ATOMIC | FORCED, GFP_ATOMIC | EMERGENCY]


def test_the_cycle_starts_again_after_each_sleep():
    """Invariant e: one attempt on the reserve between two sleeps, from the second lap on with WAIT and IO."""
    with slab_ground() as sg:
        pool, shop = empty_pool(sg)
        shop.serve = lambda _: len(shop.asked) == 6
        with sg.memalloc():
            assert pool.alloc(GFP_NOFS) == 7
        first = GFP_NOFS & ~(_GFP_WAIT | _GFP_IO)
        assert shop.asked == [first | FORCED, first | EMERGENCY] + [GFP_NOFS | FORCED, GFP_NOFS | EMERGENCY] * 2
        assert pool.sleeps == 2


def test_the_pool_is_preferred_to_the_reserve():
    """Invariant c."""
    with slab_ground() as sg:
        pool, shop = empty_pool(sg)
        pool.min_nr = 1
        pool.elements.append(3)
        with sg.memalloc():
            assert pool.alloc(GFP_NOIO) == 3
        assert len(shop.asked) == 1


def test_the_pool_is_asked_again_after_the_reserve():
    with slab_ground() as sg:
        pool, shop = empty_pool(sg)
        pool.min_nr = 1
        shop.serve = lambda gfp: pool.elements.append(3) if not gfp & _GFP_NOMEMALLOC else None
        with sg.memalloc():
            assert pool.alloc(GFP_ATOMIC) == 3


def softirq(sg):
    sg.kernel.sched.cpu.preempt_count += 1 << 8
    sg.task.flags |= PF_MEMALLOC


def killed(sg):
    sg.task.thread_flags |= TIF_MEMDIE


def reclaimer(sg):
    sg.task.flags |= PF_MEMALLOC


@pytest.mark.parametrize(
    ("patches", "become", "gfp", "served"),
    [
        ("all", reclaimer, GFP_ATOMIC, True),
        ("all", killed, GFP_ATOMIC, True),
        ("all", softirq, GFP_ATOMIC, True),
        ("all,-6", softirq, GFP_ATOMIC, False),
        ("all", lambda _sg: None, GFP_ATOMIC | _GFP_MEMALLOC, True),
        ("all,-10", lambda _sg: None, GFP_ATOMIC | _GFP_MEMALLOC, False),
        ("all", reclaimer, GFP_ATOMIC | _GFP_NOMEMALLOC, False),
        ("all", lambda _sg: None, GFP_ATOMIC, False),
    ],
)
def test_it_serves_whoever_the_page_allocator_would(patches, become, gfp, served):
    with slab_ground(patches=patches) as sg:
        pool = drained_rpc_pool(sg)
        become(sg)
        assert (pool.alloc(gfp) is not None) is served
        assert pool.sleeps == 0


def test_the_attempt_at_the_reserve_may_warn():
    """NOWARN was taken out for it: where the reserve itself is at its end, the log says so; without 04 nothing is said."""
    for patches, lines in (("all", 1), ("all,-4", 0)):
        with slab_ground(patches=patches) as sg:
            pool = drained_rpc_pool(sg)
            with sg.memalloc():
                while sg.pa.alloc_page(GFP_ATOMIC | _GFP_NOWARN) is not None:
                    pass
                assert pool.alloc(GFP_ATOMIC) is None
            assert sum("page allocation failure" in line for line in sg.kernel.printk.lines()) == lines


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 0x1FFFFF), st.integers(0, 5), st.booleans())
def test_between_two_sleeps_the_reserve_is_tried_once(gfp, laps, memalloc):
    """Invariant e, and the flags of every lap: no WAIT or IO before the first sleep, the reserve after the pool was empty."""
    with slab_ground() as sg:
        pool, shop = empty_pool(sg)
        shop.serve = lambda _: len(shop.asked) > laps
        if memalloc:
            with sg.memalloc():
                pool.alloc(gfp)
        else:
            pool.alloc(gfp)
        reserve = [not asked & _GFP_NOMEMALLOC for asked in shop.asked]
        assert not any(first and second for first, second in itertools.pairwise(reserve))
        assert sum(reserve) <= pool.sleeps + 1
        assert all(not asked & (_GFP_WAIT | _GFP_IO) for asked in shop.asked[: 1 + sum(reserve[:2])])
        entitled = gfp & (_GFP_MEMALLOC | _GFP_NOMEMALLOC) == _GFP_MEMALLOC or (memalloc and not gfp & _GFP_NOMEMALLOC)
        assert any(reserve) is (entitled and laps > 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 0x1FFFFF), st.integers(0, 3), st.booleans())
def test_for_the_unentitled_nothing_changes(gfp, laps, memalloc):
    """Invariants a and d: same calls with the same flags, also for an entitled task that says NOMEMALLOC itself."""

    def asked(patches):
        with slab_ground(patches=patches) as sg:
            pool, shop = empty_pool(sg)
            shop.serve = lambda _: len(shop.asked) > laps
            unentitled = gfp & ~0x2000  # __GFP_MEMALLOC
            if memalloc:
                with sg.memalloc():
                    pool.alloc(unentitled | _GFP_NOMEMALLOC)
            else:
                pool.alloc(unentitled)
            return shop.asked, pool.sleeps

    assert asked("all") == asked("all,-4")
