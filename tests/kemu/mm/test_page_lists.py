"""Frames on their way: lazily made struct pages, per-CPU lists, references, bad pages."""

from __future__ import annotations

import time

import pytest

from kemu.errors import KernelBug
from kemu.mm import gfp as g
from kemu.mm import page as p
from mm_ground import MIB, ground


@pytest.fixture
def small():
    with ground(32 * MIB) as machine:
        yield machine


@pytest.fixture
def listed():
    """A machine whose DMA32 zone has per-CPU lists: batch 7, high 42."""
    with ground(128 * MIB, ncpus=2) as machine:
        yield machine


def test_64_gib_boot_at_once_and_make_no_page():
    start = time.perf_counter()
    with ground(64 << 30) as machine:
        assert time.perf_counter() - start < 1
        assert machine.pa.mem_map == {} and machine.pa.nr_free_pages() == 1 << 24
        assert machine.pa.alloc_page(g.GFP_KERNEL).zone.name == "NORMAL"
        machine.pa.check()


def test_only_touched_frames_have_a_struct_page(small):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    small.pa.alloc_pages(g.GFP_KERNEL, 3)
    assert len(small.pa.mem_map) == 2 and small.pa.pfn_to_page(page.pfn) is page


def test_a_frame_keeps_its_struct_page(small):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    small.pa.free_pages(page)
    assert small.pa.alloc_page(g.GFP_KERNEL) is page


def test_an_address_leads_to_its_page(small):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    assert small.pa.virt_to_page(page.address + 100) is page


def test_frames_behind_the_end_of_memory_do_not_exist(small):
    with pytest.raises(KernelBug, match="not in memory"):
        small.pa.pfn_to_page(8192)


def test_a_new_page_bears_no_trace_of_its_former_user(small):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    page.flags, page.private, page.contents = p.PG_uptodate | p.PG_referenced | p.PG_dirty, 77, b"x"
    small.pa.free_pages(page)
    again = small.pa.alloc_page(g.GFP_KERNEL)
    assert again is page and (page.flags, page.private, page.contents, page.count) == (0, 0, None, 1)


@pytest.mark.parametrize("order", [0, 2])
def test_zeroed_pages_share_the_zero_page(small, order):
    page = small.pa.alloc_pages(g.GFP_KERNEL | g._GFP_ZERO, order)
    assert all(small.pa.pfn_to_page(page.pfn + i).contents is p.ZERO_PAGE for i in range(1 << order))


# per-CPU lists


def test_pages_of_the_lists_are_not_counted_as_free(listed):
    zone = listed.pa.zones[1]
    free = zone.free_pages
    listed.pa.alloc_page(g.GFP_KERNEL)
    assert (zone.free_pages, zone.pcp_pages, listed.pa.allocated_pages()) == (free - 7, 6, 1)


def test_a_batch_is_handed_out_in_the_order_it_came(listed):
    pfns = [listed.pa.alloc_page(g.GFP_KERNEL).pfn for _ in range(7)]
    assert pfns == list(range(pfns[0], pfns[0] + 7))


def test_the_hottest_page_is_reused_first(listed):
    pages = [listed.pa.alloc_page(g.GFP_KERNEL) for _ in range(3)]
    for page in pages:
        listed.pa.free_pages(page)
    assert [listed.pa.alloc_page(g.GFP_KERNEL) for _ in range(3)] == pages[::-1]


def test_a_full_list_gives_its_oldest_batch_back(listed):
    zone = listed.pa.zones[1]
    pages = [listed.pa.alloc_page(g.GFP_KERNEL) for _ in range(49)]
    free = zone.free_pages
    for page in pages[:41]:
        listed.pa.free_pages(page)
    assert zone.free_pages == free and len(zone.hot[0].pages) == 41
    listed.pa.free_pages(pages[41])
    assert zone.free_pages == free + 7 and zone.hot[0].pages == pages[7:42]


def test_cold_pages_have_a_list_of_their_own(listed):
    zone = listed.pa.zones[1]
    listed.pa.alloc_page(g.GFP_KERNEL | g._GFP_COLD)
    assert (len(zone.cold[0].pages), len(zone.hot[0].pages)) == (2, 0)


