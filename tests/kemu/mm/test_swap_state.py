"""The swap cache (mm/swap_state.py)."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOENT, ENOMEM
from kemu.kernel.task import PF_MEMALLOC
from kemu.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from kemu.mm.page import PG_dirty, PG_locked, PG_private, PG_swapcache, PG_uptodate, PG_writeback
from kemu.mm.swapops import swp_offset
from swap_ground import page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        g.area, g.disk = g.disk_area(200)
        assert g.swapfile.swapon(g.area) == 0
        g.process(64)
        yield g


def anon(ground, vpn=0):
    """Return a written page of the caller, locked."""
    ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
    page = ground.task.mm.ptes[vpn]
    ground.filemap.lock_page(page)
    return page


def test_add_to_swap_gives_a_slot_and_makes_the_page_dirty(ground):
    page = anon(ground)
    assert ground.swap_state.add_to_swap(page, GFP_ATOMIC)
    assert page.flags & PG_swapcache and page.flags & PG_dirty and page.flags & PG_uptodate
    assert page.private == 1
    assert page.count == 2
    assert page.mapping is ground.task.mm.anon_vma, "the address space stays that of the process"
    assert page.word_d == 0
    assert ground.swapfile.swap_count(1) == 1
    ground.check()


def test_add_to_swap_of_an_unlocked_page_is_an_oops(ground):
    page = anon(ground)
    ground.filemap.unlock_page(page)
    with pytest.raises(KernelBug, match="not locked"):
        ground.swap_state.add_to_swap(page, GFP_ATOMIC)


def test_private_data_on_the_way_in_is_an_oops(ground):
    page = anon(ground)
    page.flags |= PG_private
    with pytest.raises(KernelBug, match="private data"):
        ground.swap_state.add_to_swap(page, GFP_ATOMIC)


def test_private_data_on_the_way_out_is_an_oops(ground):
    page = anon(ground)
    ground.swap_state.add_to_swap(page, GFP_ATOMIC)
    page.flags |= PG_private
    with pytest.raises(KernelBug, match="not ready"):
        ground.swap_state.delete_from_swap_cache(page)
    with pytest.raises(KernelBug, match="private data"):
        ground.swap_state.remove_exclusive_swap_page(page)


def test_an_overwritten_entry_is_an_oops(ground):
    page = anon(ground)
    ground.swap_state.add_to_swap(page, GFP_ATOMIC)
    page.private = 77
    with pytest.raises(KernelBug, match="no such page"):
        ground.swap_state.delete_from_swap_cache(page)


def test_without_a_free_slot_there_is_no_swap(ground):
    while ground.swapfile.get_swap_page():
        pass
    assert not ground.swap_state.add_to_swap(anon(ground), GFP_ATOMIC)


def test_without_nodes_the_slot_is_given_back(ground, monkeypatch):
    monkeypatch.setattr(ground.nodes, "preload", lambda _gfp: -ENOMEM)
    free = ground.swapfile.nr_swap_pages
    assert not ground.swap_state.add_to_swap(anon(ground), GFP_ATOMIC)
    assert ground.swapfile.nr_swap_pages == free


def test_the_preload_leaves_the_reserve_alone_also_for_reclaimers(ground, monkeypatch):
    asked = []
    monkeypatch.setattr(ground.nodes, "preload", lambda gfp: asked.append(gfp) or -ENOMEM)
    page = anon(ground)
    ground.task.flags |= PF_MEMALLOC
    ground.swap_state.add_to_swap(page, GFP_ATOMIC)
    ground.task.flags &= ~PF_MEMALLOC
    assert asked == [0x10220]
    assert ground.swap_state.page_tree.gfp == 0x220


def test_a_speculative_read_of_the_same_slot_costs_one_slot_more(ground):
    other = ground.pa.alloc_page(GFP_KERNEL)
    ground.swap_state.page_tree.insert(1, other)
    page = anon(ground)
    assert ground.swap_state.add_to_swap(page, GFP_ATOMIC)
    assert swp_offset(page.private) == 2


def test_remove_exclusive_needs_cache_and_caller_alone(ground):
    page = anon(ground)
    ground.swap_state.add_to_swap(page, GFP_ATOMIC)
    page.count += 1
    assert not ground.swap_state.remove_exclusive_swap_page(page)
    page.count -= 1
    page.flags |= PG_writeback
    assert not ground.swap_state.remove_exclusive_swap_page(page)
    page.flags &= ~PG_writeback
    ground.swapfile.swap_duplicate(page.private)
    assert not ground.swap_state.remove_exclusive_swap_page(page)
    ground.swapfile.swap_free(page.private)
    assert ground.swap_state.remove_exclusive_swap_page(page)
    assert page.flags & PG_dirty and not page.flags & PG_swapcache
    assert page.count == 1
    ground.check()


def test_a_freed_slot_takes_its_cached_page_along(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    entry = ground.swap_out(0)
    page = ground.swap_state.read_swap_cache_async(entry)
    ground.filemap.wait_on_page_locked(page)
    ground.lru.put_page(page)
    del ground.task.mm.ptes[0]
    free = ground.swapfile.nr_swap_pages
    ground.swap_state.free_swap_and_cache(entry)
    assert ground.swapfile.nr_swap_pages == free + 1
    assert ground.swap_state.total_swapcache_pages == 0
    ground.check()


def test_a_locked_cached_page_outlives_its_slots_last_user(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    entry = ground.swap_out(0)
    page = ground.swap_state.read_swap_cache_async(entry)
    assert page.flags & PG_locked
    del ground.task.mm.ptes[0]
    ground.swap_state.free_swap_and_cache(entry)
    assert ground.swapfile.swap_count(entry) == 1
    ground.filemap.wait_on_page_locked(page)
    ground.lru.put_page(page)


def test_reading_a_freed_slot_finds_nothing(ground):
    before = ground.pa.allocated_pages()
    assert ground.swap_state.read_swap_cache_async(5) is None
    page = ground.pa.alloc_page(GFP_KERNEL)
    assert ground.swap_state.add_to_swap_cache(page, 5) == -ENOENT
    ground.lru.put_page(page)
    assert ground.pa.allocated_pages() <= before + 3


def test_two_readers_share_one_page(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    entry = ground.swap_out(0)
    first = ground.swap_state.read_swap_cache_async(entry)
    second = ground.swap_state.read_swap_cache_async(entry)
    assert first is second and first.count == 3
    assert ground.vmstat.pswpin == 1


def test_readahead_reads_the_aligned_window_without_gaps(ground):
    for vpn in range(20):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
    entries = [ground.swap_out(vpn) for vpn in range(20)]
    assert entries == list(range(1, 21))
    ground.swap_state.swapin_readahead(10)
    assert ground.vmstat.pswpin == 8
    assert [e for e in entries if ground.swap_state.page_tree.lookup(e)] == list(range(8, 16))
    ground.swap_state.swapin_readahead(2)
    assert ground.vmstat.pswpin == 8 + 7, "slot 0 is no page"


def test_check_finds_a_page_whose_entry_was_overwritten(ground):
    page = anon(ground)
    ground.swap_state.add_to_swap(page, GFP_ATOMIC)
    page.private = 9
    with pytest.raises(KernelBug, match="does not stand"):
        ground.swap_state.check()


def test_check_finds_a_wrong_count(ground):
    ground.swap_state.total_swapcache_pages = 3
    with pytest.raises(KernelBug, match="counts 3"):
        ground.swap_state.check()
