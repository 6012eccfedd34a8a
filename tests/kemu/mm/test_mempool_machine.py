"""Memory pools against two lists: what the pool has, who holds elements; with memory that runs out, for any patches.

The plain allocators are SLUB's, with every question to them written down. The model says which questions are asked, with which
flags, and where the answer comes from.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kemu.errors import KernelBug
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm import gfp as g
from kemu.mm.mempool import Mempool
from kernel_sets import fix_sets, patch_sets
from leaks import assert_no_objects, assert_no_pages, assert_pools_full
from page_model import Caller, PageModel
from profiles import machine_settings
from slab_ground import SlabGround, slab_ground

FORCED = g._GFP_NOMEMALLOC | g._GFP_NORETRY | g._GFP_NOWARN
GFPS = st.sampled_from(
    (
        *(g.GFP_ATOMIC, g.GFP_NOWAIT, g.GFP_NOIO, g.GFP_KERNEL, g.GFP_ATOMIC | g._GFP_MEMALLOC, g.GFP_NOIO | g._GFP_MEMALLOC),
        *(g.GFP_ATOMIC | g._GFP_NOMEMALLOC, g.GFP_ATOMIC | g._GFP_MEMALLOC | g._GFP_NOMEMALLOC),
    )
)
CALLERS = st.one_of(
    st.just(Caller()),
    st.builds(Caller, memalloc=st.booleans(), context=st.sampled_from(("task", "task", "softirq", "irq"))),
)


class Pool:
    """A pool over a cache of its own, and the model of it."""

    def __init__(self, sg: SlabGround, name: str, size: int, min_nr: int) -> None:
        self.slub = sg.slub
        self.cache = sg.slub.kmem_cache_create(name, size)
        self.asked: list[tuple[int, int | None]] = []  # the allocator's gfp and answer
        self.freed: list[int] = []  # what the allocator got back
        self.real = Mempool(sg.kernel, name, min_nr, self.alloc, self.free, sg.pa)
        # the model
        self.min_nr = min_nr
        self.inside = [element for _, element in self.asked]
        self.outside: list[int] = []
        assert [gfp for gfp, _ in self.asked] == [g.GFP_KERNEL] * min_nr

    def alloc(self, gfp):
        element = self.slub.kmem_cache_alloc(self.cache, gfp)
        self.asked.append((gfp, element))
        return element

    def free(self, element):
        self.freed.append(element)
        self.slub.kmem_cache_free(self.cache, element)

    def take_back(self, element):
        """Model mempool_free(): the pool first, the allocator when it is full."""
        self.outside.remove(element)
        if len(self.inside) < self.min_nr:
            self.inside.append(element)
            return []
        return [element]


class MempoolMachine(RuleBasedStateMachine):
    """Elements come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.sg: SlabGround | None = None

    @initialize(patches=patch_sets(), fixes=fix_sets(), sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)))
    def boot(self, patches, fixes, sizes):
        self.sg = self.stack.enter_context(slab_ground(256 << 12, str(patches), str(fixes)))
        (self.zone,) = (zone for zone in self.sg.pa.zones if zone.present_pages)
        self.model = PageModel(256, patches, fixes, self.sg.pa.min_free_kbytes)
        self.pools = [Pool(self.sg, "small", 700, sizes[0]), Pool(self.sg, "large", 3000, sizes[1])]

    def ask(self, pool, gfp, caller):
        """Call mempool_alloc() in the caller's context; give the element and what the allocator was asked."""
        pool.asked.clear()
        self.sg.task.flags = PF_MEMALLOC if caller.memalloc else 0
        with self.sg.ground.preempt_count({"task": 0, "softirq": 1 << 8, "irq": 1 << 16}[caller.context]):
            element = pool.real.alloc(gfp)
        self.sg.task.flags = 0
        return element, pool.asked[:]

    @rule(which=st.integers(0, 1), gfp=GFPS, caller=CALLERS, count=st.sampled_from((1, 1, 3, 8)))
    def alloc(self, which, gfp, caller, count):
        pool = self.pools[which]
        for _ in range(count):
            if caller.context != "task" or not pool.inside:
                gfp &= ~g._GFP_WAIT  # it could wait for ever
            self.alloc_one(pool, gfp, caller)

    def alloc_one(self, pool, gfp, caller):
        element, asked = self.ask(pool, gfp, caller)
        first = (gfp | FORCED) & ~(g._GFP_WAIT | g._GFP_IO)
        questions = [first]
        if asked[0][1] is not None:
            expected = asked[0][1]
        elif pool.inside:
            expected = pool.inside.pop()
        elif self.model.patched.mempool_fallback and self.model.entitled(gfp, caller):
            questions.append(first & ~(g._GFP_NOMEMALLOC | g._GFP_NOWARN))
            expected = asked[-1][1]
            if expected is None:
                order = pool.cache.order
                assert not any(self.zone.nr_free[order:]), "an entitled caller got NULL, but there is a page"
        else:
            expected = None
        assert [question for question, _ in asked] == questions
        assert element == expected
        if element is not None:
            assert element not in pool.outside and element not in pool.inside
            pool.outside.append(element)

    @precondition(lambda self: any(pool.outside for pool in self.pools))
    @rule(data=st.data(), count=st.sampled_from((1, 1, 3)))
    def free(self, data, count):
        pool = data.draw(st.sampled_from([pool for pool in self.pools if pool.outside]))
        for _ in range(min(count, len(pool.outside))):
            element = pool.outside[data.draw(st.integers(0, len(pool.outside) - 1))]
            pool.freed.clear()
            gone = pool.take_back(element)
            pool.real.free(element)
            assert pool.freed == gone

    @rule(which=st.integers(0, 1), ms=st.integers(0, 12_000), gfp=st.sampled_from((g.GFP_NOIO, g.GFP_KERNEL)))
    def wait_for_a_neighbour(self, which, ms, gfp):
        """Ask as one that can wait, while somebody is to give an element back in a while."""
        pool = self.pools[which]
        if not pool.outside:
            return
        returned = pool.outside[0]
        sched = self.sg.kernel.sched

        def neighbour():
            sched.msleep(ms)
            pool.real.free(returned)

        start = sched.now
        task = sched.spawn("neighbour", neighbour)
        element, asked = self.ask(pool, gfp, Caller())
        waited = sched.now - start
        sched.join(task)
        assert asked[0][0] == (gfp | FORCED) & ~(g._GFP_WAIT | g._GFP_IO)
        assert all(question == gfp | FORCED for question, _ in asked[1:])
        assert element is not None, "who can wait is never told NULL"
        answers = [answer for _, answer in asked if answer is not None]
        if answers:
            assert [element] == answers
        elif pool.inside:
            assert element == pool.inside.pop()
        else:
            assert element == returned
            assert ms * 1_000_000 <= waited < (ms + 50) * 1_000_000, "it was not woken at once"
            pool.outside.remove(returned)
            pool.outside.append(element)
            return
        pool.outside.append(element)
        pool.take_back(returned)

    @rule(which=st.integers(0, 1), gfp=GFPS, by_pool=st.booleans())
    def foreign_holder(self, which, gfp, by_pool):
        """Somebody takes an element from the cache, not from the pool; the pool takes it all the same."""
        pool = self.pools[which]
        element = self.sg.slub.kmem_cache_alloc(pool.cache, gfp & ~g._GFP_WAIT | g._GFP_NOWARN)
        if element is None:
            return
        if by_pool:
            pool.outside.append(element)
        else:
            self.sg.slub.kmem_cache_free(pool.cache, element)

    @rule(which=st.integers(0, 1), min_nr=st.integers(1, 6))
    def resize(self, which, min_nr):
        pool = self.pools[which]
        pool.asked.clear()
        pool.freed.clear()
        assert pool.real.resize(min_nr, g.GFP_ATOMIC | g._GFP_NOWARN) == 0
        grows = min_nr > pool.min_nr  # to its own size a pool is never filled up
        pool.min_nr = min_nr
        gone = []
        while len(pool.inside) > min_nr:
            gone.append(pool.inside.pop())
        assert pool.freed == gone
        more = [element for _, element in pool.asked]
        if None in more:
            assert more.index(None) == len(more) - 1
            more.pop()
        elif grows:
            assert len(pool.inside) + len(more) == min_nr, "a pool that could be filled was not"
        pool.inside += more

    @rule(left=st.integers(0, 40))
    def squeeze(self, left):
        self.sg.ground.hold_zone(self.zone, left)
        for pool in self.pools:  # and no free object either
            while (element := self.sg.slub.kmem_cache_alloc(pool.cache, g.GFP_ATOMIC | FORCED)) is not None:
                pool.outside.append(element)

    @rule(count=st.one_of(st.integers(1, 30), st.just(10_000)))
    def relieve(self, count):
        self.sg.ground.give_back(min(count, len(self.sg.ground.held)))

    @invariant()
    def agrees(self):
        if self.sg is None:
            return
        self.sg.slub.check()
        self.sg.pa.check()
        self.sg.kernel.check()
        for pool in self.pools:
            pool.real.check()
            assert pool.real.elements == pool.inside
            assert pool.real.min_nr == pool.min_nr
            assert self.sg.slub.objects_in_use(pool.cache) == len(pool.inside) + len(pool.outside)

    def teardown(self) -> None:
        with self.stack:
            if self.sg is not None and sys.exc_info()[0] is None:  # else what went wrong is known
                self.sg.relief()
                for pool in self.pools:
                    for element in pool.outside:
                        pool.real.free(element)
                    if pool.real.curr_nr < pool.min_nr:
                        try:
                            pool.real.destroy()
                        except KernelBug:
                            assert pool.real.fill() == 0
                        else:
                            raise AssertionError("a pool was destroyed while elements were out")
                    assert_pools_full(pool.real)
                    pool.real.destroy()
                    assert self.sg.slub.kmem_cache_destroy(pool.cache) == 0
                assert_no_objects(self.sg.slub)
                assert_no_pages(self.sg.pa)


TestMempool = MempoolMachine.TestCase
TestMempool.settings = machine_settings()
