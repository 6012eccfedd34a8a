"""read(2), write(2), fsync(2), truncate (mm/file_io.py)."""

from __future__ import annotations

import pytest

from file_ground import PAGE, file_ground, page_bytes
from kemu.errors import ConfigError
from kemu.kernel.errno import EIO, ENOMEM, ENOSPC
from kemu.mm.page import PG_dirty, PG_referenced, PG_uptodate


@pytest.fixture
def ground():
    with file_ground(disk_pages=200) as g:
        g.process()
        g.io = g.memory.file_io
        yield g


def test_reading_gives_the_bytes_that_are_there(ground):
    file = ground.file(pages=3)
    everything = b"".join(page_bytes(i) for i in range(3))
    assert ground.io.read(file, 0, 3 * PAGE) == everything
    assert ground.io.read(file, 4000, 200) == everything[4000:4200]
    assert ground.io.read(file, 2 * PAGE + 100, 10**6) == everything[2 * PAGE + 100 :]
    assert ground.io.read(file, 3 * PAGE, 10) == b""


def test_a_page_is_read_once(ground):
    file = ground.file(pages=3)
    ground.io.read(file, 0, 3 * PAGE)
    reads = ground.disk.reads
    ground.io.read(file, 0, 3 * PAGE)
    assert ground.disk.reads == reads


def test_reading_the_same_place_again_is_one_use(ground):
    file = ground.file(pages=3)
    ground.io.read(file, 10, 10)
    ground.cached(file, 0).flags &= ~PG_referenced
    ground.io.read(file, 20, 10)
    assert not ground.cached(file, 0).flags & PG_referenced
    ground.io.read(file, PAGE, 10)
    ground.io.read(file, 30, 10)
    assert ground.cached(file, 0).flags & PG_referenced


def test_a_read_error_is_told_with_what_came_before(ground):
    file = ground.file(pages=3)
    ground.io.read(file, 0, 10)
    ground.fs.truncate("f", 3 * PAGE)
    block = ground.fs.bmap(file.f_mapping, 2)
    ground.machine.filemap.invalidate_mapping_pages(file.f_mapping)
    ground.fs.bdi.ra_pages = 0
    ground.disk.fail(block * 8, 8)
    assert ground.io.read(file, 0, 3 * PAGE) == page_bytes(0) + page_bytes(1)
    assert ground.io.read(file, 2 * PAGE, 10) == -EIO


def test_a_write_of_whole_pages_reads_nothing(ground):
    file = ground.file(pages=3)
    reads = ground.disk.reads
    assert ground.io.write(file, 0, page_bytes(0, 1) + page_bytes(1, 1)) == 2 * PAGE
    assert ground.disk.reads == reads
    assert ground.vmstat.nr_dirty == 2


def test_a_write_of_a_part_keeps_the_rest(ground):
    file = ground.file(pages=3)
    assert ground.io.write(file, PAGE - 2, b"abcd") == 4
    assert ground.io.fsync(file) == 0
    assert ground.on_disk(file, 0) == page_bytes(0)[:-2] + b"ab"
    assert ground.on_disk(file, 1) == b"cd" + page_bytes(1)[2:]


def test_a_write_beyond_the_end_makes_the_file_longer_and_leaves_a_hole(ground):
    file = ground.file(pages=1)
    assert ground.io.write(file, 3 * PAGE + 10, b"end") == 3
    assert file.inode.size == 3 * PAGE + 13
    assert ground.io.read(file, PAGE, 3 * PAGE) == bytes(2 * PAGE + 10) + b"end"
    assert ground.fs.bmap(file.f_mapping, 2) == 0


def test_a_partial_write_that_cannot_read_the_rest_changes_nothing(ground):
    file = ground.file(pages=1)
    ground.disk.fail(0, 10**6)
    assert ground.io.write(file, 5, b"x") == -EIO
    assert not ground.cached(file, 0).flags & (PG_dirty | PG_uptodate)
    ground.disk.heal()
    assert ground.io.read(file, 0, 10) == page_bytes(0)[:10]


def test_a_full_disk_is_told_with_what_was_written_before(ground):
    file = ground.file(pages=1)
    free = ground.fs.free_blocks
    assert ground.io.write(file, PAGE, bytes((free + 3) * PAGE)) == free * PAGE
    assert ground.io.write(file, (free + 1) * PAGE, b"x") == -ENOSPC
    assert ground.io.fsync(file) == 0


def test_no_memory_for_a_page_is_told(ground):
    file = ground.file(pages=1)
    ground.filemap.find_or_create_page = lambda _mapping, _index: None
    assert ground.io.write(file, 0, b"x") == -ENOMEM
    del ground.filemap.find_or_create_page


def test_a_device_is_not_read_and_written_like_this(ground):
    with pytest.raises(ConfigError, match="no file operations"):
        ground.io.read(ground.disk.open(), 0, 10)


def test_a_store_that_finds_no_block_is_lost_and_fsync_says_so(ground):
    file = ground.file(pages=2, sparse=True)
    other = ground.file("other", pages=ground.fs.free_blocks, fill=False)
    at = ground.mmap(file)
    assert ground.store(at, page_bytes(0, 1)) == 0
    assert ground.io.fsync(file) == -ENOSPC
    assert ground.io.fsync(file) == 0
    assert ground.vmstat.nr_dirty == ground.vmstat.nr_writeback == 0
    assert ground.audit()[1] == 1  # what was stored is on no disk
    assert ground.judge.outcome == "data_loss"
    assert other.inode.size


def test_cutting_a_file_drops_pages_and_zeros_the_rest_of_the_last(ground):
    file = ground.file(pages=4)
    ground.io.write(file, 0, page_bytes(0, 1) + page_bytes(1, 1) + page_bytes(2, 1))
    assert ground.fs.truncate("f", PAGE + 100) == 0
    assert ground.vmstat.nr_dirty == 2
    assert ground.fs.truncate("f", 4 * PAGE) == 0
    assert ground.io.read(file, PAGE, 3 * PAGE) == page_bytes(1, 1)[:100] + bytes(3 * PAGE - 100)
    assert ground.io.fsync(file) == 0
    assert ground.on_disk(file, 1) == page_bytes(1, 1)[:100] + bytes(PAGE - 100)
    assert ground.audit()[1] == 0


def test_what_was_written_is_compared_when_it_is_read(ground):
    file = ground.file(pages=2)
    ground.io.write(file, 0, page_bytes(0, 1))
    ground.io.fsync(file)
    ground.filemap.invalidate_mapping_pages(file.f_mapping)
    ground.disk.blocks[ground.fs.bmap(file.f_mapping, 0)] = page_bytes(0)  # the disk forgets
    ground.io.read(file, 0, 10)
    assert ground.judge.outcome == "data_loss"
    assert ground.vmstat.lost_pages == 1
