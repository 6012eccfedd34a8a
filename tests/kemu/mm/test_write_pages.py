"""Writing the dirty pages of one file (mm/write_pages.py)."""

from __future__ import annotations

import pytest

from file_ground import PAGE, file_ground, page_bytes
from kemu.kernel.errno import EIO, ENOSPC
from kemu.mm.address_space import AOP_WRITEPAGE_ACTIVATE, WB_SYNC_ALL, WritebackControl
from kemu.mm.backing_dev import BDI_CAP_NO_WRITEBACK, WRITE
from kemu.mm.page import PG_dirty, PG_locked


@pytest.fixture
def ground():
    with file_ground() as g:
        g.process()
        g.f = g.file(pages=40)
        g.mapping = g.f.f_mapping
        g.writers = g.memory.file_io.write_pages
        g.written = []
        yield g


def dirty(ground, *indices):
    for index in indices:
        ground.memory.file_io.write(ground.f, index * PAGE, page_bytes(index, 1))


def writepage(ground, error=0):
    """A ->writepage that only notes what it is handed."""

    def write(page, _wbc):
        ground.written.append(page.word_d)
        if error == AOP_WRITEPAGE_ACTIVATE:
            return error
        ground.filemap.unlock_page(page)
        return error

    return write


def test_dirty_pages_are_written_in_order_and_the_clean_ones_are_not(ground):
    dirty(ground, 7, 3, 30)
    ground.memory.file_io.read(ground.f, 0, 6 * PAGE)
    wbc = WritebackControl(10)
    assert ground.writers.write_cache_pages(ground.mapping, wbc, writepage(ground)) == 0
    assert ground.written == [3, 7, 30]
    assert wbc.nr_to_write == 7
    assert ground.vmstat.nr_dirty == 0


def test_a_range_limits_the_walk(ground):
    dirty(ground, 1, 5, 6, 9)
    wbc = WritebackControl(10, range_start=5 * PAGE, range_end=8 * PAGE - 1)
    ground.writers.write_cache_pages(ground.mapping, wbc, writepage(ground))
    assert ground.written == [5, 6]


def test_a_cyclic_walk_goes_on_where_the_last_one_stopped_and_begins_again_when_nothing_is_left(ground):
    dirty(ground, *range(30))
    wbc = WritebackControl(10, range_cyclic=True)
    ground.writers.write_cache_pages(ground.mapping, wbc, writepage(ground))
    assert ground.written == list(range(14))  # whole batches
    assert ground.mapping.writeback_index == 14
    dirty(ground, 2)
    ground.written.clear()
    ground.writers.write_cache_pages(ground.mapping, WritebackControl(100, range_cyclic=True), writepage(ground))
    assert ground.written == list(range(14, 30))
    ground.written.clear()
    ground.writers.write_cache_pages(ground.mapping, WritebackControl(100, range_cyclic=True), writepage(ground))
    assert ground.written == [2]


def test_who_may_not_wait_passes_over_a_page_under_writeback(ground):
    dirty(ground, 0)
    ground.writers.filemap_fdatawrite(ground.mapping)
    dirty(ground, 0)
    wbc = WritebackControl(10)
    ground.writers.write_cache_pages(ground.mapping, wbc, writepage(ground))
    assert not ground.written
    assert ground.vmstat.nr_writeback == 1


def test_who_syncs_waits_for_the_write_and_writes_again(ground):
    dirty(ground, 0)
    ground.writers.filemap_fdatawrite(ground.mapping)
    dirty(ground, 0)
    ground.writers.write_cache_pages(ground.mapping, WritebackControl(10, sync_mode=WB_SYNC_ALL), writepage(ground))
    assert ground.written == [0]
    assert ground.vmstat.nr_writeback == 0


def test_a_full_queue_stops_who_is_not_to_block(ground):
    dirty(ground, 0)
    ground.fs.bdi.set_congested(WRITE)
    wbc = WritebackControl(10, nonblocking=True)
    assert ground.writers.write_cache_pages(ground.mapping, wbc, writepage(ground)) == 0
    assert wbc.encountered_congestion
    assert not ground.written
    ground.fs.bdi.clear_congested(WRITE)


def test_a_queue_that_fills_up_stops_the_walk_after_the_batch(ground):
    dirty(ground, *range(30))
    inner = writepage(ground)

    def write(page, wbc):
        ground.fs.bdi.set_congested(WRITE)
        return inner(page, wbc)

    wbc = WritebackControl(100, nonblocking=True)
    ground.writers.write_cache_pages(ground.mapping, wbc, write)
    assert ground.written == list(range(14))
    assert wbc.encountered_congestion
    ground.fs.bdi.clear_congested(WRITE)


def test_an_error_ends_the_walk_after_the_batch(ground):
    dirty(ground, *range(30))
    assert ground.writers.write_cache_pages(ground.mapping, WritebackControl(100), writepage(ground, -EIO)) == -EIO
    assert len(ground.written) == 14


def test_a_file_system_that_wants_the_page_to_stay_has_it_unlocked(ground):
    dirty(ground, 0)
    write = writepage(ground, AOP_WRITEPAGE_ACTIVATE)
    assert ground.writers.write_cache_pages(ground.mapping, WritebackControl(10), write) == 0
    assert not ground.cached(ground.f, 0).flags & PG_locked


def test_a_page_that_was_truncated_meanwhile_is_left_alone(ground):
    dirty(ground, 0)
    page = ground.cached(ground.f, 0)
    ground.filemap.lock_page(page)

    def truncate():
        ground.filemap.unlock_page(page)
        ground.fs.truncate("f", 0)

    ground.sched.spawn("truncate", truncate)
    task = ground.sched.spawn("writer", lambda: ground.writers.generic_writepages(ground.mapping, WritebackControl(10)))
    ground.run(task)
    assert ground.vmstat.nr_dirty == ground.vmstat.nr_writeback == 0


def test_nothing_to_write_is_written_for_nobody(ground):
    dirty(ground, 0)
    assert ground.writers.do_writepages(ground.mapping, WritebackControl(0)) == 0
    assert ground.cached(ground.f, 0).flags & PG_dirty


def test_a_device_without_writeback_is_not_synced(ground):
    dirty(ground, 0)
    ground.fs.bdi.capabilities |= BDI_CAP_NO_WRITEBACK
    assert ground.writers.filemap_fdatawrite(ground.mapping) == 0
    assert ground.cached(ground.f, 0).flags & PG_dirty
    ground.fs.bdi.capabilities = 0


def test_a_failed_write_is_told_once(ground):
    dirty(ground, 0)
    ground.disk.fail(0, 10**6)
    assert ground.memory.file_io.fsync(ground.f) == -EIO
    assert ground.memory.file_io.fsync(ground.f) == 0


def test_both_kinds_of_failure_are_told(ground):
    ground.mapping.set_error(-ENOSPC)
    assert ground.writers.filemap_fdatawait(ground.mapping) == -ENOSPC
    ground.mapping.set_error(-ENOSPC)
    ground.mapping.set_error(-EIO)
    assert ground.writers.filemap_fdatawait(ground.mapping) == -EIO
    assert ground.mapping.flags == 0
