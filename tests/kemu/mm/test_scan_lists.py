"""Isolating pages, looking at them, putting them back (mm/scan_lists.py)."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.task import PF_KSWAPD
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.page import PG_active, PG_lru, PG_referenced
from kemu.mm.pte import PTE_young
from kemu.mm.shrink_list import ScanControl
from reclaim_ground import fill, reclaim_ground
from swap_ground import MIB, swap_ground


@pytest.fixture
def ground():
    with reclaim_ground() as g:
        yield g


def test_pages_that_stay_keep_their_order(ground):
    fill(ground, 40)
    order = list(ground.zone.inactive)
    for page in order:
        page.count += 1  # somebody else needs them: nothing can go
    ground.reclaim.shrink_inactive_list(32, ground.zone, ScanControl(0x10))
    assert list(ground.zone.inactive) == order[32:] + order[:32]
    assert {page.count for page in order} == {2}, "cache or page table, and the other"


def test_isolated_pages_are_on_no_list_and_referenced(ground):
    fill(ground, 10)
    pages, scanned = ground.reclaim.isolate_lru_pages(ground.zone, False, 4)
    assert scanned == 4
    assert all(not page.flags & PG_lru and page.count == 2 for page in pages)
    assert len(ground.zone.inactive) == 6 == ground.vmstat.nr_inactive
    assert ground.zone.pages_scanned == 4
    ground.reclaim._put_back(pages)
    ground.check()


def test_a_page_whose_owner_let_go_of_it_meanwhile_comes_free_when_it_is_put_back(ground):
    page = ground.pa.alloc_page(GFP_KERNEL)
    ground.lru.lru_cache_add(page)
    before = ground.vmstat.pgfree
    taken, _ = ground.reclaim.isolate_lru_pages(ground.zone, False, 1)
    ground.pa.put_page(page)
    assert taken == [page] and ground.vmstat.pgfree == before
    ground.reclaim._put_back(taken)
    assert ground.vmstat.pgfree == before + 1 and page not in ground.zone.inactive
    ground.check()


# -- the active list


def test_mapped_pages_stay_active_while_memory_is_not_tight(ground):
    fill(ground, 100, old=False)
    for page in ground.zone.active:
        page.flags &= ~PTE_young
    ground.zone.prev_priority = 12
    ground.zone.inactive.clear()
    ground.reclaim.shrink_active_list(32, ground.zone, ScanControl(GFP_KERNEL, swappiness=0), 12)
    assert len(ground.zone.active) == 100


def test_under_distress_unused_pages_become_inactive_and_used_ones_stay(ground):
    fill(ground, 64, old=False)
    pages = list(ground.zone.active)
    for page in pages[:16]:
        page.flags &= ~(PTE_young | PG_referenced)
    ground.reclaim.shrink_active_list(32, ground.zone, ScanControl(GFP_KERNEL), 0)
    assert list(ground.zone.inactive) == pages[:16]
    assert list(ground.zone.active) == pages[32:] + pages[16:32]
    assert all(not page.flags & (PTE_young | PG_active) for page in pages[:16])
    assert ground.vmstat.pgdeactivate == 16
    ground.lru.check()


def test_without_swap_anonymous_pages_stay_active():
    with swap_ground(mem=4 * MIB, kswapd=False) as ground:
        ground.process(64)
        ground.zone = ground.pa.zones[0]
        fill(ground, 40, old=False)
        for page in ground.zone.active:
            page.flags &= ~PTE_young
        ground.reclaim.shrink_active_list(32, ground.zone, ScanControl(GFP_KERNEL), 0)
        assert len(ground.zone.active) == 40


def test_a_zone_scanned_three_times_over_is_near_oom(ground):
    fill(ground, 10)
    ground.zone.pages_scanned = 30
    assert ground.reclaim.reclaim_mapped(ground.zone, ScanControl(GFP_KERNEL, swappiness=0), 12)


# -- lumpy reclaim: a page brings its neighbours along


def block_of_lru_pages(ground, order, active=()):
    """Put the pages of one aligned block on the lists; the places in ``active`` on the active one."""
    head = ground.pa.alloc_pages(GFP_KERNEL, order)
    pages = [ground.pa.pfn_to_page(head.pfn + n) for n in range(1 << order)]
    head.order = 0
    for place, page in enumerate(pages):
        page.count = 1
        if place in active:
            ground.lru.lru_cache_add_active(page)
        else:
            ground.lru.lru_cache_add(page)
    return pages


def test_for_a_single_page_neighbours_stay_where_they_are(ground):
    pages = block_of_lru_pages(ground, 2)
    taken, scanned = ground.reclaim.isolate_lru_pages(ground.zone, False, 1)
    assert (taken, scanned) == (pages[:1], 1)


def test_for_a_block_the_whole_aligned_block_is_taken_and_counted_as_scanned(ground):
    pages = block_of_lru_pages(ground, 2)
    before = ground.zone.pages_scanned
    taken, scanned = ground.reclaim.isolate_lru_pages(ground.zone, False, 1, 2)
    assert (taken, scanned) == (pages, 4)
    assert ground.zone.pages_scanned - before == 4 and ground.vmstat.nr_inactive == len(ground.zone.inactive)
    assert all(page.count == 2 and not page.flags & PG_lru for page in pages)


def test_the_tag_page_comes_first_wherever_it_lies_in_its_block(ground):
    pages = block_of_lru_pages(ground, 2)
    for page in pages[:3]:
        ground.zone.inactive.move_to_end(page)
    taken, _ = ground.reclaim.isolate_lru_pages(ground.zone, False, 1, 2)
    assert taken == [pages[3], *pages[:3]]


def test_neighbours_on_the_other_list_come_only_for_large_blocks(ground):
    pages = block_of_lru_pages(ground, 2, active=(1, 2))
    taken, _ = ground.reclaim.isolate_lru_pages(ground.zone, False, 1, 2)
    assert taken == [pages[0], pages[3]]
    ground.reclaim._put_back(taken)
    before = ground.vmstat.nr_active
    taken, scanned = ground.reclaim.isolate_lru_pages(ground.zone, False, 1, 2, both=True)
    assert taken == pages and scanned == 4 and ground.vmstat.nr_active == before - 2
    ground.reclaim._put_back(taken)
    ground.lru.check()


def test_a_block_larger_than_the_wish_is_not_cut(ground):
    """Each neighbour counts, so one tag page may be all that a cluster looks at."""
    pages = block_of_lru_pages(ground, 6)
    taken, scanned = ground.reclaim.isolate_lru_pages(ground.zone, False, 32, 6)
    assert (taken, scanned) == (pages, 64)


def test_the_active_list_is_scanned_in_blocks_too(ground):
    pages = block_of_lru_pages(ground, 2, active=(0, 1, 2, 3))
    ground.reclaim.shrink_active_list(1, ground.zone, ScanControl(GFP_KERNEL, 2), 12)
    assert all(not page.flags & PG_active for page in pages) and ground.vmstat.pgrefill == 4
    ground.lru.check()


def held_by_others(ground, order):
    """Scan a block whose pages somebody else refers to, on behalf of a request of that order; give naps and PGDEACTIVATE."""
    pages = block_of_lru_pages(ground, order, active=(1,))
    for page in pages:
        page.count += 1
    naps, before = ground.congestion.naps, ground.vmstat.pgdeactivate
    ground.reclaim.shrink_inactive_list(1, ground.zone, ScanControl(GFP_KERNEL, order))
    ground.lru.check()
    return ground.congestion.naps - naps, ground.vmstat.pgdeactivate - before


def test_above_order_3_a_direct_reclaimer_naps_and_looks_again(ground):
    assert held_by_others(ground, 4) == (1, 1), "one nap, and the active neighbour became inactive"


def test_what_the_first_look_has_made_active_is_inactive_for_the_second(ground, monkeypatch):
    pages = block_of_lru_pages(ground, 4)
    looks = []

    def shrink_page_list(isolated, _sc, sync=False):
        looks.append((sync, [bool(page.flags & PG_active) for page in isolated]))
        for page in isolated:
            page.flags |= PG_active
        return 0, list(isolated)

    monkeypatch.setattr(ground.reclaim.shrink_list, "shrink_page_list", shrink_page_list)
    ground.reclaim.shrink_inactive_list(1, ground.zone, ScanControl(GFP_KERNEL, 4))
    assert looks == [(False, [False] * 16), (True, [False] * 16)]
    assert ground.vmstat.pgdeactivate == 16
    assert all(page in ground.zone.active for page in pages), "and what the second has made active, stays so"
    ground.lru.check()


def test_up_to_order_3_it_does_not(ground):
    assert held_by_others(ground, 3) == (0, 0)


def test_kswapd_does_not_nap_for_a_large_block(ground):
    ground.sched.current.flags |= PF_KSWAPD
    assert held_by_others(ground, 4) == (0, 1)


def test_a_page_on_a_list_with_the_wrong_flags_is_an_oops(ground):
    fill(ground, 2)
    next(iter(ground.zone.inactive)).flags |= PG_active
    with pytest.raises(KernelBug, match="wrong flags"):
        ground.reclaim.isolate_lru_pages(ground.zone, False, 1)


# -- when mapped pages may go


@pytest.mark.parametrize(
    ("priority", "prev_priority", "swappiness", "mapped", "active", "inactive", "goes"),
    [
        (12, 12, 60, 70, 0, 0, False),  # 35 + 0 + 60
        (12, 12, 60, 80, 0, 0, True),  # 40 + 0 + 60
        (12, 12, 100, 0, 0, 0, True),
        (1, 12, 0, 99, 0, 0, False),  # 49 + 50
        (1, 12, 0, 100, 0, 0, True),  # 50 + 50
        (12, 0, 0, 0, 0, 0, True),  # distress of the zone's last scan
        (2, 12, 60, 29, 0, 0, False),  # 14 + 25 + 60
        (2, 12, 60, 30, 0, 0, True),
        (12, 12, 60, 50, 99, 0, True),  # 25 + 60 + 99 * 61 // 100 * 50 // 100 = 30
        (12, 12, 60, 50, 47, 0, False),  # 25 + 60 + 28 // 2 = 14
        (12, 12, 60, 50, 50, 0, True),  # 25 + 60 + 30 // 2 = 15
        (12, 12, 0, 50, 14900, 0, False),  # 25 + 149 * 50 // 100 = 74: swappiness 0 asks for a huge imbalance
        (12, 12, 0, 50, 15000, 0, True),
    ],
)
def test_swap_tendency(ground, priority, prev_priority, swappiness, mapped, active, inactive, goes):
    """mapped / 2 + distress + swappiness + imbalance >= 100."""
    ground.vmstat.nr_anon_pages, ground.vmstat.nr_file_mapped = mapped, 0
    ground.pa.total_pages = 100
    ground.zone.prev_priority = prev_priority
    ground.zone.pages_scanned = -1
    ground.zone.active, ground.zone.inactive = range(active), range(inactive)
    ground.reclaim.swappiness = swappiness
    assert ground.reclaim.reclaim_mapped(ground.zone, ScanControl(GFP_KERNEL, swappiness=swappiness), priority) is goes
