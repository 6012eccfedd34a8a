"""Patch 25: swap files that have no block device."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EINVAL, EIO, ENOMEM
from kemu.mm.address_space import S_SWAPFILE
from kemu.mm.page import PG_dirty, PG_locked, PG_writeback
from kemu.mm.swap_header import mkswap_header
from kemu.mm.swap_info import SWP_ACTIVE, SWP_FILE
from swap_ground import MIB, Touch, page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        yield g


def calls(net, kind):
    return [call for call in net.calls if call[0] == kind]


def test_off_swapon_of_a_network_file_is_einval():
    with swap_ground(patches="all,-25", kswapd=False) as ground:
        area, net = ground.net_area(50)
        assert ground.swapfile.swapon(area) == -EINVAL
        assert "holes" in ground.kernel.printk.buffer[-1][2]
        assert calls(net, "swapfile") == []


def test_on_the_file_system_is_asked_and_the_area_marked(ground):
    area, net = ground.net_area(50)
    assert ground.swapfile.swapon(area) == 0
    si = ground.swapfile.areas[0]
    assert si.flags == SWP_ACTIVE | SWP_FILE, "WRITEOK is added, SWP_FILE stays"
    assert si.extents == [(0, 49, 0)]
    assert calls(net, "swapfile") == [("swapfile", 1)]
    assert area.inode.i_flags & S_SWAPFILE


def test_a_file_system_that_refuses_ends_swapon_with_its_error_and_bmap_is_not_tried(ground):
    area, net = ground.net_area(50)
    net.swapfile_error = -ENOMEM
    net.bmap = None
    assert ground.swapfile.swapon(area) == -ENOMEM
    assert calls(net, "swapfile") == [("swapfile", 1)], "no 0 for a 1 that failed"


def test_a_later_failure_of_swapon_is_told_to_the_file_system(ground):
    area, net = ground.net_area(6)
    net.blocks[0] = mkswap_header(6, (1, 2, 3, 4))
    assert ground.swapfile.swapon(area) == -EINVAL
    assert calls(net, "swapfile") == [("swapfile", 1), ("swapfile", 0)]


def test_swapoff_tells_the_file_system_after_the_last_page_is_back(ground):
    area, net = ground.net_area(50)
    ground.swapfile.swapon(area)
    ground.process(8)
    for vpn in range(8):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    si = ground.swapfile.areas[0]
    assert ground.swapfile.swapoff(area) == 0
    assert si.flags == 0
    assert [call[0] for call in net.calls if call[0] in {"read", "swapfile"}][-2:] == ["read", "swapfile"]
    assert calls(net, "swapfile") == [("swapfile", 1), ("swapfile", 0)]
    assert not area.inode.i_flags & S_SWAPFILE
    assert [ground.memory.read_page(ground.task, vpn) for vpn in range(8)] == [page_bytes(vpn) for vpn in range(8)]


def test_every_page_goes_through_the_files_methods_locked(ground):
    area, net = ground.net_area(50)
    ground.swapfile.swapon(area)
    ground.process(8)
    for vpn in range(8):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    for vpn in range(8):
        assert ground.memory.read_page(ground.task, vpn) == page_bytes(vpn)
    assert len(calls(net, "write")) == 8 == ground.vmstat.pswpout
    assert len(calls(net, "read")) - 1 == 8 == ground.vmstat.pswpin  # one READ was the header's
    assert all(call[-1] == PG_locked for call in calls(net, "write") + calls(net, "read"))


def test_only_successes_are_counted(ground):
    area, net = ground.net_area(50)
    ground.swapfile.swapon(area)
    ground.process(8)
    net.write_error = -EIO
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    assert ground.vmstat.pswpout == 0


def test_the_file_system_sets_writeback_not_the_swap_code(ground):
    area, net = ground.net_area(50)
    ground.swapfile.swapon(area)
    ground.process(8)
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    seen = []
    net.on_write = lambda page: seen.append(page.flags & (PG_writeback | PG_locked))
    ground.swap_out(0)
    assert seen == [PG_locked]


def test_dirtying_and_hurrying_are_the_files_affair(ground):
    area, net = ground.net_area(50)
    ground.swapfile.swapon(area)
    ground.process(8)
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    net.calls.clear()
    ground.memory.write_page(ground.task, 0, page_bytes(0, 1))
    assert ("sync",) in net.calls
    ground.swap_out(0)
    assert ("dirty", 1) in net.calls


def test_an_areas_own_shortcut_is_kept(ground):
    area, net = ground.net_area(50)
    ground.swapfile.swapon(area)
    ground.process(8)
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    page = ground.task.mm.ptes[0]
    ground.isolate(page)
    page.flags &= ~(1 << 32)
    ground.memory.exit_mmap(ground.task)
    ground.reclaim.shrink_list.shrink_page_list([page], ground.scan_control())
    assert calls(net, "write") == []
    assert page.flags & PG_dirty


def test_mixed_areas_route_by_page(ground):
    area, net = ground.net_area(50)
    disk_file, disk = ground.disk_area(50)
    ground.swapfile.swapon(area, priority=1)
    ground.swapfile.swapon(disk_file, priority=1)
    ground.process(20)
    for vpn in range(20):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    assert len(calls(net, "write")) == 10
    assert len(disk.blocks) - 1 == 10
    for vpn in range(20):
        assert ground.memory.read_page(ground.task, vpn) == page_bytes(vpn)
    assert ground.judge.outcome is None
    assert ground.swapfile.swapoff(area) == 0 == ground.swapfile.swapoff(disk_file)


@pytest.mark.parametrize("patches", ["all", "all,-25", "none"])
def test_block_swap_is_the_same_with_and_without(patches):
    with swap_ground(mem=4 * MIB, patches=patches) as ground:
        area, _ = ground.disk_area(2000)
        assert ground.swapfile.swapon(area) == 0
        assert ground.swapfile.areas[0].flags == SWP_ACTIVE
        task = ground.processes.spawn("hog", Touch(1200), uid=1)
        ground.run(task)
        assert task.exit_code == 0 and ground.judge.outcome is None
        assert ground.swapfile.swapoff(area) == 0
        ground.check()


def test_a_whole_machine_swaps_to_a_file_without_blocks():
    with swap_ground(mem=4 * MIB) as ground:
        area, net = ground.net_area(3000)
        assert ground.swapfile.swapon(area) == 0
        task = ground.processes.spawn("hog", Touch(2048), uid=1)
        ground.world.run(until=lambda: ground.vmstat.pswpout > 1200)
        assert ground.memory.audit(lambda _si, offset: net.blocks.get(offset))[1] == 0
        ground.run(task)
        assert task.exit_code == 0 and ground.judge.outcome is None
        assert ground.swapfile.swapoff(area) == 0
        ground.check()


# -- the window between WRITEOK and S_SWAPFILE (b30d)


@pytest.mark.parametrize(("fixes", "marked"), [("none", False), ("all", True)])
def test_in_the_window_pages_may_go_out_before_the_file_is_marked(fixes, marked):
    with swap_ground(fixes=fixes, kswapd=False) as ground:
        area, _ = ground.net_area(50)
        seen = []

        def preemption_point(_label):
            seen.append((ground.swapfile.get_swap_page() != 0, area.inode.is_swapfile))

        ground.sched.preemption_point = preemption_point
        ground.swapfile.swapon(area)
        assert seen == [(True, marked)]
        assert area.inode.is_swapfile
