"""The two lists of a zone (mm/lru.py)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.page import PG_active, PG_dirty, PG_locked, PG_lru, PG_referenced
from swap_ground import swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        yield g


def new(ground):
    return ground.pa.alloc_page(GFP_KERNEL)


def test_pages_are_scanned_in_the_order_in_which_they_came(ground):
    pages = [new(ground) for _ in range(5)]
    for page in pages:
        ground.lru.lru_cache_add(page)
    zone = pages[0].zone
    assert [zone.inactive.popitem(last=False)[0] for _ in pages] == pages


def test_adding_twice_is_an_oops(ground):
    page = new(ground)
    ground.lru.lru_cache_add(page)
    with pytest.raises(KernelBug, match="on a list"):
        ground.lru.lru_cache_add_active(page)
    with pytest.raises(KernelBug, match="on a list"):
        ground.lru.lru_cache_add(page)


def test_the_last_reference_takes_the_page_off_its_list(ground):
    page = new(ground)
    ground.lru.lru_cache_add_active(page)
    page.count += 1
    ground.lru.put_page(page)
    assert page.flags & PG_lru
    ground.lru.put_page(page)
    assert not page.flags & (PG_lru | PG_active)
    assert not page.zone.active
    assert ground.vmstat.nr_active == 0
    ground.check()


def test_an_anonymous_page_forgets_whose_it_was_when_it_is_freed(ground):
    mm = ground.process()
    page = new(ground)
    page.mapping = mm.anon_vma
    ground.lru.lru_cache_add(page)
    ground.lru.put_page(page)
    assert page.mapping is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PG_lru, PG_lru | PG_referenced),
        (PG_lru | PG_referenced, PG_lru | PG_active),
        (PG_lru | PG_active, PG_lru | PG_active | PG_referenced),
        (PG_lru | PG_active | PG_referenced, PG_lru | PG_active | PG_referenced),
    ],
)
def test_use_moves_a_page_along_the_four_states(ground, before, after):
    page = new(ground)
    if before & PG_active:
        ground.lru.lru_cache_add_active(page)
    else:
        ground.lru.lru_cache_add(page)
    page.flags |= before
    ground.lru.mark_page_accessed(page)
    assert page.flags == after
    ground.lru.check()


def test_an_isolated_page_is_only_marked(ground):
    page = new(ground)
    page.flags |= PG_referenced
    ground.lru.mark_page_accessed(page)
    assert page.flags == PG_referenced


def test_rotation_makes_a_page_the_next_to_be_scanned(ground):
    pages = [new(ground) for _ in range(3)]
    for page in pages:
        ground.lru.lru_cache_add(page)
    assert ground.lru.rotate_reclaimable_page(pages[2])
    assert list(pages[0].zone.inactive) == [pages[2], pages[0], pages[1]]
    assert ground.vmstat.pgrotated == 1


@pytest.mark.parametrize("flag", [PG_locked, PG_dirty, PG_active])
def test_a_page_that_somebody_still_wants_is_not_rotated(ground, flag):
    page = new(ground)
    if flag == PG_active:
        ground.lru.lru_cache_add_active(page)
    else:
        ground.lru.lru_cache_add(page)
        page.flags |= flag
    assert not ground.lru.rotate_reclaimable_page(page)


def test_check_finds_a_page_with_the_wrong_flag(ground):
    page = new(ground)
    ground.lru.lru_cache_add(page)
    page.flags |= PG_active
    with pytest.raises(KernelBug, match="inactive list"):
        ground.lru.check()


def test_check_finds_a_wrong_count(ground):
    ground.lru.lru_cache_add(new(ground))
    ground.vmstat.nr_inactive += 1
    with pytest.raises(KernelBug, match="lists hold"):
        ground.lru.check()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=60))
def test_lists_flags_and_counts_agree_whatever_happens(actions):
    with swap_ground(mem=1 << 20, kswapd=False) as ground:
        pages = [new(ground) for _ in range(10)]
        for action, which in actions:
            page = pages[which]
            on_list = page.flags & PG_lru
            if action == 0 and not on_list:
                ground.lru.lru_cache_add(page)
            elif action == 1 and not on_list:
                ground.lru.lru_cache_add_active(page)
            elif action == 2 and on_list:
                ground.lru.del_page_from_lru(page)
            elif action == 3:
                ground.lru.mark_page_accessed(page)
            else:
                ground.lru.rotate_reclaimable_page(page)
            ground.lru.check()
