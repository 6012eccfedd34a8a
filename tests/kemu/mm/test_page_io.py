"""Swap I/O (mm/page_io.py)."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.errno import ENOMEM
from kemu.mm.address_space import WritebackControl
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
