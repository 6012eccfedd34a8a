"""Patch 26: which file, and where in it, a page of the swap cache is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.mm.address_space import AddressSpace, Inode
from swap_ground import PAGE, page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        yield g


def in_swap_cache(ground, vpn):
    ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
    page = ground.task.mm.ptes[vpn]
    ground.filemap.lock_page(page)
    assert ground.swap_state.add_to_swap(page)
    ground.filemap.unlock_page(page)
    return page


@pytest.mark.parametrize("patches", ["all", "all,-26"])
def test_for_a_files_page_they_are_identities(patches):
    with swap_ground(patches=patches, kswapd=False) as ground:
        area, net = ground.net_area(50)
        mapping = AddressSpace(Inode(ino=9), net)
        page = ground.filemap.find_or_create_page(mapping, 13)
        assert ground.swapfile.page_file_mapping(page) is mapping
        assert ground.swapfile.page_file_index(page) == 13
        assert ground.swapfile.page_offset(page) == 13 * PAGE
        assert area


def test_a_swap_cache_page_is_in_its_areas_file_at_its_slot(ground):
    files = [ground.net_area(50)[0], ground.net_area(50)[0]]
    for file in files:
        ground.swapfile.swapon(file, priority=1)
    ground.process(40)
    seen = set()
    for vpn in range(30, 40):
        page = in_swap_cache(ground, vpn)
        area = ground.swapfile.page_swap_info(page).type
        mapping = ground.swapfile.page_file_mapping(page)
        index = ground.swapfile.page_file_index(page)
        assert mapping is files[area].f_mapping
        assert index == page.private & 0xFFFF and index > 0, "never inside the header"
        assert ground.swapfile.page_offset(page) == index * PAGE
        seen.add((area, index))
    assert len(seen) == 10, "no two slots share a place"
    assert {area for area, _ in seen} == {0, 1}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True))
def test_the_place_does_not_depend_on_where_the_process_has_the_page(vpns):
    with swap_ground(kswapd=False) as ground:
        area, _ = ground.net_area(50)
        ground.swapfile.swapon(area)
        ground.process(31)
        assert [ground.swapfile.page_file_index(in_swap_cache(ground, vpn)) for vpn in vpns] == list(range(1, len(vpns) + 1))


def test_off_the_first_page_that_goes_out_is_an_oops():
    with swap_ground(patches="all,-26", kswapd=False) as ground:
        area, _ = ground.net_area(50)
        ground.swapfile.swapon(area)
        ground.process(8)
        ground.memory.write_page(ground.task, 3, page_bytes(3))
        with pytest.raises(KernelBug, match="mapping->host of an anonymous page"):
            ground.swap_out(3)


def test_off_raw_mapping_and_index_are_answered():
    with swap_ground(patches="all,-26", kswapd=False) as ground:
        area, _ = ground.disk_area(50)
        ground.swapfile.swapon(area)
        ground.process(8)
        page = in_swap_cache(ground, 5)
        assert ground.swapfile.page_file_mapping(page) is ground.task.mm.anon_vma
        assert ground.swapfile.page_file_index(page) == 5
        assert ground.swapfile.page_offset(page) == 5 * PAGE


def test_off_with_the_mapping_forced_slots_are_written_over_each_other():
    with swap_ground(patches="all,-26", kswapd=False) as ground:
        area, net = ground.net_area(50)
        ground.swapfile.swapon(area)
        ground.swapfile.page_file_mapping = lambda _page: area.f_mapping
        first, second = ground.sched.current, ground.sched.spawn("other", lambda: None)
        ground.process(8)
        ground.memory.write_page(first, 3, page_bytes(3, 1))
        ground.swap_out(3)
        ground.memory.mm_alloc(second).total_vm = 8
        ground.memory.write_page(second, 3, page_bytes(3, 2))
        ground.swap_out(3, second)
        assert net.blocks[3] == page_bytes(3, 2), "both at index * 4096, not at their slots"
        assert ground.memory.read_page(first, 3) != page_bytes(3, 1)
        assert ground.judge.outcome == "data_loss"


def test_an_area_without_a_file_has_no_mapping(ground):
    area, _ = ground.net_area(50)
    ground.swapfile.swapon(area)
    ground.process(8)
    page = in_swap_cache(ground, 0)
    ground.swapfile.areas[0].swap_file = None
    with pytest.raises(KernelBug, match="has no file"):
        ground.swapfile.page_file_mapping(page)
