"""Memory pools: the order of attempts, sleeping, and giving back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.timer import HZ, NSEC_PER_JIFFY
from kemu.mm.fault_inject import FailSlab
from kemu.mm.gfp import (
    _GFP_IO,
    _GFP_NOMEMALLOC,
    _GFP_NORETRY,
    _GFP_NOWARN,
    _GFP_WAIT,
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_NOIO,
)
from kemu.mm.mempool import (
    Mempool,
    mempool_create,
    mempool_create_kmalloc_pool,
    mempool_create_kzalloc_pool,
    mempool_create_page_pool,
    mempool_create_slab_pool,
)
from slab_ground import slab_ground

FORCED = _GFP_NOMEMALLOC | _GFP_NORETRY | _GFP_NOWARN


class Shop:
    """A plain allocator that has so many elements."""

    def __init__(self, stock: int) -> None:
        self.stock = stock
        self.asked: list[int] = []
        self.next = 0
        self.freed: list[int] = []

    def alloc(self, gfp: int) -> int | None:
        self.asked.append(gfp)
        if not self.stock:
            return None
        self.stock -= 1
        self.next += 1
        return self.next

    def free(self, element: int) -> None:
        self.freed.append(element)


@pytest.fixture
def sg():
    with slab_ground() as machine:
        yield machine


def pool_of(sg, min_nr, more=0):
    shop = Shop(min_nr + more)
    pool = Mempool(sg.kernel, "test", min_nr, shop.alloc, shop.free, sg.pa)
    shop.asked.clear()
    return pool, shop


def test_the_elements_are_there_from_the_beginning(sg):
    pool, _ = pool_of(sg, 3)
    assert pool.curr_nr == 3


def test_the_plain_allocator_comes_first(sg):
    pool, shop = pool_of(sg, 2, more=1)
    assert pool.alloc(GFP_KERNEL) == 3
    assert pool.curr_nr == 2 and shop.asked == [GFP_KERNEL & ~(_GFP_WAIT | _GFP_IO) | FORCED]


def test_then_the_pool(sg):
    pool, _ = pool_of(sg, 2)
    assert [pool.alloc(GFP_ATOMIC), pool.alloc(GFP_ATOMIC)] == [2, 1]


def test_who_cannot_wait_gets_null(sg):
    pool, _ = pool_of(sg, 0)
    assert pool.alloc(GFP_ATOMIC) is None
    assert pool.sleeps == 0


def test_who_can_wait_sleeps_until_an_element_comes_back(sg):
    pool, _ = pool_of(sg, 1)
    element = pool.alloc(GFP_NOIO)

    def later():
        sg.kernel.sched.msleep(300)
        pool.free(element)

    sg.kernel.sched.spawn("other", later)
    assert pool.alloc(GFP_NOIO) == element
    assert pool.sleeps == 1
    assert 300 * 10**6 <= sg.kernel.sched.now < 400 * 10**6


def test_the_allocator_is_asked_again_every_five_seconds_and_may_wait_then(sg):
    pool, shop = pool_of(sg, 1)
    pool.alloc(GFP_NOIO)
    shop.asked.clear()

    def later():
        sg.kernel.sched.msleep(12_000)
        shop.stock = 1

    sg.kernel.sched.spawn("other", later)
    assert pool.alloc(GFP_NOIO) is not None
    assert shop.asked == [GFP_NOIO & ~_GFP_WAIT | FORCED] + [GFP_NOIO | FORCED] * 3
    assert sg.kernel.sched.now >= 15 * HZ * NSEC_PER_JIFFY


def test_one_element_wakes_all_sleepers_and_serves_one(sg):
    """They are no exclusive waiters: the others ask the plain allocator again, and sleep again."""
    pool, shop = pool_of(sg, 2)
    held = [pool.alloc(GFP_NOIO) for _ in range(2)]
    got = []

    def sleeper():
        got.append(pool.alloc(GFP_NOIO))

    for _ in range(2):
        sg.kernel.sched.spawn("sleeper", sleeper)
    sg.kernel.sched.msleep(1)
    shop.asked.clear()
    pool.free(held.pop())
    sg.kernel.sched.msleep(1)
    assert len(got) == 1 and shop.asked == [GFP_NOIO | FORCED] * 2 and pool.sleeps == 3
    pool.free(held.pop())
    sg.kernel.sched.msleep(1)
    assert len(got) == 2


def test_waiting_in_atomic_context_is_a_bug(sg):
    pool, _ = pool_of(sg, 1)
    with sg.ground.preempt_count(1 << 8), pytest.raises(KernelBug, match="sleeping function"):
        pool.alloc(GFP_NOIO)


def test_what_comes_back_fills_the_pool_before_the_allocator_gets_any(sg):
    pool, shop = pool_of(sg, 1, more=1)
    elements = [pool.alloc(GFP_ATOMIC), pool.alloc(GFP_ATOMIC)]
    for element in elements:
        pool.free(element)
    assert pool.elements == [elements[0]] and shop.freed == [elements[1]]


def test_a_pool_that_cannot_be_filled_is_not_made_and_holds_nothing(sg):
    shop = Shop(2)
    assert mempool_create(sg.kernel, "test", 3, shop.alloc, shop.free, sg.pa) is None
    assert shop.freed == [2, 1]
    with pytest.raises(KernelBug, match="no memory for its 3 elements"):
        Mempool(sg.kernel, "test", 3, shop.alloc, shop.free, sg.pa)


def test_destroy_frees_the_elements_and_minds_those_that_are_out(sg):
    pool, shop = pool_of(sg, 2)
    element = pool.alloc(GFP_ATOMIC)
    with pytest.raises(KernelBug, match="1 elements are out"):
        pool.destroy()
    pool.free(element)
    pool.destroy()
    assert sorted(shop.freed) == [1, 2]


def test_check_finds_an_element_that_was_freed_twice(sg):
    pool, _ = pool_of(sg, 2)
    element = pool.alloc(GFP_ATOMIC)
    pool.alloc(GFP_ATOMIC)
    pool.free(element)
    pool.free(element)
    with pytest.raises(KernelBug, match="freed twice"):
        pool.check()


def test_slab_and_kmalloc_pools_hold_objects(sg):
    pool = mempool_create_slab_pool(sg.kernel, 4, sg.slub, sg.cache(256))
    other = mempool_create_kmalloc_pool(sg.kernel, "rpc_buffers", 8, sg.slub, 2048)
    assert sg.slub.objects_in_use(sg.cache(256)) == 4 and sg.slub.objects_in_use(sg.cache(2048)) == 8
    other.free(other.alloc(GFP_NOIO))
    pool.destroy()
    other.destroy()
    assert sg.slub.objects_in_use(sg.cache(256)) == sg.slub.objects_in_use(sg.cache(2048)) == 0


def test_page_pools_hold_blocks(sg):
    before = sg.pa.allocated_pages()
    pool = mempool_create_page_pool(sg.kernel, "isa", 3, sg.pa, 1)
    assert sg.pa.allocated_pages() == before + 6
    page = pool.alloc(GFP_NOIO)
    pool.free(page)
    pool.check()
    pool.destroy()
    assert sg.pa.allocated_pages() == before


def test_kzalloc_pools_give_zeros_from_the_plain_allocator_only():
    with slab_ground(slub_debug="P") as sg:
        pool = mempool_create_kzalloc_pool(sg.kernel, "zeros", 1, sg.slub, 64)
        kept = pool.elements[0]
        sg.slub.write(kept, 0, b"used")
        fresh = pool.alloc(GFP_NOIO)
        assert sg.slub.read(fresh, 0, 64) == bytes(64)
        sg.slub.failslab = FailSlab(sg.kernel, ignore_gfp_wait=False)
        assert sg.slub.read(pool.alloc(GFP_NOIO), 0, 4) == b"used"


# resize


def test_a_smaller_pool_gives_what_is_too_much_to_the_allocator(sg):
    pool, shop = pool_of(sg, 4)
    assert pool.resize(2, GFP_KERNEL) == 0
    assert (pool.curr_nr, pool.min_nr, shop.freed) == (2, 2, [4, 3])


def test_a_larger_pool_is_filled_from_the_allocator(sg):
    pool, shop = pool_of(sg, 1, more=5)
    assert pool.resize(3, GFP_NOIO) == 0
    assert (pool.curr_nr, pool.min_nr, shop.asked) == (3, 3, [GFP_NOIO] * 2)


def test_a_larger_pool_is_filled_by_frees_where_the_allocator_refuses(sg):
    pool, shop = pool_of(sg, 1)
    element = pool.alloc(GFP_ATOMIC)
    assert pool.resize(2, GFP_ATOMIC) == 0
    assert (pool.curr_nr, pool.min_nr) == (0, 2)
    pool.free(element)
    assert pool.curr_nr == 1 and not shop.freed


def test_what_is_freed_while_a_pool_grows_is_not_too_much(sg):
    pool, shop = pool_of(sg, 1, more=5)
    element = pool.alloc(GFP_ATOMIC)
    real = pool._alloc
    pool._alloc = lambda gfp: pool.free(element) or real(gfp)  # somebody frees while the allocator is asked
    assert pool.resize(2, GFP_KERNEL) == 0
    pool.check()
    assert pool.curr_nr == 2 and len(shop.freed) == 1


@pytest.mark.parametrize("new", [0, -1])
def test_no_pool_is_resized_to_nothing(sg, new):
    pool, _ = pool_of(sg, 1)
    with pytest.raises(KernelBug, match="new_min_nr <= 0"):
        pool.resize(new, GFP_KERNEL)
    assert pool.curr_nr == 1


def test_bad_pools_and_bad_elements_are_bugs(sg):
    with pytest.raises(KernelBug, match="-1 elements"):
        mempool_create(sg.kernel, "bad", -1, lambda _gfp: 1, lambda _element: None, sg.pa)
    pool, _ = pool_of(sg, 1)
    with pytest.raises(KernelBug, match="NULL"):
        pool.free(None)
    pool.check()


def test_who_sleeps_says_why(sg):
    pool, _ = pool_of(sg, 2)
    text, following = sg.kernel.judge.explainers["mempool"](pool)
    assert text == "mempool test: all 2 elements are out" and following == ("memory", sg.pa)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 8), st.lists(st.booleans(), max_size=40))
def test_the_pool_never_holds_more_than_its_number(min_nr, more, steps):
    with slab_ground() as sg:
        pool, shop = pool_of(sg, min_nr, more)
        out = []
        for take in steps:
            if take:
                element = pool.alloc(GFP_ATOMIC)
                if element is not None:
                    assert element not in out
                    out.append(element)
            elif out:
                pool.free(out.pop(0))
            pool.check()
            assert pool.curr_nr + len(out) + len(shop.freed) + shop.stock == min_nr + more
