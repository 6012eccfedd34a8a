"""From a page to the entry that maps it."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.mm.mm_struct import MmStruct
from kemu.mm.page import Page, PG_dirty, PG_referenced, PG_swapcache, PG_uptodate
from kemu.mm.pte import PTE_BITS, PTE_dirty, PTE_young, SwapPte
from kemu.mm.rmap import page_add_anon_rmap, page_mapping_inuse, page_referenced
from mm_ground import ground


@pytest.fixture
def mm():
    with ground() as machine:
        yield MmStruct(1, machine.task)


@pytest.fixture
def page():
    return Page(1, None)


def test_a_mapped_page_leads_to_its_process_and_its_place(mm, page):
    page_add_anon_rmap(page, mm, 17)
    assert page.mapping.mm is mm
    assert (page.word_d, page.mapcount) == (17, 1)


def test_a_page_is_mapped_once(mm, page):
    page_add_anon_rmap(page, mm, 17)
    with pytest.raises(KernelBug, match="mapped twice"):
        page_add_anon_rmap(page, mm, 18)


@pytest.mark.parametrize("field", ["host", "a_ops", "backing_dev_info"])
def test_who_takes_an_anon_vma_for_an_address_space_has_an_oops(mm, field):
    with pytest.raises(KernelBug, match=f"mapping->{field}"):
        getattr(mm.anon_vma, field)


@pytest.mark.parametrize("flag", [PG_referenced, PTE_young])
def test_either_mark_of_use_counts_once(page, flag):
    page.flags |= flag
    assert page_referenced(page)
    assert not page_referenced(page)


def test_asking_leaves_all_other_flags(page):
    page.flags = kept = PG_dirty | PG_uptodate | PTE_dirty
    page.flags |= PG_referenced | PTE_young
    page_referenced(page)
    assert page.flags == kept


def test_a_page_is_in_use_while_mapped(mm, page):
    assert not page_mapping_inuse(page)
    page_add_anon_rmap(page, mm, 0)
    assert page_mapping_inuse(page)


def test_a_page_is_in_use_while_in_the_swap_cache(page):
    page.flags |= PG_swapcache
    assert page_mapping_inuse(page)


def test_the_bits_of_an_entry_are_none_of_the_kernels_page_flags():
    assert not PTE_BITS & 0xFFFFFFFF


def test_a_swap_pte_shows_its_entry():
    assert repr(SwapPte(0x1234)) == "<SwapPte 0x1234>"