def test_each_cpu_has_its_lists(listed):
    listed.pa.alloc_page(g.GFP_KERNEL)
    zone = listed.pa.zones[1]
    assert (len(zone.hot[0].pages), len(zone.hot[1].pages)) == (6, 0)


def test_draining_makes_all_of_them_free(listed):
    page = listed.pa.alloc_page(g.GFP_KERNEL)
    listed.pa.free_pages(page)
    listed.pa.drain_pages(0)
    assert listed.pa.nr_free_pages() == listed.pa.total_pages
    listed.pa.check()


def test_freeing_makes_a_zone_reclaimable_again(small):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    page.zone.all_unreclaimable, page.zone.pages_scanned = True, 99
    small.pa.free_pages(page)
    assert (page.zone.all_unreclaimable, page.zone.pages_scanned) == (False, 0)


# references


@pytest.mark.parametrize("drop", ["free_pages", "put_page"])
def test_the_last_reference_frees(small, drop):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    p.get_page(page)
    getattr(small.pa, drop)(page)
    assert page.count == 1 and small.pa.allocated_pages() == 1
    getattr(small.pa, drop)(page)
    assert page.count == 0 and small.pa.allocated_pages() == 0


@pytest.mark.parametrize("drop", ["free_pages", "put_page"])
def test_freeing_twice_is_a_bug(small, drop):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    small.pa.free_pages(page)
    with pytest.raises(KernelBug, match="Bad page state"):
        getattr(small.pa, drop)(page)


@pytest.mark.parametrize(
    "flag", [p.PG_locked, p.PG_slab, p.PG_lru, p.PG_active, p.PG_private, p.PG_writeback, p.PG_swapcache, p.PG_buddy]
)
@pytest.mark.parametrize("order", [0, 1])
def test_a_page_with_an_owners_flag_cannot_be_freed(small, flag, order):
    page = small.pa.alloc_pages(g.GFP_KERNEL, order)
    page.flags |= flag
    with pytest.raises(KernelBug, match="freed in use"):
        small.pa.free_pages(page, order)


@pytest.mark.parametrize(("slot", "value"), [("mapping", object()), ("mapcount", 1)])
def test_a_mapped_page_cannot_be_freed(small, slot, value):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    setattr(page, slot, value)
    with pytest.raises(KernelBug, match="freed in use"):
        small.pa.free_pages(page)


def test_the_lru_is_told_when_the_last_reference_goes(small):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    page.flags |= p.PG_lru
    small.pa.page_cache_release = p.ClearPageLRU
    small.pa.put_page(page)
    assert small.pa.allocated_pages() == 0


# compound pages


def test_a_tail_leads_to_its_head(small):
    head = small.pa.alloc_pages(g.GFP_KERNEL | g._GFP_COMP, 2)
    tail = small.pa.pfn_to_page(head.pfn + 3)
    assert p.compound_head(tail) is head and head.order == 2 and p.page_count(tail) == 1


def test_a_reference_to_a_tail_keeps_the_whole_block(small):
    head = small.pa.alloc_pages(g.GFP_KERNEL | g._GFP_COMP, 1)
    tail = small.pa.pfn_to_page(head.pfn + 1)
    p.get_page(tail)
    small.pa.put_page(head)
    assert small.pa.allocated_pages() == 2
    small.pa.put_page(tail)
    assert small.pa.allocated_pages() == 0 and tail.mapping is None and not tail.flags
    small.pa.check()


def test_a_compound_page_is_freed_with_its_own_order(small):
    head = small.pa.alloc_pages(g.GFP_KERNEL | g._GFP_COMP, 2)
    with pytest.raises(KernelBug, match="order 2 is freed with order 1"):
        small.pa.free_pages(head, 1)


def test_a_tail_that_lost_its_head_is_a_bug(small):
    head = small.pa.alloc_pages(g.GFP_KERNEL | g._GFP_COMP, 1)
    small.pa.pfn_to_page(head.pfn + 1).first_page = None
    with pytest.raises(KernelBug, match="does not belong"):
        small.pa.put_page(head)


