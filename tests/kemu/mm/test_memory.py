"""Faults and address spaces (mm/memory.py)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from file_ground import mapped_file_ground
from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM
from kemu.kernel.task import TIF_MEMDIE
from kemu.mm.memory import VM_FAULT_OOM, VM_FAULT_SIGSEGV
from kemu.mm.page import ZERO_PAGE, PG_dirty, PG_swapcache, PG_writeback
from kemu.mm.pte import PTE_dirty, PTE_write, SwapPte
from swap_ground import MIB, page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        g.area, g.disk = g.disk_area(200)
        g.swapfile.swapon(g.area)
        g.mm = g.process(64)
        yield g


def test_a_page_begins_as_zeros(ground):
    assert ground.memory.read_page(ground.task, 0) is ZERO_PAGE
    assert ground.mm.min_flt == 1 and ground.vmstat.pgfault == 1
    assert ground.vmstat.nr_anon_pages == 1 == ground.mm.anon_rss


def test_only_the_first_access_faults(ground):
    for generation in range(3):
        ground.memory.write_page(ground.task, 0, page_bytes(0, generation))
    assert ground.memory.read_page(ground.task, 0) == page_bytes(0, 2)
    assert ground.vmstat.pgfault == 1


@pytest.mark.parametrize("vpn", [-1, 64, 10**9])
def test_outside_its_memory_a_process_dies(ground, vpn):
    assert ground.memory.write_page(ground.task, vpn, b"") == VM_FAULT_SIGSEGV
    assert ground.memory.read_page(ground.task, vpn) is None
    assert ground.memory.last_error == VM_FAULT_SIGSEGV


def test_a_page_comes_back_by_a_major_fault(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    assert isinstance(ground.mm.ptes[0], SwapPte)
    assert ground.memory.read_page(ground.task, 0) == page_bytes(0)
    assert ground.mm.maj_flt == 1 == ground.vmstat.pgmajfault
    assert ground.shadow.verified == 1
    ground.check()


def test_a_page_still_in_the_cache_comes_back_by_a_minor_fault(ground):
    for vpn in range(2):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    ground.memory.read_page(ground.task, 0)  # reads its neighbour too
    ground.memory.read_page(ground.task, 1)
    assert ground.mm.maj_flt == 1
    assert ground.vmstat.pswpin == 2


def test_a_read_maps_for_reading_and_a_write_then_makes_it_writable(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    entry = ground.swap_out(0)
    ground.memory.read_page(ground.task, 0)
    page = ground.mm.ptes[0]
    assert not page.flags & (PTE_write | PTE_dirty)
    ground.memory.write_page(ground.task, 0, page_bytes(0, 1))
    assert page.flags & PTE_write and page.flags & PTE_dirty
    assert page.flags & PG_swapcache and page.private == entry, "the slot stays, as long as swap is not half full"
    ground.check()


def test_when_swap_is_half_full_a_page_gives_up_its_slot(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    while ground.swapfile.nr_swap_pages * 2 >= ground.swapfile.total_swap_pages:
        ground.swapfile.get_swap_page()
    free = ground.swapfile.nr_swap_pages
    ground.memory.read_page(ground.task, 0)
    page = ground.mm.ptes[0]
    assert not page.flags & PG_swapcache and page.flags & PG_dirty
    assert ground.swapfile.nr_swap_pages == free + 1
    ground.memory.check()


def test_a_page_may_be_written_while_it_is_on_its_way_out(ground):
    ground.disk.stall()
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    page = ground.mm.ptes[0]
    ground.isolate(page)
    page.flags &= ~(1 << 32)
    ground.reclaim.shrink_list.shrink_page_list([page], ground.scan_control())
    assert page.flags & PG_writeback
    ground.reclaim._put_back([page])
    ground.memory.write_page(ground.task, 0, page_bytes(0, 1))
    assert ground.mm.ptes[0] is page
    ground.disk.resume()
    assert ground.swap_out(0)
    assert ground.memory.read_page(ground.task, 0) == page_bytes(0, 1)
    assert ground.judge.outcome is None


def test_who_holds_tif_memdie_and_finds_no_page_gets_oom(ground, monkeypatch):
    monkeypatch.setattr(ground.pa, "alloc_pages", lambda _gfp, _order=0: None)
    ground.task.thread_flags |= TIF_MEMDIE
    assert ground.memory.write_page(ground.task, 0, b"") == VM_FAULT_OOM


def test_without_a_page_to_read_into_swap_in_is_oom(ground, monkeypatch):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    monkeypatch.setattr(ground.pa, "alloc_pages", lambda _gfp, _order=0: None)
    assert ground.memory.write_page(ground.task, 0, b"") == VM_FAULT_OOM


def test_exit_frees_pages_slots_and_cache(ground):
    for vpn in range(40):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
    for vpn in range(20):
        ground.swap_out(vpn)
    for vpn in range(5):
        ground.memory.read_page(ground.task, vpn)
    ground.memory.exit_mmap(ground.task)
    assert ground.task.mm is None
    assert ground.vmstat.nr_anon_pages == 0
    assert ground.swap_state.total_swapcache_pages == 0
    assert ground.swapfile.nr_swap_pages == ground.swapfile.total_swap_pages
    assert ground.memory.mms == {}
    ground.check()
    ground.memory.exit_mmap(ground.task)


def test_a_page_on_its_way_out_outlives_its_process_and_goes_later(ground):
    ground.disk.stall()
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    page = ground.mm.ptes[0]
    ground.isolate(page)
    page.flags &= ~(1 << 32)
    ground.reclaim.shrink_list.shrink_page_list([page], ground.scan_control())
    ground.reclaim._put_back([page])
    ground.memory.exit_mmap(ground.task)
    assert page.count == 1 and page.flags & PG_swapcache
    ground.disk.resume()
    ground.filemap.wait_on_page_writeback(page)
    ground.isolate(page)
    assert ground.reclaim.shrink_list.shrink_page_list([page], ground.scan_control()) == (1, [])
    assert ground.swapfile.nr_swap_pages == ground.swapfile.total_swap_pages
    ground.check()


# -- overcommit


def test_brk_is_granted_while_swap_and_cache_are_large_enough(ground):
    assert ground.memory.do_brk(ground.task, 190) == 0
    assert ground.mm.total_vm == 64 + 190


def test_free_memory_is_asked_only_then_less_what_is_kept_back(ground):
    free = ground.pa.nr_free_pages() - ground.pa.totalreserve_pages + ground.swapfile.nr_swap_pages + ground.vmstat.nr_file_pages
    assert ground.memory.vm_enough_memory(free - 1)
    assert not ground.memory.vm_enough_memory(free)


def test_root_may_have_3_percent_more(ground):
    free = ground.pa.nr_free_pages() - ground.pa.totalreserve_pages + ground.swapfile.nr_swap_pages
    assert ground.memory.vm_enough_memory(free - 1, admin=True)
    assert not ground.memory.vm_enough_memory(free - 1, admin=False)


def test_a_mapping_larger_than_everything_is_refused_unless_overcommit_is_allowed(ground):
    assert ground.memory.do_brk(ground.task, 10**6) == -ENOMEM
    ground.memory.overcommit_memory = 1
    assert ground.memory.do_brk(ground.task, 10**6) == 0


def test_below_the_reserve_nothing_is_promised(ground, monkeypatch):
    monkeypatch.setattr(ground.pa, "nr_free_pages", lambda: ground.pa.totalreserve_pages)
    assert not ground.memory.vm_enough_memory(10**4)


# -- invariants


def test_check_finds_a_page_that_does_not_know_where_it_is(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.mm.ptes[0].word_d = 7
    with pytest.raises(KernelBug, match="does not know"):
        ground.memory.check()
    ground.mm.ptes[0].word_d = 0
    ground.mm.anon_rss = 5
    with pytest.raises(KernelBug, match="are present"):
        ground.memory.check()
    ground.mm.anon_rss = 1
    ground.vmstat.nr_anon_pages = 9
    with pytest.raises(KernelBug, match="vmstat counts 9"):
        ground.memory.check()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 11)), max_size=50))
def test_whatever_is_written_read_and_swapped_every_page_holds_what_was_written_last(actions):
    with swap_ground(mem=2 * MIB, kswapd=False) as ground:
        area, disk = ground.disk_area(20)
        ground.swapfile.swapon(area)
        ground.process(12)
        expected = {}
        for step, (action, vpn) in enumerate(actions):
            if action < 2:
                expected[vpn] = page_bytes(vpn, step)
                assert ground.memory.write_page(ground.task, vpn, expected[vpn]) == 0
            elif action == 2:
                assert ground.memory.read_page(ground.task, vpn) == expected.get(vpn, ZERO_PAGE)
            elif not isinstance(ground.task.mm.ptes.get(vpn, SwapPte(0)), SwapPte):
                ground.swap_out(vpn)
            ground.check()
        assert ground.memory.audit(lambda si, offset: disk.blocks.get(si.map_swap_page(offset)))[1] == 0
        assert ground.judge.outcome is None


# -- mapped files


@pytest.fixture
def files():
    with mapped_file_ground() as g:
        yield g


def test_total_vm_is_heap_and_mapped_files(files):
    assert (files.mm.total_vm, files.mm.brk, files.mm.map_pages) == (8, 4, 4)
    files.mm.total_vm = 10
    assert files.mm.brk == 6
    files.mm.total_vm = 8


def test_writing_the_heap_asks_nothing_about_files(files):
    """The path of an anonymous page that is there: no area is looked for."""
    files.memory.file_fault.find_vma = None
    files.store(0, page_bytes(0, 3))
    assert files.load(0) == page_bytes(0, 3)
    del files.memory.file_fault.find_vma
