"""swapon and swapoff (mm/swapfile.py, mm/swap_info.py)."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import EBUSY, EINVAL, EIO, ENOMEM, EPERM
from kemu.kernel.task import PF_SWAPOFF
from kemu.mm.address_space import S_SWAPFILE
from kemu.mm.swap_header import mkswap_header
from kemu.mm.swap_info import SWP_ACTIVE, SwapInfo
from kemu.mm.swapops import swp_offset, swp_type
from swap_ground import PAGE, page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        yield g


def test_a_block_device_is_one_extent(ground):
    area, _ = ground.disk_area(100)
    assert ground.swapfile.swapon(area) == 0
    si = ground.swapfile.areas[0]
    assert si.flags == SWP_ACTIVE
    assert si.extents == [(0, 99, 0)]
    assert (si.max, si.pages) == (99, 98), "last_page is taken as the number of slots: one page is never used"
    assert ground.swapfile.nr_swap_pages == 98 == ground.swapfile.total_swap_pages
    assert not area.inode.i_flags
    ground.check()


def test_a_file_is_asked_for_its_blocks_and_marked(ground):
    area, disk = ground.file_area(50, first=1000)
    assert ground.swapfile.swapon(area) == 0
    si = ground.swapfile.areas[0]
    assert si.extents == [(0, 49, 1000)]
    assert si.map_swap_page(7) == 1007
    assert area.inode.i_flags & S_SWAPFILE
    ground.process(4)
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    assert disk.blocks[1001] == page_bytes(0)


def test_the_kernel_says_what_it_swaps_to(ground):
    ground.swapfile.swapon(ground.disk_area(100)[0])
    ground.swapfile.swapon(ground.file_area(50)[0], priority=3)
    disk, file = (ground.kernel.printk.buffer[place][2] for place in (-2, -1))
    assert disk == "Adding 392k swap on /dev/ram0.  Priority:-1 extents:1 across:392k"
    assert file == "Adding 192k swap on inode 1.  Priority:3 extents:1 across:192k"


def test_the_span_of_a_file_in_pieces_leaves_the_header_out(ground):
    si = SwapInfo(0, swap_file=ground.file_area(50)[0])
    si.add_swap_extent(0, 1, 10)
    si.add_swap_extent(1, 3, 500)
    si.add_swap_extent(4, 2, 400)
    assert ground.swapfile._span(si) == 503 - 400


def test_a_file_in_pieces_has_an_extent_for_each():
    si = SwapInfo(0)
    assert [si.add_swap_extent(0, 2, 10), si.add_swap_extent(2, 1, 12), si.add_swap_extent(3, 2, 50)] == [1, 0, 1]
    assert [si.map_swap_page(k) for k in range(5)] == [10, 11, 12, 50, 51]
    with pytest.raises(KernelBug, match="no extent"):
        si.map_swap_page(5)


def test_a_file_with_a_hole_is_refused_in_the_kernels_words(ground):
    area, _ = ground.file_area(50, hole=20)
    assert ground.swapfile.swapon(area) == -EINVAL
    assert "swapon: swapfile has holes" in ground.kernel.printk.buffer[-1][2]
    assert ground.swapfile.areas == [None]
    assert not area.inode.i_flags


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (bytes(PAGE), "signature"),
        (mkswap_header(2), "Empty"),
        (mkswap_header(5, (1, 2, 3)), "Empty"),
        (mkswap_header(1000), "shorter"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused(ground, header, words):
    area, disk = ground.disk_area(50)
    disk.blocks[0] = header
    assert ground.swapfile.swapon(area) == -EINVAL
    assert words in ground.kernel.printk.buffer[-1][2]


def test_a_header_that_cannot_be_read_is_eio(ground, monkeypatch):
    area, _ = ground.disk_area(50)
    monkeypatch.setattr(area.f_mapping.a_ops, "readpage", lambda _f, page: ground.filemap.unlock_page(page) or 0, raising=False)
    assert ground.swapfile.swapon(area) == -EIO


def test_bad_pages_are_not_used(ground):
    area, disk = ground.disk_area(10)
    disk.blocks[0] = mkswap_header(10, (1, 3))
    ground.swapfile.swapon(area)
    assert [swp_offset(ground.swapfile.get_swap_page()) for _ in range(7)] == [2, 4, 5, 6, 7, 8, 0]
    assert ground.swapfile.areas[0].pages == 6
    ground.check()


def test_fewer_pages_than_the_header_says_can_be_asked_for(ground):
    area, _ = ground.disk_area(100)
    ground.swapfile.swapon(area, pages=20)
    assert ground.swapfile.total_swap_pages == 19


def test_a_file_is_used_once(ground):
    area, _ = ground.file_area(50)
    assert ground.swapfile.swapon(area) == 0
    assert ground.swapfile.swapon(area) == -EBUSY
    disk, _ = ground.disk_area(50)
    assert ground.swapfile.swapon(disk) == 0
    assert ground.swapfile.swapon(disk) == -EBUSY


def test_there_are_30_areas(ground):
    for _ in range(30):
        assert ground.swapfile.swapon(ground.disk_area(10)[0]) == 0
    assert ground.swapfile.swapon(ground.disk_area(10)[0]) == -EPERM


def test_higher_priority_is_used_first_and_equals_take_turns(ground):
    for priority in (1, 5, 5):
        ground.swapfile.swapon(ground.disk_area(6)[0], priority=priority)
    types = [swp_type(ground.swapfile.get_swap_page()) for _ in range(13)]
    assert sorted(types[:8]) == [1] * 4 + [2] * 4
    assert types[0] != types[1]
    assert types[8:12] == [0] * 4
    assert ground.swapfile.nr_swap_pages == 0
    ground.check()


def test_a_slot_freed_in_a_better_area_is_used_before_the_worse_one(ground):
    for priority in (1, 5):
        ground.swapfile.swapon(ground.disk_area(6)[0], priority=priority)
    entries = [ground.swapfile.get_swap_page() for _ in range(6)]
    assert [swp_type(e) for e in entries] == [1] * 4 + [0] * 2
    ground.swapfile.swap_free(entries[0])
    assert ground.swapfile.get_swap_page() == entries[0]


def test_by_default_each_area_comes_after_those_before(ground):
    for _ in range(2):
        ground.swapfile.swapon(ground.disk_area(6)[0])
    assert [si.prio for si in ground.swapfile.areas] == [-1, -2]
    assert swp_type(ground.swapfile.get_swap_page()) == 0


def test_entries_of_no_area_are_an_oops_and_have_no_users(ground):
    with pytest.raises(KernelBug, match="bad swap file entry"):
        ground.swapfile.swap_free(3 << 59 | 1)
    assert not ground.swapfile.swap_duplicate(3 << 59 | 1)


def test_more_than_half_in_use_is_full(ground):
    ground.swapfile.swapon(ground.disk_area(12)[0])
    for _ in range(5):
        ground.swapfile.get_swap_page()
    assert not ground.swapfile.vm_swap_full()
    ground.swapfile.get_swap_page()
    assert ground.swapfile.vm_swap_full()


def test_swapoff_of_what_is_not_swapped_to(ground):
    assert ground.swapfile.swapoff(ground.disk_area(10)[0]) == -EINVAL


def test_swapoff_brings_everything_back_and_restores_the_counters(ground):
    before = ground.pa.allocated_pages()
    area, disk = ground.file_area(100)
    ground.swapfile.swapon(area)
    ground.process(40)
    for vpn in range(40):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
    for vpn in range(30):
        ground.swap_out(vpn)
    assert ground.swapfile.swapoff(area) == 0
    assert ground.swapfile.nr_swap_pages == 0 == ground.swapfile.total_swap_pages
    assert ground.swapfile.areas == [None]
    assert not area.inode.i_flags
    assert ground.swap_state.total_swapcache_pages == 0
    disk.blocks.clear()
    assert [ground.memory.read_page(ground.task, vpn) for vpn in range(40)] == [page_bytes(vpn) for vpn in range(40)]
    ground.check()
    ground.memory.exit_mmap(ground.task)
    ground.filemap.truncate_inode_pages(area.f_mapping)
    disk.remove()
    ground.nodes.drain()
    assert ground.pa.allocated_pages() - before <= 2, "an empty slab may rest on its CPU"
    assert ground.judge.outcome is None


def test_a_page_mapped_again_behind_the_walk_is_found_in_the_second_lap(ground):
    area, _ = ground.disk_area(100)
    ground.swapfile.swapon(area)
    ground.process(10)
    for vpn in range(4):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    unuse = ground.swapfile.unuse
    laps = []
    users = unuse._users

    def first_lap_sees_nobody(si):
        laps.append(1)
        return users(si) if len(laps) > 1 else {}

    unuse._users = first_lap_sees_nobody
    assert ground.swapfile.swapoff(area) == 0
    assert len(laps) == 2
    assert ground.memory.read_page(ground.task, 3) == page_bytes(3)


def test_swapoff_is_refused_where_the_pages_would_not_fit(ground):
    area, _ = ground.disk_area(5000)
    ground.swapfile.swapon(area)
    entries = [ground.swapfile.get_swap_page() for _ in range(4998)]
    assert ground.swapfile.swapoff(area) == -ENOMEM
    for entry in entries:
        ground.swapfile.swap_free(entry)
    assert ground.swapfile.swapoff(area) == 0


def test_a_swapoff_that_is_killed_leaves_the_area_in_use(ground):
    area, _ = ground.disk_area(100)
    ground.swapfile.swapon(area)
    ground.process(4)
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    ground.task.killed = True
    assert ground.swapfile.swapoff(area) == -4
    ground.task.killed = False
    assert not ground.task.flags & PF_SWAPOFF
    assert ground.swapfile.areas[0].flags == SWP_ACTIVE
    ground.check()
    assert ground.swapfile.swapoff(area) == 0


def test_without_memory_an_area_in_use_cannot_be_given_up(ground):
    area, _ = ground.disk_area(100)
    ground.swapfile.swapon(area)
    entry = ground.swapfile.get_swap_page()
    ground.swapfile.unuse = None
    assert ground.swapfile.swapoff(area) == -EBUSY
    ground.swapfile.swap_free(entry)
    assert ground.swapfile.swapoff(area) == 0


def test_check_finds_a_lost_slot(ground):
    ground.swapfile.swapon(ground.disk_area(10)[0])
    ground.swapfile.nr_swap_pages -= 1
    with pytest.raises(KernelBug, match="areas say"):
        ground.swapfile.check()
