"""SLUB: objects, slabs, lists, and what happens to who frees wrongly."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kemu.errors import KernelBug
from kemu.mm.gfp import _GFP_COMP, _GFP_MEMALLOC, _GFP_NOWARN, _GFP_ZERO, GFP_ATOMIC, GFP_KERNEL, GFP_NOWAIT, PAGE_SIZE
from kemu.mm.page import PG_slab
from kemu.mm.slub import ZERO_SIZE_PTR
from kemu.mm.slub_cache import MIN_PARTIAL
from kemu.mm.slub_geometry import SLAB_DEBUG_FREE, SLAB_HWCACHE_ALIGN, SLAB_STORE_USER
from slab_ground import MIB, slab_ground


@pytest.fixture
def sg():
    with slab_ground() as machine:
        yield machine
        machine.slub.check()
        machine.pa.check()


def alloc(sg, size, count):
    return [sg.slub.kmalloc(size, GFP_ATOMIC) for _ in range(count)]


# the fast path


def test_a_fresh_slab_hands_out_ascending_addresses(sg):
    first, second, third = alloc(sg, 128, 3)
    assert second - first == third - second == 128


def test_the_object_freed_last_is_handed_out_next(sg):
    objects = alloc(sg, 64, 3)
    sg.slub.kfree(objects[1])
    assert sg.slub.kmalloc(64, GFP_ATOMIC) == objects[1]


def test_the_cpu_takes_the_list_of_its_slab_as_a_whole(sg):
    (address,) = alloc(sg, 512, 1)
    page = sg.slub.virt_to_page(address)
    c = sg.cache(512).cpu_slab[0]
    assert c.page is page and page.word_d is None
    assert page.mapcount == 8 and len(c.freelist) == 7  # inuse counts what the CPU took, free or not


def test_a_slab_page_says_whose_it_is(sg):
    (address,) = alloc(sg, 100, 1)
    page = sg.slub.virt_to_page(address)
    assert page.flags & PG_slab and page.slab is sg.cache(128)


def test_the_second_page_of_a_slab_leads_to_the_first(sg):
    objects = alloc(sg, 2048, 4)
    heads = [sg.slub.virt_to_head_page(address) for address in objects]
    assert all(head is heads[0] for head in heads)
    assert sg.slub.virt_to_page(objects[3]) is not heads[0]


def test_objects_of_the_second_page_come_back_too(sg):
    objects = alloc(sg, 2048, 4)
    for address in objects:
        sg.slub.kfree(address)
    assert sorted(alloc(sg, 2048, 4)) == objects
    assert len(sg.cache(2048).slabs) == 1


# lists


def test_a_full_slab_is_in_no_list_and_joins_the_partial_ones_with_its_first_free_object(sg):
    objects = alloc(sg, 1024, 5)  # one slab full, one cpu slab
    cache = sg.cache(1024)
    assert len(cache.slabs) == 2 and not cache.partial
    sg.slub.kfree(objects[0])
    assert [page.mapcount for page in cache.partial.values()] == [3]


def test_a_slab_that_becomes_empty_goes_back_to_the_page_allocator(sg):
    objects = alloc(sg, 1024, 5)
    before = sg.pa.allocated_pages()
    for address in objects[:4]:
        sg.slub.kfree(address)
    assert sg.pa.allocated_pages() == before - 1
    assert len(sg.cache(1024).slabs) == 1


def test_the_cpu_slab_is_kept_when_it_becomes_empty(sg):
    objects = alloc(sg, 1024, 2)
    for address in objects:
        sg.slub.kfree(address)
    assert len(sg.cache(1024).slabs) == 1


def test_the_partial_slab_that_was_freed_to_last_is_used_first(sg):
    objects = alloc(sg, 1024, 13)
    sg.slub.kfree(objects[0])
    sg.slub.kfree(objects[4])
    more = alloc(sg, 1024, 4)  # three of the cpu slab, then a partial one
    assert more[3] == objects[4]


def test_a_few_empty_slabs_are_kept_when_cpus_give_theirs_up(sg):
    cache = sg.cache(1024)
    for kept in (1, 2, 2):
        held = alloc(sg, 1024, 4 * (MIN_PARTIAL + 2))
        for address in held:
            sg.slub.kfree(address)
        sg.slub.flush_cpu_slab(cache, 0)
        assert len(cache.partial) <= min(kept, MIN_PARTIAL)
    assert sg.slub.objects_in_use(cache) == 0


def test_frees_on_another_cpu_go_to_the_page():
    with slab_ground(ncpus=2) as sg:
        (address,) = alloc(sg, 256, 1)
        sg.cpu(1)
        sg.slub.kfree(address)
        page = sg.slub.virt_to_page(address)
        assert page.word_d == [address]
        sg.slub.check()
        sg.cpu(0)
        assert len(alloc(sg, 256, 16)) == 16
        assert len(sg.cache(256).slabs) == 1  # the page's own list is found before a new slab is made
        sg.slub.check()


def test_each_cpu_has_its_slab():
    with slab_ground(ncpus=2) as sg:
        (first,) = alloc(sg, 256, 1)
        sg.cpu(1)
        (second,) = alloc(sg, 256, 1)
        assert sg.slub.virt_to_page(first) is not sg.slub.virt_to_page(second)
        sg.slub.check()


# caches


def test_shrink_gives_empty_slabs_back_and_sorts_the_fullest_first(sg):
    objects = alloc(sg, 1024, 16)
    for address in objects[:1] + objects[4:7] + objects[8:10]:
        sg.slub.kfree(address)
    cache = sg.cache(1024)
    sg.slub.kmem_cache_shrink(cache)
    assert [page.mapcount for page in cache.partial.values()] == [3, 2, 1]
    assert all(c.page is None for c in cache.cpu_slab)


def test_shrink_all_leaves_only_what_is_in_use(sg):
    keep, *others = alloc(sg, 1024, 9) + alloc(sg, 64, 3)
    for address in others:
        sg.slub.kfree(address)
    sg.slub.shrink_all()
    assert sg.pa.vmstat.nr_slab == 1
    sg.slub.kfree(keep)
    assert sg.pa.vmstat.nr_slab == 0


def test_destroy_leaves_nothing_behind(sg):
    before = sg.pa.allocated_pages()
    cache = sg.slub.kmem_cache_create("thing", 300)
    address = sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC)
    sg.slub.kmem_cache_free(cache, address)
    assert sg.slub.kmem_cache_destroy(cache) == 0
    assert "thing" not in sg.slub.caches and sg.pa.allocated_pages() == before


def test_destroy_of_a_cache_in_use_says_how_many_objects_are_left(sg):
    cache = sg.slub.kmem_cache_create("thing", 300)
    sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC)
    assert sg.slub.kmem_cache_destroy(cache) == 1
    assert "thing" in sg.slub.caches


def test_a_constructor_sees_every_object_of_a_slab_once(sg):
    seen = []
    cache = sg.slub.kmem_cache_create("inode", 1000, ctor=seen.append)
    sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC)
    assert len(seen) == cache.objects == len(dict.fromkeys(seen))


def test_hwcache_align_puts_objects_on_cache_lines(sg):
    cache = sg.slub.kmem_cache_create("skbuff_head_cache", 232, flags=SLAB_HWCACHE_ALIGN)
    assert all(sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC) % 64 == 0 for _ in range(5))


def test_two_caches_of_one_name_are_a_bug(sg):
    with pytest.raises(KernelBug, match="name is taken"):
        sg.slub.kmem_cache_create("kmalloc-8", 8)


# kmalloc


def test_kmalloc_of_nothing_is_neither_null_nor_memory(sg):
    assert sg.slub.kmalloc(0, GFP_KERNEL) == ZERO_SIZE_PTR
    assert sg.slub.ksize(ZERO_SIZE_PTR) == 0
    sg.slub.kfree(ZERO_SIZE_PTR)
    sg.slub.kfree(None)


@pytest.mark.parametrize(("size", "behind"), [(1, 8), (96, 96), (97, 128), (2048, 2048), (2049, 4096), (4097, 8192), (9000, 16384)])
def test_ksize_is_what_really_stands_behind_an_address(sg, size, behind):
    address = sg.slub.kmalloc(size, GFP_KERNEL)
    assert sg.slub.ksize(address) == behind
    sg.slub.kfree(address)


def test_more_than_half_a_page_is_whole_pages(sg):
    before = sg.pa.allocated_pages()
    address = sg.slub.kmalloc(5000, GFP_ATOMIC)
    page = sg.slub.virt_to_page(address)
    assert not page.flags & PG_slab and page.order == 1 and address == page.address
    assert sg.pa.allocated_pages() == before + 2
    sg.slub.kfree(address)
    assert sg.pa.allocated_pages() == before


def test_what_is_larger_than_the_largest_block_is_null(sg):
    assert sg.slub.kmalloc((PAGE_SIZE << 10) + 1, GFP_KERNEL) is None
    assert sg.slub.kmalloc(-1, GFP_KERNEL) is None  # a huge size_t


def test_kfree_takes_objects_of_any_cache(sg):
    cache = sg.slub.kmem_cache_create("thing", 300)
    sg.slub.kfree(sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC))
    assert sg.slub.objects_in_use(cache) == 0


# what reaches the page allocator


@pytest.mark.parametrize(
    ("patches", "gfp", "asked"),
    [
        ("all", GFP_KERNEL | _GFP_ZERO, GFP_KERNEL),
        ("all", GFP_ATOMIC | _GFP_MEMALLOC | _GFP_NOWARN, GFP_ATOMIC | _GFP_MEMALLOC | _GFP_NOWARN),
        ("all,-10", GFP_ATOMIC | _GFP_MEMALLOC, GFP_ATOMIC),
    ],
)
def test_slub_passes_only_reclaim_and_constraint_flags(patches, gfp, asked, monkeypatch):
    with slab_ground(patches=patches) as sg:
        seen = []
        real = sg.pa.alloc_pages
        monkeypatch.setattr(sg.pa, "alloc_pages", lambda gfp, order=0: seen.append(gfp) or real(gfp, order))
        sg.slub.kmalloc(64, gfp)
        sg.slub.kmalloc(2048, gfp)
        assert seen == [asked, asked | _GFP_COMP]


def test_no_page_is_null_and_changes_nothing(sg):
    sg.floor()
    before = sg.pa.vmstat.nr_slab
    assert sg.slub.kmalloc(64, GFP_ATOMIC | _GFP_NOWARN) is None
    assert sg.pa.vmstat.nr_slab == before


def test_a_cpu_slab_that_came_meanwhile_is_preferred_to_the_new_one(sg, monkeypatch):
    """While a caller waits for a page, an interrupt may have given the CPU a slab: the -mm1 kernel then uses that."""
    real = sg.pa.alloc_pages
    inner = []

    def interrupted(gfp, order=0):
        monkeypatch.setattr(sg.pa, "alloc_pages", real)
        inner.append(sg.slub.kmalloc(512, GFP_ATOMIC))
        return real(gfp, order)

    monkeypatch.setattr(sg.pa, "alloc_pages", interrupted)
    address = sg.slub.kmalloc(512, GFP_KERNEL)
    assert sg.slub.virt_to_page(address) is sg.slub.virt_to_page(inner[0])
    assert len(sg.cache(512).slabs) == 1
    assert sg.slub.objects_in_use(sg.cache(512)) == 2  # 2.6.23 loses the objects that the CPU had of it


# freeing wrongly


def test_an_object_of_another_cache_is_refused_by_name(sg):
    (address,) = alloc(sg, 64, 1)
    with pytest.raises(KernelBug, match=r"kmalloc-128: .*belongs to cache kmalloc-64"):
        sg.slub.kmem_cache_free(sg.cache(128), address)


def test_memory_that_is_no_slab_is_refused(sg):
    page = sg.pa.alloc_page(GFP_KERNEL)
    with pytest.raises(KernelBug, match="no slab"):
        sg.slub.kmem_cache_free(sg.cache(128), page.address)


@pytest.mark.parametrize("address", [1, 0xDEAD0000, 0xFFFF810000000000 + (1 << 40)])
def test_an_address_that_is_no_memory_is_refused(sg, address):
    with pytest.raises(KernelBug, match="no address of memory"):
        sg.slub.kmem_cache_free(sg.cache(128), address)
    with pytest.raises(KernelBug):
        sg.slub.kfree(address)
    with pytest.raises(KernelBug):
        sg.slub.ksize(address)


def test_pages_that_were_freed_cannot_be_freed_again(sg):
    address = sg.slub.kmalloc(5000, GFP_ATOMIC)
    sg.slub.kfree(address)
    with pytest.raises(KernelBug):
        sg.slub.kfree(address)


def test_check_finds_a_double_free():
    with slab_ground() as sg:
        address, other = alloc(sg, 64, 2)
        for each in (address, other, address):
            sg.slub.kfree(each)
        with pytest.raises(KernelBug, match=f"{address:#x} was freed twice"):
            sg.slub.check()


@pytest.mark.parametrize("fast", [True, False])
def test_an_object_that_was_freed_last_is_not_freed_again(sg, fast):
    held = alloc(sg, 64, 3 if fast else 3 * (PAGE_SIZE // 64))
    sg.slub.kfree(held[0])
    with pytest.raises(KernelBug, match=f"object {held[0]:#x} of slab .* is free already"):
        sg.slub.kfree(held[0])
    sg.slub.check()
    for address in held[1:]:
        sg.slub.kfree(address)


def test_outside_of_the_cpu_slab_every_double_free_is_noticed(sg):
    held = alloc(sg, 64, 3 * (PAGE_SIZE // 64))
    for address in held[:3]:
        sg.slub.kfree(address)
    with pytest.raises(KernelBug, match="is free already"):
        sg.slub.kfree(held[1])
    sg.slub.check()
    for address in held[3:]:
        sg.slub.kfree(address)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("inside", [1, 8, 63])
def test_an_address_inside_an_object_is_not_freed(sg, fast, inside):
    held = alloc(sg, 64, 3 if fast else 3 * (PAGE_SIZE // 64))
    with pytest.raises(KernelBug, match="lies inside an object"):
        sg.slub.kfree(held[1] + inside)
    with pytest.raises(KernelBug, match="lies inside an object"):
        sg.slub.kmem_cache_free(sg.slub.kmalloc_caches[6], held[1] + inside)
    sg.slub.check()
    for address in held:
        sg.slub.kfree(address)


def test_a_cache_with_debugging_finds_a_double_free_at_once(sg):
    cache = sg.slub.kmem_cache_create("checked", 64, flags=SLAB_DEBUG_FREE)
    keep, address = (sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC) for _ in range(2))
    sg.slub.kmem_cache_free(cache, address)
    with pytest.raises(KernelBug, match=r"BUG checked: Object already free: object"):
        sg.slub.kmem_cache_free(cache, address)
    with pytest.raises(KernelBug, match="not the begin of an object"):
        sg.slub.kmem_cache_free(cache, keep + 8)


def test_a_cache_with_debugging_knows_who_holds_its_objects(sg):
    cache = sg.slub.kmem_cache_create("checked", 64, flags=SLAB_STORE_USER)
    address = sg.slub.kmem_cache_alloc(cache, GFP_ATOMIC)
    allocated, freed = cache.tracks[address]
    assert allocated.comm == sg.task.comm and freed is None


# tracing


def test_traces_show_what_was_asked_and_what_was_given(sg):
    sg.kernel.trace.enable("kmem:k*")
    address = sg.slub.kmalloc(100, GFP_ATOMIC)
    sg.slub.kfree(address)
    text = "\n".join(sg.kernel.trace.last(20))
    assert f"ptr={address:#x} bytes_req=100 bytes_alloc=128" in text and f"kfree: ptr={address:#x}" in text


# all of it


class SlubMachine(RuleBasedStateMachine):
    """Random allocations and frees on two CPUs, rich and poor, entitled and not, against a set of addresses."""

    PATCHES = "all"
    FIXES = "all"

    @initialize()
    def boot(self):
        self.context = slab_ground(16 * MIB, self.PATCHES, self.FIXES, ncpus=2)
        self.sg = self.context.__enter__()
        self.thing = self.sg.slub.kmem_cache_create("thing", 700)
        self.live: dict[int, int] = {}
        self.poor = False

    def take(self, address, size):
        if address is None:
            return
        for other, other_size in self.live.items():
            assert address + size <= other or other + other_size <= address, "two live objects overlap"
        self.live[address] = size

    @rule(size=st.sampled_from([8, 90, 256, 1024, 2048, 3000]), count=st.integers(1, 12), entitled=st.booleans())
    def kmalloc(self, size, count, entitled):
        for _ in range(count):
            address = (
                self.sg.entitled_kmalloc(size, GFP_NOWAIT | _GFP_NOWARN)
                if entitled
                else self.sg.slub.kmalloc(size, GFP_NOWAIT | _GFP_NOWARN)
            )
            self.take(address, size)

    @rule(count=st.integers(1, 8))
    def cache_alloc(self, count):
        for _ in range(count):
            self.take(self.sg.slub.kmem_cache_alloc(self.thing, GFP_ATOMIC | _GFP_NOWARN), 700)

    @precondition(lambda self: getattr(self, "live", None))
    @rule(data=st.data(), count=st.integers(1, 12))
    def free(self, data, count):
        for _ in range(min(count, len(self.live))):
            place = data.draw(st.integers(0, len(self.live) - 1))
            address = list(self.live)[place]
            if self.live.pop(address) == 700:
                self.sg.slub.kmem_cache_free(self.thing, address)
            else:
                self.sg.slub.kfree(address)

    @rule(number=st.integers(0, 1))
    def cpu(self, number):
        self.sg.cpu(number)

    @rule()
    def weather(self):
        (self.sg.relief if self.poor else self.sg.floor)()
        self.poor = not self.poor

    @rule(number=st.integers(0, 1), size=st.sampled_from([256, 1024, 2048]))
    def flush(self, number, size):
        self.sg.slub.flush_cpu_slab(self.sg.cache(size), number)

    @rule()
    def shrink(self):
        self.sg.slub.kmem_cache_shrink(self.thing)

    @invariant()
    def consistent(self):
        if hasattr(self, "sg"):
            self.sg.slub.check()
            slabs = sum(1 for size in self.live.values() if size <= 2048)
            assert sum(self.sg.slub.objects_in_use(cache) for cache in self.sg.slub.caches.values()) == slabs

    def teardown(self):
        if not hasattr(self, "sg"):
            return
        if self.poor:
            self.sg.relief()
        for address in self.live:
            self.sg.slub.kfree(address)
        for cache in self.sg.slub.caches.values():
            self.sg.slub.kmem_cache_shrink(cache)
        assert self.sg.pa.vmstat.nr_slab == 0
        self.sg.pa.check()
        self.context.__exit__(None, None, None)


class SlubMachineAsPosted(SlubMachine):
    """v14 with its defects: less is promised, but the lists stay sound."""

    FIXES = "none"


class SlubMachineBase(SlubMachine):
    """2.6.23."""

    PATCHES = "none"


few = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestSlubMachine = SlubMachine.TestCase
TestSlubMachine.settings = few
TestSlubMachineAsPosted = SlubMachineAsPosted.TestCase
TestSlubMachineAsPosted.settings = few
TestSlubMachineBase = SlubMachineBase.TestCase
TestSlubMachineBase.settings = few
