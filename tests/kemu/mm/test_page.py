"""struct page: unions, flags, compound pages."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm import page as p
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.mmzone import zone_layout
from kemu.patches import PatchSet
from mm_ground import ground


@pytest.fixture
def page():
    zone = zone_layout(1 << 20, "x86_64", PatchSet.all())[0]
    return p.Page(5, zone)


# one slot per union: whoever writes first destroys what the others left

UNIONS = [("mapcount", "inuse"), ("private", "slab", "first_page"), ("index", "freelist", "reserve", "frag_count")]
PAIRS = [(writer, victim) for union in UNIONS for writer in union for victim in union if writer != victim]


@pytest.mark.parametrize(("writer", "victim"), PAIRS)
def test_a_writer_destroys_what_every_other_member_of_its_union_held(page, writer, victim):
    setattr(page, victim, 1)
    setattr(page, writer, 77)
    assert getattr(page, victim) == 77


@pytest.mark.parametrize("union", UNIONS, ids=lambda union: union[0])
def test_a_writer_touches_no_other_union(page, union):
    others = [member for other in UNIONS if other is not union for member in other] + ["mapping", "order", "count", "flags"]
    before = [getattr(page, member) for member in others]
    for member in union:
        setattr(page, member, 77)
    assert [getattr(page, member) for member in others] == before


def test_the_tag_of_a_reserve_page_dies_with_the_first_writer(page):
    """The three users of word D in the series: page cache, SLUB, emergency fragments."""
    for writer, value in (("index", 0), ("freelist", None), ("frag_count", 0)):
        page.reserve = 0x20
        setattr(page, writer, value)
        assert not page.reserve


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
        (p.PG_owner_priv_1, 8),
        (p.PG_checked, 8),
        (p.PG_arch_1, 9),
        (p.PG_reserved, 10),
        (p.PG_private, 11),
        (p.PG_writeback, 12),
        (p.PG_compound, 14),
        (p.PG_swapcache, 15),
        (p.PG_mappedtodisk, 16),
        (p.PG_reclaim, 17),
        (p.PG_readahead, 17),
        (p.PG_buddy, 19),
        (p.PG_uncached, 31),
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
    page.flags, page.first_page = p.PG_tail, head

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


# what a page must not bear when it comes back, or when nobody has it


@pytest.mark.parametrize(
    "flag",
    [
        p.PG_lru,
        p.PG_private,
        p.PG_locked,
        p.PG_active,
        p.PG_slab,
        p.PG_swapcache,
        p.PG_writeback,
        p.PG_reserved,
        p.PG_buddy,
    ],
    ids=p.decode_page_flags,
)
@pytest.mark.parametrize("order", [0, 1])
def test_a_page_that_comes_back_with_somebodys_flag_is_bad(flag, order):
    with ground() as machine:
        page = machine.pa.alloc_pages(GFP_KERNEL, order)
        page.flags |= flag
        with pytest.raises(KernelBug, match="Bad page state"):
            machine.pa.free_pages(page, order)


@pytest.mark.parametrize(("member", "value"), [("mapping", object()), ("mapcount", 1), ("inuse", 3)])
def test_a_page_that_comes_back_with_somebodys_word_is_bad(member, value):
    with ground() as machine:
        page = machine.pa.alloc_pages(GFP_KERNEL)
        setattr(page, member, value)
        with pytest.raises(KernelBug, match="Bad page state"):
            machine.pa.free_pages(page)


@pytest.mark.parametrize("flag", [p.PG_error, p.PG_referenced, p.PG_uptodate, p.PG_dirty, p.PG_mappedtodisk, p.PG_reclaim])
def test_what_is_left_of_a_pages_last_use_is_cleared_for_the_next_one(flag):
    with ground() as machine:
        page = machine.pa.alloc_pages(GFP_KERNEL)
        page.flags |= flag
        page.private = 5
        machine.pa.free_pages(page)
        again = machine.pa.alloc_pages(GFP_KERNEL)
        assert again is page and (again.flags, again.private, again.count) == (0, 0, 1)
        machine.pa.free_pages(again)
        machine.pa.check()
        assert machine.pa.allocated_pages() == 0


def test_a_page_that_is_freed_twice_is_bad():
    with ground() as machine:
        page = machine.pa.alloc_pages(GFP_KERNEL)
        machine.pa.free_pages(page)
        with pytest.raises(KernelBug, match="freed twice"):
            machine.pa.free_pages(page)


def test_index_and_private_of_a_page_do_not_matter_when_it_comes_back():
    """The kernel clears private and flags of a new page, and leaves index."""
    with ground() as machine:
        page = machine.pa.alloc_pages(GFP_KERNEL)
        page.index, page.private = 99, 7
        machine.pa.free_pages(page)
        machine.pa.check()
