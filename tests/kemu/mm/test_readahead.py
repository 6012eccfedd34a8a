"""Reading before somebody asks (mm/readahead.py)."""

from __future__ import annotations

import pytest

from file_ground import PAGE, file_ground, page_bytes
from kemu.mm.backing_dev import READ


@pytest.fixture
def ground():
    with file_ground() as g:
        g.f = g.file(pages=100)
        yield g


def cached(ground):
    return [i for i in range(100) if ground.cached(ground.f, i) is not None]


def read(ground, index, pages=1):
    data = ground.memory.file_io.read(ground.f, index * PAGE, pages * PAGE)
    assert data == b"".join(page_bytes(i) for i in range(index, index + pages))


def test_the_window_of_a_sequential_reader_doubles_at_each_miss(ground):
    sizes = []
    for i in range(100):
        before = len(cached(ground))
        read(ground, i)
        if len(cached(ground)) > before:
            sizes.append(len(cached(ground)) - before)
    assert sizes == [4, 8, 16, 32, 32, 8]


def test_who_reads_here_and_there_gets_his_page_only(ground):
    for index in (50, 10, 70):
        read(ground, index)
    assert cached(ground) == [10, 50, 70]


def test_a_device_without_a_window_reads_page_by_page(ground):
    ground.fs.bdi.ra_pages = 0
    read(ground, 0)
    read(ground, 1)
    assert cached(ground) == [0, 1]


def test_a_congested_device_is_left_alone(ground):
    ground.fs.bdi.set_congested(READ)
    read(ground, 0)
    assert cached(ground) == [0]
    ground.fs.bdi.clear_congested(READ)


def test_what_is_cached_is_not_read_again(ground):
    read(ground, 2)
    assert ground.memory.readahead.do_page_cache_readahead(ground.f.f_mapping, ground.f, 0, 5) == 4


def test_nothing_is_read_behind_the_end(ground):
    assert ground.memory.readahead.do_page_cache_readahead(ground.f.f_mapping, ground.f, 98, 10) == 2


def test_no_memory_means_fewer_pages(ground):
    pages = [ground.machine.page_alloc.alloc_page(0x10) for _ in range(2)]
    given = list(pages)
    ground.machine.page_alloc.alloc_page, real = lambda _gfp: given.pop() if given else None, ground.machine.page_alloc.alloc_page
    assert ground.memory.readahead.do_page_cache_readahead(ground.f.f_mapping, ground.f, 0, 10) == 2
    ground.machine.page_alloc.alloc_page = real


def test_a_file_system_without_readpages_is_asked_page_by_page(ground):
    ground.fs.readpages = None
    read(ground, 0)
    assert cached(ground) == [0, 1, 2, 3]
    del ground.fs.readpages


def test_a_window_is_no_more_than_half_of_what_is_free_or_inactive(ground, monkeypatch):
    monkeypatch.setattr(ground.machine.page_alloc, "nr_free_pages", lambda: 20)
    ground.vmstat.nr_inactive, inactive = 0, ground.vmstat.nr_inactive
    limit = ground.memory.readahead._limit(ground.f.f_mapping)
    ground.vmstat.nr_inactive = inactive
    assert limit == 10


def test_a_file_whose_faults_mostly_miss_is_not_read_around(ground):
    file = ground.f
    file.mmap_miss, file.mmap_hit = 100, 0
    ground.memory.readahead.around(file.f_mapping, file, 50)
    assert cached(ground) == []
    file.mmap_hit = 1
    file.mmap_miss = 100
    ground.memory.readahead.around(file.f_mapping, file, 50)
    assert len(cached(ground)) == 32


def test_faults_are_counted_as_hits_and_misses(ground):
    ground.memory.mm_alloc(ground.task)
    at = ground.memory.mmap(ground.task, ground.f, 100)
    for index in (50, 51, 52):
        ground.memory.read_page(ground.task, at + index)
    assert (ground.f.mmap_miss, ground.f.mmap_hit) == (1, 2)
