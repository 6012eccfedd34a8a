"""The page allocator against a set of frames: every answer, every list, every count, for any patches.

The model (tests/lib/page_model.py) knows which frames have an owner. What is free follows, and from that, since free buddies are
always merged, how many blocks each list must hold, which request is served, and by which mark.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import reduce
from operator import or_

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kemu.errors import KernelBug
from kemu.kernel.errno import EINVAL, ENOMEM
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm import gfp as g
from kemu.mm.page import ZERO_PAGE
from kernel_sets import fix_sets, patch_sets
from leaks import assert_no_pages
from mm_ground import Ground, ground
from page_model import LOW, MIN, RESERVE, Caller, PageModel, free_blocks
from profiles import machine_settings

COUNTERS = {LOW: "alloc_low", MIN: "alloc_min", RESERVE: "alloc_no_watermarks"}
FLAGS = (
    *(g._GFP_HIGH, g._GFP_IO, g._GFP_FS, g._GFP_COLD, g._GFP_REPEAT, g._GFP_NOFAIL, g._GFP_NORETRY, g._GFP_MEMALLOC),
    *(g._GFP_ZERO, g._GFP_NOMEMALLOC, g._GFP_HARDWALL, g._GFP_DMA, g._GFP_DMA32, g._GFP_HIGHMEM, g.GFP_THISNODE),
)
NAMED = (g.GFP_ATOMIC, g.GFP_KERNEL, g.GFP_NOIO, g.GFP_NOWAIT, g.GFP_ATOMIC | g._GFP_MEMALLOC, g.GFP_ATOMIC | g._GFP_NOMEMALLOC)


def gfps():
    bits = st.lists(st.sampled_from((*FLAGS, g._GFP_WAIT, g._GFP_COMP)), max_size=5, unique=True).map(
        lambda bits: reduce(or_, bits, 0)
    )
    return st.one_of(st.sampled_from(NAMED), bits).map(lambda gfp: gfp | g._GFP_NOWARN)


def callers():
    return st.one_of(
        st.just(Caller()),
        st.builds(Caller, memalloc=st.booleans(), context=st.sampled_from(("task", "task", "softirq", "irq")), rt=st.booleans()),
    )


class Block:
    """What somebody owns: frames from ``pfn`` on."""

    def __init__(self, page, order: int, compound: bool) -> None:
        self.page = page
        self.pfn = page.pfn
        self.order = order
        self.compound = compound
        self.references = 1

    @property
    def frames(self) -> int:
        return (1 << (1 << self.order)) - 1 << self.pfn


class BuddyMachine(RuleBasedStateMachine):
    """Pages come and go; the marks move."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.ground: Ground | None = None

    @initialize(
        patches=patch_sets(), fixes=fix_sets(), pages=st.sampled_from((256, 301, 512, 1024)), batch=st.sampled_from((0, 1, 4))
    )
    def boot(self, patches, fixes, pages, batch):
        self.ground = self.stack.enter_context(ground(pages << 12, str(patches), str(fixes), ncpus=2))
        self.pa = self.ground.pa
        self.task = self.ground.task
        self.model = PageModel(pages, patches, fixes, self.pa.min_free_kbytes)
        self.blocks: list[Block] = []
        self.owned = 0  # a bitmap of frames
        self.reserve: set[int] = set()
        self.handed_out = self.came_back = 0
        if batch:  # zones of this size have no per-CPU lists; make them common
            (zone,) = (zone for zone in self.pa.zones if zone.present_pages)
            for pcp in (*zone.hot, *zone.cold):
                pcp.batch, pcp.high = batch, 3 * batch

    # what the machine shows

    def lists(self):
        """Give the single pages that per-CPU lists hold."""
        (zone,) = (zone for zone in self.pa.zones if zone.present_pages)
        return [pcp for cpu in range(2) for pcp in (zone.hot[cpu], zone.cold[cpu])]

    def free_frames(self) -> int:
        """Give the bitmap of what must be on the buddy lists: all that is neither owned nor on a per-CPU list."""
        listed = sum(1 << page.pfn for pcp in self.lists() for page in pcp.pages)
        assert listed & self.owned == 0, "a page on a per-CPU list has an owner"
        return (1 << self.model.pages) - 1 & ~(self.owned | listed)

    def on_own_list(self, gfp: int) -> int:
        cpu = self.ground.kernel.sched.cpu.id
        return len(self.lists()[2 * cpu + bool(gfp & g._GFP_COLD)].pages)

    # rules

    def request(self, order, gfp, caller):
        """Ask in the caller's context; give the page, by which mark it must be served, and by which it says it was."""
        if caller.context != "task":
            gfp &= ~g._GFP_WAIT
        expected = self.model.served(free_blocks(self.free_frames()), order, gfp, caller, listed=self.on_own_list(gfp))
        before = {mark: getattr(self.pa.vmstat, name) for mark, name in COUNTERS.items()}
        self.task.flags = PF_MEMALLOC if caller.memalloc else 0
        self.task.rt = caller.rt
        with self.ground.preempt_count({"task": 0, "softirq": 1 << 8, "irq": 1 << 16}[caller.context]):
            page = self.pa.alloc_pages(gfp, order)
        self.task.flags = 0
        self.task.rt = False
        marks = [mark for mark, name in COUNTERS.items() if getattr(self.pa.vmstat, name) != before[mark]]
        assert marks == ([] if expected is None else [expected])
        assert (page is None) == (expected is None)
        return page, expected

    def own(self, page, order, gfp, mark):
        block = Block(page, order, bool(order and gfp & g._GFP_COMP))
        assert block.pfn % (1 << order) == 0 and block.pfn + (1 << order) <= self.model.pages
        assert not block.frames & self.owned, "a page was handed out twice"
        assert page.count == 1 and page.mapcount == 0 and page.mapping is None
        frames = [self.pa.mem_map.get(pfn) for pfn in range(block.pfn, block.pfn + (1 << order))]
        if block.compound:
            assert all(tail.first_page is page for tail in frames[1:])
        if gfp & g._GFP_ZERO:
            assert all(each.contents is ZERO_PAGE for each in frames)
        assert bool(page.reserve) == (mark == RESERVE and self.model.patched.tag_reserve_pages)
        if mark == RESERVE:
            self.reserve.update(range(block.pfn, block.pfn + (1 << order)))
        self.blocks.append(block)
        self.owned |= block.frames
        self.handed_out += 1 << order

    @rule(order=st.integers(0, 10), gfp=gfps(), caller=callers())
    def alloc(self, order, gfp, caller):
        page, mark = self.request(order, gfp, caller)
        if page is not None:
            self.own(page, order, gfp, mark)

    @rule(order=st.sampled_from((0, 0, 1, 3)), gfp=gfps(), caller=callers(), count=st.integers(2, 40))
    def alloc_many(self, order, gfp, caller, count):
        for _ in range(count):
            self.alloc(order, gfp, caller)

    @rule(gfp=gfps(), caller=callers())
    def ask_at_the_floor(self, gfp, caller):
        """Take what atomic requests can have, the largest blocks first; then ask."""
        for order in range(10, -1, -1):
            while True:
                page, mark = self.request(order, g.GFP_ATOMIC | g._GFP_NOWARN, Caller())
                if page is None:
                    break
                self.own(page, order, 0, mark)
        self.alloc(0, gfp, caller)

    @precondition(lambda self: self.blocks)
    @rule(data=st.data(), count=st.sampled_from((1, 1, 1, 8, 30)))
    def free(self, data, count):
        for _ in range(min(count, len(self.blocks))):
            block = self.blocks[data.draw(st.integers(0, len(self.blocks) - 1))]
            how = ["free_pages"]
            if block.compound or not block.order:
                how.append("put_page")
            if not block.order and block.references == 1:
                how.append("cold")
            self.drop(block, data.draw(st.sampled_from(how)), data.draw(st.integers(0, (1 << block.order) - 1)))

    def drop(self, block, how, tail):
        if how == "free_pages":
            self.pa.free_pages(block.page, block.order)
        elif how == "put_page":
            self.pa.put_page(self.pa.pfn_to_page(block.pfn + tail))
        else:
            block.page.count = 0
            self.pa.free_hot_cold_page(block.page, cold=True)
        block.references -= 1
        if not block.references:
            self.blocks.remove(block)
            self.owned &= ~block.frames
            self.reserve.difference_update(range(block.pfn, block.pfn + (1 << block.order)))
            self.came_back += 1 << block.order

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def get_page(self, data):
        block = self.blocks[data.draw(st.integers(0, len(self.blocks) - 1))]
        block.page.count += 1
        block.references += 1

    @rule(cpu=st.integers(0, 1))
    def go_to_cpu(self, cpu):
        self.ground.kernel.sched.cpu = self.ground.kernel.cpus[cpu]

    @rule(cpu=st.integers(0, 1))
    def drain(self, cpu):
        self.pa.drain_pages(cpu)
        assert not any(pcp.pages for pcp in self.lists()[2 * cpu : 2 * cpu + 2])

    @rule(kbytes=st.integers(-5, 4096))
    def set_min_free_kbytes(self, kbytes):
        # patch 17 hands on why; without it the loop ends, and a write that stored nothing is -EINVAL: the same here
        result = self.ground.kernel.sysctl.write("vm.min_free_kbytes", f"{kbytes}\n")
        assert result == (0 if kbytes >= 0 else -EINVAL)
        if kbytes >= 0:
            self.model.kbytes = kbytes

    @rule(pages=st.integers(-300, 300), memalloc=st.booleans())
    def adjust_pool(self, pages, memalloc):
        model = self.model
        self.task.flags = PF_MEMALLOC if memalloc else 0
        if not model.patched.emergency_pool:
            assert self.pa.adjust_memalloc_reserve(pages) == 0
        elif model.pool + pages < 0:
            try:
                self.pa.adjust_memalloc_reserve(pages)
            except KernelBug:
                pass
            else:
                raise AssertionError("a pool of less than nothing")
        else:
            model.pool += pages
            blocks = free_blocks(self.free_frames())
            probe = model.served(blocks, 0, g.GFP_KERNEL, Caller(memalloc), listed=self.on_own_list(0))
            refused = pages > 0 and probe is None
            assert self.pa.adjust_memalloc_reserve(pages) == (-ENOMEM if refused else 0)
            if refused:
                model.pool -= pages
            elif pages > 0:  # the page of the probe went and came
                self.handed_out += 1
                self.came_back += 1
        self.task.flags = 0

    # what always holds

    @invariant()
    def agrees(self):
        if self.ground is None:
            return
        self.pa.check()
        self.ground.kernel.check()
        (zone,) = (zone for zone in self.pa.zones if zone.present_pages)
        free = self.free_frames()
        assert zone.nr_free == free_blocks(free)
        assert zone.free_pages == free.bit_count()
        assert self.pa.allocated_pages() == self.owned.bit_count()
        assert (self.pa.vmstat.pgalloc, self.pa.vmstat.pgfree) == (self.handed_out, self.came_back)
        assert set(self.pa.reserve_pfns) == self.reserve
        minimum = self.model.pages_min
        assert (zone.pages_min, zone.pages_low, zone.pages_high) == (minimum, minimum + minimum // 4, minimum + minimum // 2)
        assert zone.pages_emerg == self.model.floor

    def teardown(self) -> None:
        with self.stack:
            if self.ground is not None and sys.exc_info()[0] is None:  # else what went wrong is known
                for block in list(self.blocks):
                    for _ in range(block.references):
                        self.drop(block, "free_pages", 0)
                assert_no_pages(self.pa)
                self.agrees()


TestBuddy = BuddyMachine.TestCase
TestBuddy.settings = machine_settings()
