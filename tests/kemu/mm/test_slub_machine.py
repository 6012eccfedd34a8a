"""SLUB against a dict of owned addresses: two CPUs, entitled callers and others, memory that runs out, for any patches.

The model knows who owns which bytes. It says what no allocator may do (hand bytes out twice, lose objects, say NULL while there is
memory), what patch 03 promises, and which slabs are left after a shrink.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kemu.kernel.task import PF_MEMALLOC
from kemu.mm import gfp as g
from kemu.mm.slub import SLAB_HWCACHE_ALIGN, SLAB_RECLAIM_ACCOUNT, ZERO_SIZE_PTR
from kernel_sets import fix_sets, patch_sets
from leaks import assert_no_objects, assert_no_pages
from page_model import Caller, PageModel
from profiles import machine_settings
from slab_ground import SlabGround, slab_ground

FEW = (192, 1024)  # so that requests meet in one cache
SIZES = st.one_of(st.sampled_from(FEW), st.sampled_from((8, 96, 512, 2048)), st.integers(1, 2100), st.integers(2049, 40_000))
GFPS = st.sampled_from(
    (
        *(g.GFP_ATOMIC, g.GFP_ATOMIC, g.GFP_KERNEL, g.GFP_NOIO, g.GFP_NOWAIT, g.GFP_ATOMIC | g._GFP_MEMALLOC),
        *(g.GFP_ATOMIC | g._GFP_MEMALLOC | g._GFP_NOMEMALLOC, g.GFP_KERNEL | g._GFP_NOMEMALLOC, g.GFP_KERNEL | g._GFP_MEMALLOC),
    )
).map(lambda gfp: gfp | g._GFP_NOWARN)
CALLERS = st.one_of(
    st.just(Caller()),
    st.builds(Caller, memalloc=st.booleans(), context=st.sampled_from(("task", "task", "softirq", "irq"))),
)


class Owned:
    """What somebody has: bytes from an address on, of a cache, or whole pages."""

    def __init__(self, address, size, cache) -> None:
        self.address = address
        self.size = size
        self.cache = cache


class SlubMachine(RuleBasedStateMachine):
    """Objects come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.sg: SlabGround | None = None

    @initialize(
        patches=patch_sets(),
        fixes=fix_sets(),
        pages=st.sampled_from((256, 512)),
        debug=st.sampled_from(("", "", "", "FZPU")),
        merge=st.booleans(),
    )
    def boot(self, patches, fixes, pages, debug, merge):
        self.sg = self.stack.enter_context(
            slab_ground(pages << 12, str(patches), str(fixes), ncpus=2, slub_debug=debug, merge=merge)
        )
        self.slub = self.sg.slub
        self.pa = self.sg.pa
        (self.zone,) = (zone for zone in self.pa.zones if zone.present_pages)
        self.model = PageModel(pages, patches, fixes, self.pa.min_free_kbytes)
        self.owned: dict[int, Owned] = {}
        self.made = []  # caches, one entry per kmem_cache_create()
        self.names = 0
        self.constructed: dict[object, set[int]] = {}
        self.intruder = None  # a cache from which another context takes an object while a slab is asked for
        self.pages_asked = self.pa.alloc_pages
        self.pa.alloc_pages = self.interrupted_alloc_pages

    def interrupted_alloc_pages(self, gfp, order=0):
        """Who can wait has interrupts on in the page allocator: somebody else may install a slab meanwhile."""
        if self.intruder is not None and gfp & g._GFP_WAIT:
            (cache, size), self.intruder = self.intruder, None
            entitled = self.model.entitled(g.GFP_ATOMIC, Caller(self.sg.task.flags == PF_MEMALLOC))
            taken = [self.slub.kmem_cache_alloc(cache, g.GFP_ATOMIC | g._GFP_NOWARN) for _ in range(3)]
            for address in taken:
                if address is not None:
                    self.own(address, size, cache, entitled)
            here = self.sg.kernel.sched.cpu.id
            for address, cpu in zip(taken, (here, 1 - here), strict=False):
                if address is not None:  # from here to the CPU's list, from the other CPU to the page's
                    self.sg.cpu(cpu)
                    self.give_back(self.owned[address], by_cache=True)
            self.sg.cpu(here)
        return self.pages_asked(gfp, order)

    # asking

    def ask(self, allocate, gfp, caller):
        """Call ``allocate(gfp)`` in the caller's context."""
        if caller.context != "task":
            gfp &= ~g._GFP_WAIT
        self.sg.task.flags = PF_MEMALLOC if caller.memalloc else 0
        with self.sg.ground.preempt_count({"task": 0, "softirq": 1 << 8, "irq": 1 << 16}[caller.context]):
            address = allocate(gfp)
        self.sg.task.flags = 0
        return address, gfp, self.model.entitled(gfp, caller)

    def count(self, cache) -> int:
        return sum(owned.cache is cache for owned in self.owned.values())

    def judge_null(self, cache, order, gfp, caller, entitled):
        """NULL is right only if the page allocator has nothing for this caller, and no free object is in his reach."""
        assert self.model.served(self.zone.nr_free, order, gfp, caller) is None, "NULL, but there is a page"
        if cache is not None and (entitled or not self.model.patched.slub_reserve):
            free = len(cache.slabs) * cache.objects - self.count(cache)
            assert free <= cache.objects, "NULL, but there are free objects where no other CPU has its slab"

    def own(self, address, size, cache, entitled):
        assert not any(address < other.address + other.size and other.address < address + size for other in self.owned.values()), (
            "bytes were handed out twice"
        )
        frame = address - 0xFFFF810000000000 >> 12
        assert all(frame != page.pfn for page in self.sg.ground.held)
        patched, fixed = self.model.patched, self.model.fixed
        if not entitled and patched.tag_reserve_pages and patched.slub_reserve and fixed.b03a and fixed.b03b:
            assert not self.slub.is_reserve_backed(address), "an object of the reserve for one who is not entitled"
        if cache is None:
            assert address % 4096 == 0
        else:
            align = max(cache.align, 8)
            assert address % align == 0
            if cache in self.constructed:
                assert address in self.constructed[cache]
        self.owned[address] = Owned(address, size, cache)

    # rules

    @rule(size=SIZES, gfp=GFPS, caller=CALLERS, count=st.sampled_from((1, 1, 1, 5, 30)))
    def kmalloc(self, size, gfp, caller, count):
        for _ in range(count):
            address, asked, entitled = self.ask(lambda gfp: self.slub.kmalloc(size, gfp), gfp, caller)
            cache = self.slub.kmalloc_slab(size, asked)
            assert (cache is None) == (size > 2048)
            if address is None:
                order = (size - 1 >> 12).bit_length() if cache is None else cache.order
                self.judge_null(cache, order, asked, caller, entitled)
                break
            assert self.slub.ksize(address) >= size
            self.own(address, size, cache, entitled)

    @rule(size=st.sampled_from(FEW), count=st.integers(1, 12), memalloc=st.booleans())
    def kmalloc_with_an_intruder(self, size, count, memalloc):
        cache = self.slub.kmalloc_slab(size, g.GFP_KERNEL)
        for _ in range(count):
            self.intruder = (cache, size)
            caller = Caller(memalloc)
            address, _, entitled = self.ask(lambda gfp: self.slub.kmalloc(size, gfp), g.GFP_KERNEL | g._GFP_NOWARN, caller)
            self.intruder = None
            if address is not None:
                self.own(address, size, cache, entitled)

    @rule(
        size=st.sampled_from(FEW),
        count=st.integers(1, 12),
        left=st.sampled_from((0, 1, 3)),
        flushed=st.booleans(),
        cpu=st.integers(0, 1),
    )
    def shortage(self, size, count, left, flushed, cpu):
        """Only the reserve is left; entitled callers take of it, and the page may come to the partial list."""
        self.sg.ground.hold_zone(self.zone, left + self.model.pages_min // 4)
        self.kmalloc(size, g.GFP_ATOMIC | g._GFP_NOWARN, Caller(memalloc=True), count)
        if flushed:
            self.slub.flush_cpu_slab(self.slub.kmalloc_slab(size, 0), self.sg.kernel.sched.cpu.id)
        self.sg.cpu(cpu)
        self.kmalloc(size, g.GFP_ATOMIC | g._GFP_NOWARN, Caller(), 2)

    @rule(gfp=GFPS)
    def kmalloc_nothing(self, gfp):
        address = self.slub.kmalloc(0, gfp)
        assert address == ZERO_SIZE_PTR and self.slub.ksize(address) == 0
        self.slub.kfree(address)

    @rule(
        size=st.one_of(st.integers(1, 300), st.integers(1, 9000)),
        align=st.sampled_from((0, 0, 8, 64, 512)),
        flags=st.sampled_from((0, 0, SLAB_HWCACHE_ALIGN, SLAB_RECLAIM_ACCOUNT)),
        ctor=st.booleans(),
    )
    def create(self, size, align, flags, ctor):
        self.names += 1
        addresses: set[int] = set()
        cache = self.slub.kmem_cache_create(f"cache-{self.names}", size, align, flags, addresses.add if ctor else None)
        if ctor:
            self.constructed[cache] = addresses
        assert cache.size >= size and cache.objects * cache.size <= 4096 << cache.order
        self.made.append((cache, size))

    @precondition(lambda self: self.made)
    @rule(data=st.data(), gfp=GFPS, caller=CALLERS, count=st.sampled_from((1, 1, 1, 5, 30)))
    def cache_alloc(self, data, gfp, caller, count):
        cache, size = data.draw(st.sampled_from(self.made))
        for _ in range(count):
            address, asked, entitled = self.ask(lambda gfp: self.slub.kmem_cache_alloc(cache, gfp), gfp, caller)
            if address is None:
                self.judge_null(cache, cache.order, asked, caller, entitled)
                break
            self.own(address, size, cache, entitled)

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), count=st.sampled_from((1, 1, 1, 5, 30)), by_cache=st.booleans())
    def free(self, data, count, by_cache):
        for _ in range(min(count, len(self.owned))):
            self.give_back(list(self.owned.values())[data.draw(st.integers(0, len(self.owned) - 1))], by_cache)

    def give_back(self, owned, by_cache):
        del self.owned[owned.address]
        if by_cache and owned.cache is not None:
            self.slub.kmem_cache_free(owned.cache, owned.address)
        else:
            self.slub.kfree(owned.address)

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), size=st.integers(0, 5000), gfp=GFPS)
    def krealloc(self, data, size, gfp):
        old = data.draw(st.sampled_from(list(self.owned.values())))
        room = self.slub.ksize(old.address)
        address = self.slub.krealloc(old.address, size, gfp)
        if size == 0:
            assert address == ZERO_SIZE_PTR
            del self.owned[old.address]
        elif size <= room:
            assert address == old.address
        elif address is not None:
            # the old bytes are free again, after the new ones were taken
            entitled = self.model.entitled(gfp, Caller())
            self.own(address, size, self.slub.kmalloc_slab(size, gfp), entitled)
            del self.owned[old.address]

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def destroy(self, data):
        made = data.draw(st.sampled_from(self.made))
        cache = made[0]
        users = sum(other is cache for other, _ in self.made)
        if cache in self.slub.kmalloc_caches:
            users += 1  # merged with one of kmalloc's
        left = self.slub.kmem_cache_destroy(cache)
        assert left == (self.count(cache) if users == 1 else 0)
        if not left:
            self.made.remove(made)

    @rule(data=st.data())
    def shrink(self, data):
        cache = data.draw(st.sampled_from(list(self.slub.caches.values())))
        self.slub.kmem_cache_shrink(cache)
        bytes_ = 4096 << cache.order
        bases = {owned.address // bytes_ * bytes_ for owned in self.owned.values() if owned.cache is cache}
        assert {page.address for page in cache.slabs.values()} == bases

    @rule(data=st.data(), cpu=st.integers(0, 1))
    def flush(self, data, cpu):
        cache = data.draw(st.sampled_from(list(self.slub.caches.values())))
        self.flush_slab(cache, cpu)

    def flush_slab(self, cache, cpu):
        page, listed = cache.cpu_slab[cpu].page, sum(map(len, cache.partials))
        self.slub.flush_cpu_slab(cache, cpu)
        assert cache.cpu_slab[cpu].page is None
        if page is not None:
            end = page.address + (4096 << cache.order)
            used = any(page.address <= owned.address < end for owned in self.owned.values() if owned.cache is cache)
            assert (page.pfn in cache.slabs) == (used or listed < 2), "an empty slab is kept only where there are fewer than two"

    @rule(size=st.sampled_from(FEW), full=st.integers(1, 3))
    def several_partial_slabs(self, size, full):
        """Fill some slabs, take an object of each away, and flush: empty slabs are worth keeping only while there are few."""
        cache = self.slub.kmalloc_slab(size, 0)
        self.kmalloc(size, g.GFP_ATOMIC | g._GFP_NOWARN, Caller(), full * cache.objects)
        mine = [owned for owned in self.owned.values() if owned.cache is cache]
        for owned in mine[:: cache.objects]:
            self.give_back(owned, by_cache=True)
        self.flush_slab(cache, self.sg.kernel.sched.cpu.id)

    @rule(cpu=st.integers(0, 1))
    def go_to_cpu(self, cpu):
        self.sg.cpu(cpu)

    # the weather

    @rule(left=st.one_of(st.just(0), st.integers(0, 40)))
    def squeeze(self, left):
        self.sg.ground.hold_zone(self.zone, left)

    @rule(count=st.one_of(st.integers(1, 30), st.just(10_000)))
    def relieve(self, count):
        self.sg.ground.give_back(min(count, len(self.sg.ground.held)))

    @rule(kbytes=st.integers(0, 600))
    def set_min_free_kbytes(self, kbytes):
        assert self.sg.kernel.sysctl.write("vm.min_free_kbytes", f"{kbytes}\n") == 0
        self.model.kbytes = kbytes

    # what always holds

    @invariant()
    def agrees(self):
        if self.sg is None:
            return
        self.slub.check()
        self.pa.check()
        counts = Counter(owned.cache for owned in self.owned.values())
        for cache in self.slub.caches.values():
            assert self.slub.objects_in_use(cache) == counts[cache], cache
            bytes_ = 4096 << cache.order
            bases = {owned.address // bytes_ for owned in self.owned.values() if owned.cache is cache}
            assert len(cache.slabs) - len(bases) <= 2 + 2, "more empty slabs than two to spare and one per CPU"
        slabs = sum(len(cache.slabs) << cache.order for cache in self.slub.caches.values())
        whole = sum(1 << (owned.size - 1 >> 12).bit_length() for owned in self.owned.values() if owned.cache is None)
        assert self.slub.vmstat.nr_slab == slabs
        assert self.pa.allocated_pages() == slabs + whole + len(self.sg.ground.held)

    def teardown(self) -> None:
        with self.stack:
            if self.sg is not None and sys.exc_info()[0] is None:  # else what went wrong is known
                for owned in list(self.owned.values()):
                    self.give_back(owned, by_cache=False)
                self.sg.relief()
                assert_no_objects(self.slub)
                assert_no_pages(self.pa)


TestSlub = SlubMachine.TestCase
TestSlub.settings = machine_settings()
