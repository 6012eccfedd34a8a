"""struct page: unions, flags, compound pages."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm import page as p
from kemu.mm.mmzone import zone_layout
from kemu.patches import PatchSet


@pytest.fixture
def page():
    zone = zone_layout(1 << 20, "x86_64", PatchSet.all())[0]
    return p.Page(5, zone)


@pytest.mark.parametrize("member", ["index", "freelist", "reserve", "frag_count"])
def test_the_members_of_word_d_are_one_slot(page, member):
    """What one user of the union leaves, the next one reads."""
    setattr(page, member, 77)

    assert [page.word_d, page.index, page.freelist, page.reserve, page.frag_count] == [77] * 5


def test_the_other_words_are_not_touched_by_word_d(page):
    page.index = 9

    assert (page.mapcount, page.private, page.mapping, page.order) == (0, 0, None, 0)


@pytest.mark.parametrize(
    ("mask", "bit"),
    [
        (p.PG_locked, 0),
        (p.PG_error, 1),
        (p.PG_referenced, 2),
        (p.PG_uptodate, 3),
        (p.PG_dirty, 4),
        (p.PG_lru, 5),
        (p.PG_active, 6),
        (p.PG_slab, 7),
        (p.PG_private, 11),
        (p.PG_writeback, 12),
        (p.PG_compound, 14),
        (p.PG_swapcache, 15),
        (p.PG_mappedtodisk, 16),
        (p.PG_reclaim, 17),
        (p.PG_buddy, 19),
    ],
)
def test_flags_are_masks_of_the_kernels_bits(mask, bit):
    assert mask == 1 << bit


def test_accessors_change_their_flag_alone(page):
    page.flags = p.PG_locked
    p.SetPageDirty(page)
    assert p.PageDirty(page) and p.PageLocked(page) and not p.PageWriteback(page)
    p.ClearPageLocked(page)
    assert page.flags == p.PG_dirty


def test_addresses_map_back_to_frames(page):
    assert page.address == 0xFFFF810000005000
    assert p.virt_to_pfn(page.address + 4095) == 5


def test_a_tail_counts_with_its_head(page):
    head = p.Page(4, page.zone)
    head.flags, head.count = p.PG_compound, 1
    page.flags, page.mapping = p.PG_tail, head

    p.get_page(page)

    assert p.compound_head(page) is head and p.page_count(page) == head.count == 2 and page.count == 0


def test_a_single_page_is_its_own_head(page):
    assert p.compound_head(page) is page


def test_a_free_page_cannot_be_referenced(page):
    with pytest.raises(KernelBug, match="free page"):
        p.get_page(page)


def test_an_oops_shows_the_flags_by_name(page):
    page.flags = p.PG_dirty | p.PG_swapcache
    assert "dirty|swapcache" in repr(page)
