"""Areas of processes (mm/mmap.py)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from file_ground import file_ground, page_bytes
from kemu.kernel.errno import EINVAL, ENODEV, ENOMEM
from kemu.mm.mmap import MMAP_BASE
from kemu.mm.pte import FilePte
from kemu.mm.vm_fault import VM_FAULT_SIGBUS, VM_FAULT_SIGSEGV


@pytest.fixture
def ground():
    with file_ground() as g:
        g.process(8)
        yield g


def test_a_mapped_file_is_read_page_by_page(ground):
    at = ground.mmap(ground.file(pages=20))
    assert at == MMAP_BASE
    assert [ground.load(at + i) for i in (0, 19, 7)] == [page_bytes(0), page_bytes(19), page_bytes(7)]
    ground.check()


def test_an_offset_maps_the_middle_of_a_file(ground):
    at = ground.mmap(ground.file(pages=20), pages=4, pgoff=10)
    assert ground.load(at + 1) == page_bytes(11)


def test_beyond_the_area_there_is_nothing(ground):
    at = ground.mmap(ground.file(pages=4))
    assert ground.load(at + 4) is None
    assert ground.memory.last_error == VM_FAULT_SIGSEGV


def test_beyond_the_end_of_the_file_is_sigbus(ground):
    at = ground.mmap(ground.file(pages=4), pages=8)
    assert ground.store(at + 4, page_bytes(4)) == VM_FAULT_SIGBUS
    assert ground.load(at + 3) == page_bytes(3)


def test_two_mappings_do_not_overlap_unless_one_says_where(ground):
    file = ground.file(pages=4)
    first, second = ground.mmap(file), ground.mmap(file)
    assert second == first + 4
    other = ground.file("g", pages=4, fill=False)
    assert ground.mmap(other, vpn=first + 2) == first + 2
    assert [(vma.start, vma.pages, vma.pgoff) for vma in ground.task.mm.vmas] == [
        (first, 2, 0),
        (first + 2, 4, 0),
        (first + 6, 2, 2),
    ]
    assert ground.task.mm.map_pages == 8
    assert ground.load(first + 7) == page_bytes(3)


def test_the_heap_and_a_mapping_do_not_meet(ground):
    file = ground.file(pages=4)
    assert ground.memory.mmap(ground.task, file, 4, 0, 4) == -ENOMEM
    assert ground.mmap(file, vpn=8) == 8
    assert ground.memory.do_brk(ground.task, 1) == -ENOMEM
    assert ground.store(7, page_bytes(7)) == 0
    assert ground.load(8) == page_bytes(0)


def test_unmapping_the_middle_leaves_both_sides(ground):
    at = ground.mmap(ground.file(pages=10))
    for i in range(10):
        ground.load(at + i)
    assert ground.memory.munmap(ground.task, at + 4, 2) == 0
    assert [(vma.start - at, vma.pages, vma.pgoff) for vma in ground.task.mm.vmas] == [(0, 4, 0), (6, 4, 6)]
    assert ground.load(at + 5) is None
    assert ground.load(at + 6) == page_bytes(6)
    assert ground.task.mm.file_rss == 8
    ground.check()


def test_a_mapping_keeps_its_file_open_and_the_last_one_releases_it(ground):
    released = []
    file = ground.file(pages=10)
    ground.fs.release = released.append
    at = ground.mmap(file)
    ground.fs.close(file)
    ground.memory.munmap(ground.task, at + 4, 2)
    assert not released
    ground.memory.munmap(ground.task, at, 10)
    assert released == [file]


def test_what_was_stored_outlives_the_mapping(ground):
    file = ground.file(pages=4)
    at = ground.mmap(file)
    ground.store(at + 1, page_bytes(1, 5))
    ground.memory.munmap(ground.task, at, 4)
    assert ground.memory.file_io.read(file, 4096, 4096) == page_bytes(1, 5)
    assert ground.vmstat.nr_dirty == 1
    assert ground.vmstat.nr_file_mapped == 0


def test_msync_brings_stores_to_the_disk(ground):
    file = ground.file(pages=4)
    at = ground.mmap(file)
    ground.store(at + 1, page_bytes(1, 5))
    assert ground.memory.msync(ground.task, at, 4) == 0
    assert ground.on_disk(file, 1) == page_bytes(1, 5)
    assert ground.vmstat.nr_dirty == 0


def test_msync_of_a_hole_in_the_address_space_says_so_and_syncs_the_rest(ground):
    file = ground.file(pages=4)
    at = ground.mmap(file)
    ground.store(at + 1, page_bytes(1, 5))
    assert ground.memory.msync(ground.task, at, 5) == -ENOMEM
    assert ground.on_disk(file, 1) == page_bytes(1, 5)


@pytest.mark.parametrize(("pages", "pgoff", "vpn"), [(0, 0, None), (-1, 0, None), (1, -1, None), (1, 0, -5)])
def test_nonsense_is_refused(ground, pages, pgoff, vpn):
    assert ground.memory.mmap(ground.task, ground.file(), pages, pgoff, vpn) == -EINVAL
    assert not ground.task.mm.vmas


@pytest.mark.parametrize(("vpn", "pages"), [(0, 0), (-1, 3)])
def test_nonsense_is_not_unmapped(ground, vpn, pages):
    assert ground.memory.munmap(ground.task, vpn, pages) == -EINVAL


def test_a_device_without_file_operations_cannot_be_mapped(ground):
    assert ground.memory.mmap(ground.task, ground.disk.open(), 1) == -ENODEV


def test_a_file_system_may_refuse_and_nothing_is_promised(ground):
    ground.fs.mmap = lambda _file: -ENODEV
    before = ground.memory.overcommit.vm_committed_space
    assert ground.memory.mmap(ground.task, ground.file(), 4, shared=False) == -ENODEV
    assert ground.memory.overcommit.vm_committed_space == before


def test_private_memory_is_promised_and_taken_back(ground):
    before = ground.memory.overcommit.vm_committed_space
    at = ground.mmap(ground.file(pages=6), shared=False)
    assert ground.memory.overcommit.vm_committed_space == before + 6
    ground.memory.munmap(ground.task, at + 1, 2)
    assert ground.memory.overcommit.vm_committed_space == before + 4


def test_a_shared_mapping_is_its_files_memory(ground):
    before = ground.memory.overcommit.vm_committed_space
    ground.mmap(ground.file(pages=6))
    assert ground.memory.overcommit.vm_committed_space == before


def test_a_private_store_is_the_processs_own(ground):
    file = ground.file(pages=4)
    shared, private = ground.mmap(file), ground.mmap(file, shared=False)
    assert ground.load(private + 1) == page_bytes(1)
    ground.store(private + 1, page_bytes(1, 9))
    ground.store(private + 2, page_bytes(2, 9))  # without a read before
    assert (ground.load(private + 1), ground.load(private + 2)) == (page_bytes(1, 9), page_bytes(2, 9))
    assert (ground.load(shared + 1), ground.load(shared + 2)) == (page_bytes(1), page_bytes(2))
    assert ground.vmstat.nr_anon_pages == 2
    assert ground.vmstat.nr_dirty == 0
    ground.check()


def test_an_unstored_private_page_follows_its_file(ground):
    file = ground.file(pages=4)
    private = ground.mmap(file, shared=False)
    ground.load(private)
    ground.memory.file_io.write(file, 0, page_bytes(0, 3))
    assert ground.load(private) == page_bytes(0, 3)


def test_unmapping_a_private_copy_frees_it(ground):
    private = ground.mmap(ground.file(pages=4), shared=False)
    ground.store(private, page_bytes(0, 9))
    ground.memory.munmap(ground.task, private, 4)
    assert ground.vmstat.nr_anon_pages == 0
    assert not ground.task.mm.ptes


def test_two_processes_see_each_others_stores(ground):
    file = ground.file(pages=4)
    at = ground.mmap(file)
    other = ground.sched.spawn("other", lambda: None)
    ground.process(task=other)
    there = ground.mmap(file, task=other)
    ground.store(at + 2, page_bytes(2, 1))
    assert ground.load(there + 2, task=other) == page_bytes(2, 1)
    page = ground.cached(file, 2)
    assert page.mapcount == 2
    assert ground.vmstat.nr_file_mapped == 1
    assert all(isinstance(mm.ptes[at + 2], FilePte) for mm in ground.memory.mms.values())
    ground.check()


def test_a_process_that_leaves_takes_its_entries_with_it(ground):
    file = ground.file(pages=4)
    at = ground.mmap(file)
    ground.store(at, page_bytes(0, 1))
    ground.memory.exit_mmap(ground.task)
    assert (ground.vmstat.nr_file_mapped, ground.vmstat.nr_file_pages) == (0, 4)
    assert file.f_count == 1
    ground.check()


AREA = st.tuples(st.booleans(), st.integers(0, 24), st.integers(1, 12), st.integers(0, 1), st.integers(0, 5), st.booleans())


@given(st.lists(AREA, max_size=25))
@settings(max_examples=50, deadline=None)
def test_areas_are_what_a_table_of_pages_would_be(steps):
    """mmap() over what is there and munmap() of parts, against one entry for each virtual page."""
    with file_ground(disk_pages=100) as ground:
        mm = ground.process()
        files = [ground.file(name, 20, fill=False) for name in ("one", "two")]
        table = {}
        for unmap, vpn, pages, which, pgoff, shared in steps:
            where = range(vpn, vpn + pages)
            if unmap:
                assert ground.memory.munmap(ground.task, vpn, pages) == 0
                for at in where:
                    table.pop(at, None)
            else:
                assert ground.mmap(files[which], pages, pgoff, vpn, shared=shared) == vpn
                table |= {at: (files[which], pgoff + at - vpn, shared) for at in where}
                ground.store(vpn, page_bytes(pgoff, pages))
            found = {at: (vma.file, vma.index_of(at), vma.shared) for vma in mm.vmas for at in range(vma.start, vma.end)}
            assert found == table
            assert sum(vma.pages for vma in mm.vmas) == mm.map_pages == len(table)
            assert [vma.start for vma in mm.vmas] == sorted(vma.start for vma in mm.vmas)
            assert sum(file.f_count for file in files) == 2 + len(mm.vmas)
            assert sum(len(file.f_mapping.i_mmap) for file in files) == len(mm.vmas)
            assert ground.memory.overcommit.vm_committed_space == sum(not shared for _, _, shared in table.values())
            assert set(mm.ptes) <= set(table)
            ground.check()
