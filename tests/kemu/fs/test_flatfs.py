"""A small file system on a disk (fs/flatfs.py)."""

from __future__ import annotations

import pytest

from file_ground import PAGE, file_ground, page_bytes
from kemu.errors import KernelBug
from kemu.kernel.errno import EEXIST, EFBIG, EINVAL, ENOENT, ENOSPC, ETXTBSY
from kemu.mm.pte import SwapPte


@pytest.fixture
def ground():
    with file_ground(disk_pages=600) as g:
        g.process()
        g.io = g.memory.file_io
        yield g


def test_a_new_file_is_zeros_on_blocks_of_its_own(ground):
    one, two = ground.file("one", 3, fill=False), ground.file("two", 3, fill=False)
    blocks = [ground.fs.bmap(file.f_mapping, i) for file in (one, two) for i in range(3)]
    assert len({*blocks}) == 6
    assert 0 not in blocks
    assert ground.io.read(one, 0, 10**6) == bytes(3 * PAGE)


def test_a_sparse_file_has_no_blocks(ground):
    free = ground.fs.free_blocks
    file = ground.file("s", 100, sparse=True)
    assert ground.fs.free_blocks == free
    assert ground.fs.bmap(file.f_mapping, 5) == 0
    assert ground.io.read(file, 5 * PAGE, PAGE) == bytes(PAGE)


def test_names_are_known_or_not(ground):
    assert ground.fs.open("nobody") == -ENOENT
    ground.file("f")
    assert ground.fs.create("f") == -EEXIST
    assert ground.fs.truncate("g", 0) == ground.fs.unlink("g") == -ENOENT


def test_a_file_larger_than_the_disk_is_refused(ground):
    assert ground.fs.create("big", 601 * PAGE) == -ENOSPC
    assert ground.fs.create("huge", 1 << 50) == -EFBIG
    assert not ground.fs.files


def test_an_unlinked_file_gives_its_blocks_back_clean(ground):
    free = ground.fs.free_blocks
    file = ground.file("f", 10)
    ground.io.write(file, 0, page_bytes(0, 1))
    assert ground.fs.unlink("f") == 0
    assert ground.fs.free_blocks == free
    again = ground.file("g", 10, fill=False)
    assert ground.io.read(again, 0, 10 * PAGE) == bytes(10 * PAGE)
    ground.check()


def test_cutting_in_the_middle_of_a_clean_page_zeros_it_on_the_disk_too(ground):
    file = ground.file("f", 2)
    assert ground.fs.truncate("f", PAGE + 10) == 0
    assert ground.io.fsync(file) == 0
    assert ground.on_disk(file, 1) == page_bytes(1)[:10] + bytes(PAGE - 10)
    assert ground.fs.truncate("f", 2 * PAGE) == 0
    ground.filemap.invalidate_mapping_pages(file.f_mapping)
    assert ground.io.read(file, PAGE, PAGE) == page_bytes(1)[:10] + bytes(PAGE - 10)


def test_neighbours_go_in_one_bio(ground):
    file = ground.file("f", 40, fill=False)
    ground.io.write(file, 0, b"".join(page_bytes(i) for i in range(40)))
    writes = ground.disk.writes
    assert ground.io.fsync(file) == 0
    assert ground.disk.writes == writes + 1
    ground.filemap.invalidate_mapping_pages(file.f_mapping)
    reads = ground.disk.reads
    at = ground.mmap(file)
    assert ground.load(at + 20) == page_bytes(20)
    assert ground.disk.reads == reads + 1
    assert file.f_mapping.nrpages == 32


def test_blocks_that_are_not_neighbours_do_not(ground):
    file = ground.file("f", 0)
    for i in (3, 1, 2, 0):
        ground.io.write(file, i * PAGE, page_bytes(i))
    assert [ground.fs.bmap(file.f_mapping, i) for i in range(4)] == [4, 2, 3, 1]
    assert ground.io.fsync(file) == 0
    assert [ground.on_disk(file, i) for i in range(4)] == [page_bytes(i) for i in range(4)]
    ground.filemap.invalidate_mapping_pages(file.f_mapping)
    assert ground.io.read(file, 0, 4 * PAGE) == b"".join(page_bytes(i) for i in range(4))


def test_a_store_behind_the_end_of_the_file_does_not_reach_the_disk(ground):
    file = ground.file("f", 1, size=100, fill=False)
    at = ground.mmap(file)
    ground.store(at, page_bytes(0, 1))
    assert ground.io.fsync(file) == 0
    assert ground.on_disk(file, 0) == page_bytes(0, 1)[:100] + bytes(PAGE - 100)
    assert ground.audit()[1] == 0


def test_a_page_behind_the_end_is_not_written(ground):
    file = ground.file("f", 2)
    ground.io.write(file, PAGE, page_bytes(1, 1))
    file.inode.size = PAGE  # cut while the writer was on its way
    assert ground.io.fsync(file) == 0
    assert ground.on_disk(file, 1) == page_bytes(1)
    file.inode.size = 2 * PAGE
    ground.machine.shadow.forget_file(file.f_mapping)


def test_swap_lies_on_a_file_through_its_block_map(ground):
    file = ground.fs.make_swapfile("swap", 200)
    assert ground.machine.swapfile.swapon(file) == 0
    assert ground.machine.proc.read("/proc/swaps").splitlines()[1].split()[:2] == ["/swap", "file"]
    area = ground.machine.swapfile.areas[0]
    assert area.pages == 198
    assert [block for _, _, block in area.extents] == [ground.fs.bmap(file.f_mapping, 0)]
    ground.memory.do_brk(ground.task, 4)
    ground.store(2, page_bytes(2, 1))
    page = ground.task.mm.ptes[2]
    page.flags &= ~(1 << 32)
    assert ground.reclaim_page(page, tries=4)
    pte = ground.task.mm.ptes[2]
    assert isinstance(pte, SwapPte)
    assert ground.on_disk(file, pte.entry & 0xFFFF) == page_bytes(2, 1)
    assert ground.load(2) == page_bytes(2, 1)
    assert ground.io.write(file, 0, b"x") == ground.fs.truncate("swap", 0) == -ETXTBSY
    assert ground.machine.swapfile.swapoff(file) == 0


def test_a_swap_file_with_holes_is_refused(ground):
    file = ground.fs.make_swapfile("swap", 100)
    ground.fs.maps[file.inode].pop(50)
    assert ground.machine.swapfile.swapon(file) == -EINVAL
    ground.fs.maps[file.inode][50] = 51


def test_check_sees_a_block_with_two_owners(ground):
    one, two = ground.file("one", 2), ground.file("two", 2)
    held = ground.fs.maps[two.inode][0]
    ground.fs.maps[two.inode][0] = ground.fs.maps[one.inode][0]
    with pytest.raises(KernelBug, match="two owners"):
        ground.fs.check()
    ground.fs.maps[two.inode][0] = held