def test_check_finds_a_free_page_that_somebody_uses(small):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    small.pa.free_pages(page)
    page.contents = b"late write"
    with pytest.raises(KernelBug, match="used while free"):
        small.pa.check()


def test_check_finds_pages_that_went_astray(small):
    small.pa.alloc_page(g.GFP_KERNEL)
    small.pa.vmstat.pgfree += 1
    with pytest.raises(KernelBug, match="are away"):
        small.pa.check()


@pytest.mark.parametrize("order", [0, 1])
def test_reserve_pages_are_forgotten_when_they_come_back(small, order):
    small.take()
    page = small.pa.alloc_pages(g.GFP_ATOMIC | g._GFP_MEMALLOC | (g._GFP_COMP if order else 0), order)
    assert len(small.pa.reserve_pfns) == 1 << order
    small.pa.put_page(page)
    assert not small.pa.reserve_pfns


def test_put_page_looks_as_closely_as_free_pages(small):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    page.flags |= p.PG_writeback
    with pytest.raises(KernelBug, match="freed in use"):
        small.pa.put_page(page)


def test_put_page_is_traced(small):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    small.kernel.trace.enable("kmem:mm_page_free")
    small.pa.put_page(page)
    assert f"pfn={page.pfn:#x} order=0" in small.kernel.trace.last(1)[0]


def test_check_finds_a_reserve_page_that_is_free(small):
    page = small.pa.alloc_page(g.GFP_KERNEL)
    small.pa.free_pages(page)
    small.pa.reserve_pfns[page.pfn] = None
    with pytest.raises(KernelBug, match="in reserve_pfns"):
        small.pa.check()


# bad input: an oops, and lists that are sound afterwards


@pytest.mark.parametrize(("order", "wrong"), [(0, 1), (0, 11), (1, 2), (2, 1), (2, 11), (3, -1)])
def test_a_block_freed_with_a_wrong_order_is_a_bug(small, order, wrong):
    page = small.pa.alloc_pages(g.GFP_KERNEL, order)
    with pytest.raises(KernelBug, match=f"a block of order {order} is freed with order {wrong}"):
        small.pa.free_pages(page, wrong)
    small.pa.check()
    assert small.pa.allocated_pages() == 1 << order


def test_a_block_that_is_freed_as_one_page_leaks_its_others(small):
    """As in the kernel: a block that is not compound does not know its order."""
    small.pa.free_pages(small.pa.alloc_pages(g.GFP_KERNEL, 2))
    small.pa.check()
    assert small.pa.allocated_pages() == 3


def test_a_page_inside_a_block_is_not_its_head(small):
    head = small.pa.alloc_pages(g.GFP_KERNEL, 2)
    inside = small.pa.pfn_to_page(head.pfn + 2)
    with pytest.raises(KernelBug, match="freed twice"):
        small.pa.free_pages(inside, 1)
    small.pa.check()


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("drop", ["free_pages", "put_page"])
def test_after_a_double_free_all_is_sound(small, drop, order):
    page = small.pa.alloc_pages(g.GFP_KERNEL | (g._GFP_COMP if order else 0), order)
    small.pa.free_pages(page, order)
    with pytest.raises(KernelBug, match="Bad page state"):
        small.pa.free_pages(page, order) if drop == "free_pages" else small.pa.put_page(page)
    small.pa.check()
    assert small.pa.nr_free_pages() == small.pa.total_pages


def test_a_frame_that_nobody_has_cannot_be_freed(small):
    with pytest.raises(KernelBug, match="freed twice"):
        small.pa.free_pages(small.pa.pfn_to_page(77))
    small.pa.check()


@pytest.mark.parametrize("address", [0, 1 << 46, p.PAGE_OFFSET - 1, p.PAGE_OFFSET + 32 * MIB])
def test_an_address_outside_memory_has_no_page(small, address):
    with pytest.raises(KernelBug, match="not in memory"):
        small.pa.virt_to_page(address)
    small.pa.check()
