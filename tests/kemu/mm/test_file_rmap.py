"""From a page of a file to its entries (mm/file_rmap.py)."""

from __future__ import annotations

import pytest

from file_ground import file_ground, page_bytes
from kemu.mm.file_rmap import file_ptes, page_mkclean_file
from kemu.mm.page import PG_dirty, PG_referenced
from kemu.mm.pte import FilePte, PTE_dirty, PTE_write, PTE_young
from kemu.mm.rmap import page_mapping_inuse, page_referenced


@pytest.fixture
def ground():
    with file_ground() as g:
        g.process()
        g.other = g.sched.spawn("other", lambda: None)
        g.process(task=g.other)
        g.f = g.file(pages=8)
        g.at = g.mmap(g.f)
        g.there = g.mmap(g.f, pages=4, pgoff=4, task=g.other)
        yield g


def test_every_entry_of_a_page_is_found_wherever_it_stands(ground):
    ground.load(ground.at + 5)
    ground.load(ground.there + 1, task=ground.other)
    found = [(vma.mm, vpn) for vma, vpn, _ in file_ptes(ground.cached(ground.f, 5))]
    assert found == [(ground.task.mm, ground.at + 5), (ground.other.mm, ground.there + 1)]


def test_a_page_outside_of_an_area_is_not_looked_for_there(ground):
    ground.load(ground.at + 2)
    assert [vma.mm for vma, _, _ in file_ptes(ground.cached(ground.f, 2))] == [ground.task.mm]


def test_one_use_anywhere_is_a_use_and_is_forgotten_everywhere(ground):
    ground.load(ground.at + 5)
    ground.load(ground.there + 1, task=ground.other)
    page = ground.cached(ground.f, 5)
    page.flags &= ~PG_referenced
    assert page_referenced(page)
    assert not page_referenced(page)
    ground.load(ground.there + 1, task=ground.other)
    assert page_referenced(page)


def test_cleaning_takes_the_right_to_store_from_everybody(ground):
    ground.store(ground.at + 5, page_bytes(5, 1))
    ground.store(ground.there + 1, page_bytes(5, 2), task=ground.other)
    page = ground.cached(ground.f, 5)
    assert page_mkclean_file(page)
    assert [pte.flags & (PTE_dirty | PTE_write) for _, _, pte in file_ptes(page)] == [0, 0]
    assert not page_mkclean_file(page)


def test_a_private_mapping_has_nothing_to_clean(ground):
    private = ground.mmap(ground.f, shared=False)
    ground.load(private)
    assert not page_mkclean_file(ground.cached(ground.f, 0))


def test_unmapping_stops_at_an_entry_that_was_used(ground):
    ground.load(ground.at + 5)
    ground.load(ground.there + 1, task=ground.other)
    page = ground.cached(ground.f, 5)
    rmap = ground.filemap.file_rmap
    assert not rmap.try_to_unmap_file(page)  # the first was used
    assert page.mapcount == 2
    assert not rmap.try_to_unmap_file(page)  # the first went, the second was used
    assert page.mapcount == 1
    assert rmap.try_to_unmap_file(page)
    assert page.mapcount == 0
    assert ground.vmstat.nr_file_mapped == 0
    assert page.count == 1
    ground.check()


def test_what_an_entry_knows_of_a_store_goes_to_the_page(ground):
    ground.load(ground.at + 5)
    page = ground.cached(ground.f, 5)
    pte = ground.task.mm.ptes[ground.at + 5]
    assert isinstance(pte, FilePte)
    pte.flags = PTE_dirty
    assert ground.filemap.file_rmap.try_to_unmap_file(page)
    assert page.flags & PG_dirty
    assert ground.vmstat.nr_dirty == 1


def test_a_file_that_is_mapped_is_in_use_and_an_unmapped_one_is_not(ground):
    loose = ground.file("loose", pages=2)
    ground.memory.file_io.read(loose, 0, 4096)
    assert not page_mapping_inuse(ground.cached(loose, 0))
    ground.memory.file_io.read(ground.f, 0, 4096)
    assert page_mapping_inuse(ground.cached(ground.f, 0))  # nobody maps this page, but somebody its file


def test_giving_an_area_up_remembers_that_the_page_was_used(ground):
    ground.load(ground.at + 5)
    page = ground.cached(ground.f, 5)
    page.flags &= ~PG_referenced
    ground.memory.munmap(ground.task, ground.at, 8)
    assert page.flags & PG_referenced
    assert not any(pte.flags & PTE_young for _, _, pte in file_ptes(page))
