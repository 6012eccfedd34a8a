"""The page cache of a block device (2.6.23 fs/block_dev.c)."""

from __future__ import annotations

import pytest

from block_ground import PAGE, block_ground
from kemu.kernel.errno import EIO
from kemu.mm.address_space import AS_EIO, WritebackControl
from kemu.mm.page import PG_dirty, PG_error, PG_locked, PG_uptodate, PG_writeback


@pytest.fixture
def ground():
    with block_ground() as g:
        g.mapping = g.disk.open().f_mapping
        g.filemap = g.machine.filemap
        yield g


def test_a_page_of_the_device_is_read_once(ground):
    ground.disk.blocks[3] = b"3" * PAGE
    for _ in range(2):
        page = ground.filemap.read_mapping_page(ground.mapping, 3, None)
        assert page.contents == b"3" * PAGE and page.flags & PG_uptodate
        ground.machine.lru.put_page(page)
    assert ground.disk.reads == 1 and ground.bios.in_flight == 0


def test_a_bad_sector_is_eio(ground):
    ground.disk.fail(24, 8)
    assert ground.filemap.read_mapping_page(ground.mapping, 3, None) == -EIO


def test_a_dirty_page_goes_back(ground):
    page = ground.filemap.read_mapping_page(ground.mapping, 3, None)
    ground.filemap.lock_page(page)
    page.contents = b"w" * PAGE
    assert ground.filemap.set_page_dirty(page)
    ground.filemap.clear_page_dirty_for_io(page)
    assert ground.mapping.a_ops.writepage(page, WritebackControl()) == 0
    assert page.flags & PG_writeback and not page.flags & PG_locked
    ground.filemap.wait_on_page_writeback(page)
    assert ground.disk.blocks[3] == b"w" * PAGE and not page.flags & (PG_dirty | PG_error)
    ground.machine.lru.put_page(page)


def test_a_failed_write_is_remembered_by_the_device(ground):
    page = ground.filemap.read_mapping_page(ground.mapping, 3, None)
    ground.disk.fail(24, 8)
    ground.filemap.lock_page(page)
    ground.mapping.a_ops.writepage(page, WritebackControl())
    ground.filemap.wait_on_page_writeback(page)
    assert page.flags & PG_error and ground.mapping.flags & AS_EIO
    ground.machine.lru.put_page(page)


def test_a_device_is_its_own_map(ground):
    assert ground.mapping.a_ops.bmap(ground.mapping, 7) == 7
