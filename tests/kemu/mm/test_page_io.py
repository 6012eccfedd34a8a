"""Swap I/O (mm/page_io.py)."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM
from kemu.mm.address_space import WB_SYNC_ALL, WritebackControl
from kemu.mm.gfp import GFP_KERNEL, GFP_NOIO
from kemu.mm.memory import VM_FAULT_SIGBUS
from kemu.mm.page import PG_dirty, PG_locked, PG_swapcache, PG_uptodate, PG_writeback
from swap_ground import page_bytes, swap_ground

WBC = WritebackControl(for_reclaim=True)


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        g.area, g.disk = g.disk_area(100)
        g.swapfile.swapon(g.area)
        g.process(16)
        yield g
        g.bios.check()


def in_swap_cache(ground, vpn=0):
    """Return a page that is in the swap cache, locked, clean and unmapped."""
    ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
    page = ground.task.mm.ptes[vpn]
    ground.isolate(page)
    ground.filemap.lock_page(page)
    ground.swap_state.add_to_swap(page)
    page.flags &= ~(1 << 32)
    assert ground.reclaim.shrink_list.try_to_unmap(page)
    ground.filemap.clear_page_dirty_for_io(page)
    return page


def test_a_page_goes_to_its_slot_under_writeback_and_unlocked(ground):
    page = in_swap_cache(ground)
    assert ground.page_io.swap_writepage(page, WBC) == 0
    assert page.flags & PG_writeback and not page.flags & PG_locked
    ground.filemap.wait_on_page_writeback(page)
    assert ground.disk.blocks[1] == page_bytes(0)
    assert ground.vmstat.pswpout == 1


def test_a_page_that_only_the_cache_wants_gives_up_its_slot_instead(ground):
    page = in_swap_cache(ground)
    ground.swapfile.swap_free(page.private)  # the process has gone
    del ground.task.mm.ptes[0]
    assert ground.page_io.swap_writepage(page, WBC) == 0
    assert not page.flags & (PG_swapcache | PG_writeback | PG_locked)
    assert ground.vmstat.pswpout == 0


def test_a_failed_write_keeps_the_page_dirty(ground):
    page = in_swap_cache(ground)
    ground.disk.fail_writes = 1
    ground.page_io.swap_writepage(page, WBC)
    ground.filemap.wait_on_page_writeback(page)
    assert page.flags & PG_dirty
    assert "Write-error" in ground.kernel.printk.buffer[-1][2]


def test_without_a_bio_the_page_stays_dirty(ground):
    page = in_swap_cache(ground)
    ground.bios.no_bios = 1
    assert ground.page_io.swap_writepage(page, WBC) == -ENOMEM
    assert page.flags & PG_dirty and not page.flags & (PG_writeback | PG_locked)
    assert ground.vmstat.pswpout == 0 == ground.vmstat.nr_writeback


def test_a_page_comes_back_locked_until_it_is_there(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    entry = ground.swap_out(0)
    page = ground.swap_state.read_swap_cache_async(entry)
    assert page.flags & PG_locked and not page.flags & PG_uptodate
    ground.filemap.wait_on_page_locked(page)
    assert page.flags & PG_uptodate and page.contents == page_bytes(0)
    assert ground.vmstat.pswpin == 1


def test_reading_without_the_lock_is_an_oops(ground):
    page = in_swap_cache(ground)
    ground.filemap.unlock_page(page)
    with pytest.raises(KernelBug, match="not locked"):
        ground.page_io.swap_readpage(None, page)


def test_a_failed_read_is_sigbus(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)

    ground.disk.fail(8, 8)  # slot 1
    assert ground.memory.write_page(ground.task, 0, page_bytes(1)) == VM_FAULT_SIGBUS
    assert ground.memory.read_page(ground.task, 0) is None
    assert "Read-error" in ground.kernel.printk.buffer[-1][2]


def test_a_read_without_a_bio_is_refused(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    entry = ground.swap_out(0)
    ground.bios.no_bios = 1
    page = ground.swap_state.read_swap_cache_async(entry)
    assert not page.flags & (PG_locked | PG_uptodate)
    assert ground.vmstat.pswpin == 0


def bios_asked_for(ground, monkeypatch):
    """Note with what gfp bios are asked for."""
    asked = []
    alloc = ground.bios.bio_alloc
    monkeypatch.setattr(ground.bios, "bio_alloc", lambda gfp, nr: (asked.append((gfp, nr)), alloc(gfp, nr))[1])
    return asked


def test_who_writes_may_not_start_io_to_get_its_bio_and_who_reads_may(ground, monkeypatch):
    asked = bios_asked_for(ground, monkeypatch)
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    ground.memory.read_page(ground.task, 0)
    assert asked == [(GFP_NOIO, 1), (GFP_KERNEL, 1)]
    assert ground.bios.in_flight == 0


def test_a_page_that_could_not_be_written_is_written_again_and_nothing_is_lost(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.disk.fail_writes = 1
    ground.swap_out(0)  # three looks: written, dirty again, written
    assert ground.disk.writes == 2 and ground.disk.blocks[1] == page_bytes(0)
    assert ground.memory.read_page(ground.task, 0) == page_bytes(0)
    assert "8:0:8" in "".join(str(line) for line in ground.kernel.printk.buffer)


def test_the_window_around_a_slot_is_one_request(ground):
    """2**page_cluster slots, read by eight bios that stand side by side and wait for company."""
    for vpn in range(10):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
    entries = [ground.swap_out(vpn) for vpn in range(10)]
    before = ground.disk.reads
    assert ground.memory.read_page(ground.task, 9) == page_bytes(9)
    assert ground.disk.reads - before == 1
    assert ground.vmstat.pswpin == len([e for e in entries if 8 <= e & 0xFFFF < 16])


def test_who_waits_for_a_page_starts_its_disk(ground):
    page = in_swap_cache(ground)
    ground.page_io.swap_writepage(page, WBC)
    assert ground.disk.queue.plugged
    ground.page_io.swap_sync_page(page)
    assert not ground.disk.queue.plugged
    ground.filemap.wait_on_page_writeback(page)


def test_a_page_that_left_the_swap_cache_has_no_disk_to_start():
    """It may leave between lock_page()'s look at the mapping and here; patch 25's page_swap_info() would be a BUG then."""
    with swap_ground(patches="none", kswapd=False) as ground:
        page = ground.pa.alloc_page(GFP_KERNEL)
        ground.page_io.swap_sync_page(page)
        ground.pa.put_page(page)
        ground.check()


def test_a_synchronous_writer_starts_the_disk_at_once(ground):
    page = in_swap_cache(ground)
    ground.page_io.swap_writepage(page, WritebackControl(sync_mode=WB_SYNC_ALL))
    assert ground.disk.busy is not None
    ground.filemap.wait_on_page_writeback(page)


def test_of_two_disks_the_one_with_the_higher_priority_fills_first(ground):
    small, disk = ground.disk_area(6)
    assert ground.swapfile.swapon(small, priority=5) == 0
    for vpn in range(8):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    assert len(disk.blocks) == 1 + 4 and len(ground.disk.blocks) == 1 + 4
    assert [ground.memory.read_page(ground.task, vpn) for vpn in range(8)] == [page_bytes(vpn) for vpn in range(8)]


def test_a_file_on_a_disk_is_written_where_its_blocks_are(ground):
    ground.swapfile.swapoff(ground.area)
    area, disk = ground.file_area(20, first=1000)
    assert ground.swapfile.swapon(area) == 0
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    assert disk.blocks[1001] == page_bytes(0)


def test_io_without_a_device_is_an_oops(ground):
    page = in_swap_cache(ground)
    ground.swapfile.areas[0].bdev = None
    with pytest.raises(KernelBug, match="NULL pointer"):
        ground.page_io.swap_writepage(page, WBC)


def test_the_history_knows_every_page_that_went_and_came(ground):
    before = list(ground.kernel.history.counts)
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    ground.memory.read_page(ground.task, 0)
    after = ground.kernel.history.counts
    assert after[2] - before[2] == 1 == after[3] - before[3]


def test_the_swapper_has_no_blocks_of_its_own(ground):
    assert ground.page_io.bmap(ground.swap_state.swapper_space, 3) == 0
    assert ground.page_io.swapfile is None
