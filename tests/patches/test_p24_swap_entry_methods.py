"""Patch 24: swap entries, and which area a page belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.swapops import SWP_OFFSET_MASK, swp_entry, swp_offset, swp_type
from swap_ground import page_bytes, swap_ground


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 31), st.integers(0, SWP_OFFSET_MASK))
def test_type_and_offset_come_back_out_of_an_entry(kind, offset):
    entry = swp_entry(kind, offset)
    assert (swp_type(entry), swp_offset(entry)) == (kind, offset)
    assert 0 <= entry < 1 << 64


def test_the_type_stands_in_the_top_five_bits():
    assert swp_entry(3, 0x1234) == 3 << 59 | 0x1234


def two_areas(ground):
    areas = [ground.disk_area(60)[0], ground.disk_area(60)[0]]
    for area in areas:
        ground.swapfile.swapon(area, priority=1)
    ground.process(8)
    pages = []
    for vpn in range(6):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        page = ground.task.mm.ptes[vpn]
        ground.filemap.lock_page(page)
        ground.swap_state.add_to_swap(page)
        pages.append(page)
    return pages


def test_on_each_page_finds_its_own_area():
    with swap_ground(kswapd=False) as ground:
        pages = two_areas(ground)
        assert {swp_type(page.private) for page in pages} == {0, 1}
        for page in pages:
            assert ground.swapfile.page_swap_info(page).type == swp_type(page.private)


def test_off_the_first_area_answers_for_all():
    with swap_ground(patches="all,-24", kswapd=False) as ground:
        pages = two_areas(ground)
        assert {ground.swapfile.page_swap_info(page).type for page in pages} == {0}


def swap_to_net_and_disk(ground):
    """Swap four pages out to a file without blocks and a disk, in turns; return both."""
    net_file, net = ground.net_area(60)
    disk_file, disk = ground.disk_area(60)
    for file in (net_file, disk_file):
        assert ground.swapfile.swapon(file, priority=1) == 0
    ground.process(8)
    for vpn in range(4):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    return net, disk


def test_on_a_disk_and_a_file_without_blocks_each_get_their_own_pages():
    with swap_ground(kswapd=False) as ground:
        net, disk = swap_to_net_and_disk(ground)
        entries = [ground.task.mm.ptes[vpn].entry for vpn in range(4)]
        assert {swp_type(entry) for entry in entries} == {0, 1}
        for vpn, entry in enumerate(entries):
            assert (net, disk)[swp_type(entry)].blocks[swp_offset(entry)] == page_bytes(vpn)
        assert len(net.blocks) == len(disk.blocks) == 3  # the header and two pages
        assert [ground.memory.read_page(ground.task, vpn) for vpn in range(4)] == [page_bytes(vpn) for vpn in range(4)]


def test_off_the_disks_pages_go_to_the_first_area_and_over_its_own():
    with swap_ground(patches="all,-24", kswapd=False) as ground:
        _, disk = swap_to_net_and_disk(ground)
        assert len(disk.blocks) == 1  # its header: nothing ever came
        assert ground.memory.read_page(ground.task, 0) != page_bytes(0)
        assert ground.judge.outcome == "data_loss"


@pytest.mark.parametrize("patches", ["all,-24", "none"])
def test_off_two_disks_are_told_apart_as_ever(patches):
    """Invariant c: the block path looks entries up itself, and needs no helper."""
    with swap_ground(patches=patches, kswapd=False) as ground:
        disks = [ground.disk_area(60) for _ in range(2)]
        for file, _ in disks:
            ground.swapfile.swapon(file, priority=1)
        ground.process(8)
        for vpn in range(4):
            ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
            ground.swap_out(vpn)
        assert [len(disk.blocks) for _, disk in disks] == [3, 3]
        assert [ground.memory.read_page(ground.task, vpn) for vpn in range(4)] == [page_bytes(vpn) for vpn in range(4)]


def test_a_page_outside_the_swap_cache_fails_loudly():
    with swap_ground(kswapd=False) as ground, pytest.raises(KernelBug, match="not in the swap cache"):
        ground.swapfile.page_swap_info(ground.pa.alloc_page(GFP_KERNEL))


@pytest.mark.parametrize("patches", ["all", "all,-24"])
def test_without_any_area_it_fails_loudly(patches):
    with swap_ground(patches=patches, kswapd=False) as ground:
        page = two_areas(ground)[0]
        ground.swapfile.areas[:] = [None, None]
        with pytest.raises(KernelBug, match="does not exist"):
            ground.swapfile.page_swap_info(page)


@pytest.mark.parametrize("patches", ["all", "all,-24"])
def test_with_one_area_the_patch_changes_nothing(patches):
    with swap_ground(patches=patches, kswapd=False) as ground:
        area, _ = ground.disk_area(60)
        ground.swapfile.swapon(area)
        ground.process(8)
        for vpn in range(8):
            ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
            ground.swap_out(vpn)
        assert [ground.memory.read_page(ground.task, vpn) for vpn in range(8)] == [page_bytes(vpn) for vpn in range(8)]
        assert ground.swapfile.swapoff(area) == 0


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(10)), st.permutations(range(10)))
def test_on_random_slots_of_two_areas_go_to_the_right_device_and_place_and_come_back(out, back):
    """D.2 for 24 to 26: one area a disk, one a file on a file system without blocks."""
    with swap_ground(kswapd=False) as ground:
        disk_area, disk = ground.disk_area(60)
        net_area, net = ground.net_area(60)
        for area in (disk_area, net_area):
            assert ground.swapfile.swapon(area, priority=1) == 0
        ground.process(10)
        for vpn in range(10):
            ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        types = set()
        for vpn in out:
            entry = ground.swap_out(vpn)
            types.add(swp_type(entry))
            blocks = (disk, net)[swp_type(entry)].blocks
            assert blocks[swp_offset(entry)] == page_bytes(vpn)
        assert types == {0, 1}
        for vpn in back:
            assert ground.memory.read_page(ground.task, vpn) == page_bytes(vpn)
        assert ground.judge.outcome != "data_loss"
        for area in (net_area, disk_area):
            assert ground.swapfile.swapoff(area) == 0
        ground.check()


@pytest.mark.parametrize("patches", ["all", "all,-24"])
def test_entries_themselves_do_not_depend_on_the_patch(patches):
    """Invariant c: the decoders only move from one header to another."""
    with swap_ground(patches=patches, kswapd=False) as ground:
        pages = two_areas(ground)
        assert [(swp_type(page.private), swp_offset(page.private)) for page in pages] == [
            (1, 1),
            (0, 1),
            (1, 2),
            (0, 2),
            (1, 3),
            (0, 3),
        ]


def test_the_answer_holds_while_the_page_is_locked_and_no_longer():
    """Nothing pins PG_swapcache but the page lock: who asks later may ask about a page that has gone."""
    with swap_ground(kswapd=False) as ground:
        page = two_areas(ground)[0]
        assert ground.swapfile.page_swap_info(page).type == swp_type(page.private)
        ground.swap_state.delete_from_swap_cache(page)
        with pytest.raises(KernelBug, match="not in the swap cache"):
            ground.swapfile.page_swap_info(page)
