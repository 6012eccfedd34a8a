"""Patch 28: the NFS client looks at page_file_mapping() and page_file_index(), not at page->mapping and page->index."""

from __future__ import annotations

import random

import pytest

from kemu.errors import KernelBug
from kemu.mm.page import Page, PG_swapcache
from kemu.mm.swap_header import read_header
from nfs_ground import PAGE, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.file = g.swapon(300)
        g.process(128)
        yield g
        g.check()


def noted(ground):
    """Note offset and count of every WRITE and READ."""
    client = ground.mount.client
    init = client.rpc_init_task
    seen = []

    def note(flags, proc, argp, *rest):
        task = init(flags, proc, argp, *rest)
        if proc.name in {"READ", "WRITE"}:
            seen.append((proc.name, argp.offset, argp.count))
        return task

    client.rpc_init_task = note
    return seen


def test_off_the_first_swap_page_is_an_oops():
    with mounted(patches="all,-28") as ground:
        ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        with pytest.raises(KernelBug, match="mapping->host of an anonymous page"):
            ground.pageout(0)


def test_slot_k_is_written_at_4096_k_and_read_from_there(ground):
    seen = noted(ground)
    slots = []
    for vpn in range(30):
        ground.write(vpn, page_bytes(vpn))
        slots.append(ground.swap_out(vpn))
    assert seen == [("WRITE", slot * PAGE, PAGE) for slot in slots]
    del seen[:]
    assert ground.read(17) == page_bytes(17)
    assert ("READ", slots[17] * PAGE, PAGE) in seen
    assert all(offset % PAGE == 0 and offset and count == PAGE for _, offset, count in seen)


def test_random_pages_come_back_as_they_went(ground):
    rng = random.Random(5)
    model = {}
    for step in range(120):
        vpn = rng.randrange(40)
        if vpn in model and rng.random() < 0.5:
            assert ground.read(vpn) == model[vpn]
        else:
            model[vpn] = page_bytes(vpn, step)
            ground.write(vpn, model[vpn])
        if rng.random() < 0.6 and isinstance(ground.sched.current.mm.ptes[vpn], Page):
            ground.swap_out(vpn)
    assert {vpn: ground.read(vpn) for vpn in model} == model


def test_the_file_never_grows(ground):
    size = ground.file.inode.size
    for vpn in range(60):
        ground.write(vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    assert ground.file.inode.size == size == len(ground.file_bytes("swap"))


def test_two_areas_get_their_own_pages(ground):
    second = ground.swapon(300, "swap2")
    for vpn in range(40):
        ground.write(vpn, page_bytes(vpn))
    ground.machine.swapfile.areas[0].prio = ground.machine.swapfile.areas[1].prio = 5
    entries = [ground.swap_out(vpn) for vpn in range(40)]
    for vpn, entry in enumerate(entries):
        area = "swap2" if entry >> 59 else "swap"
        slot = entry & (1 << 59) - 1
        assert ground.file_bytes(area)[slot * PAGE : (slot + 1) * PAGE] == page_bytes(vpn)
    assert second.inode.size == 300 * PAGE


def calls_of_ordinary_files(patches):
    """Do everything that ordinary files can do; return all calls as they go out, and what the server has in the end."""
    with mounted(patches=patches) as ground:
        client = ground.mount.client
        init = client.rpc_init_task
        seen = []

        def note(flags, proc, argp, *rest):
            head, pages, tail = proc.encode(argp)
            seen.append((ground.sched.now, proc.name, flags, head, [(page.pfn, *part) for page, *part in pages or ()], tail))
            return init(flags, proc, argp, *rest)

        client.rpc_init_task = note
        mount, file_io = ground.mount, ground.machine.memory.file_io
        nfsi = mount.create("f")
        file = mount.open("f")
        file_io.write(file, 100, b"".join(page_bytes(i) for i in range(30)))
        file_io.fsync(file)
        others = ground.nfsd.server.tree
        others.write(others.lookup_path("/export/f"), 7 * PAGE, b"others", True)
        ground.run_for(10**11)
        file_io.read(file, 0, 31 * PAGE)
        ground.process()
        at = ground.machine.memory.mmap(ground.sched.current, file, 8)
        for i in range(8):
            ground.write(at + i, page_bytes(i, 9))
        file_io.fsync(file)
        mount.setattr(nfsi, size=5 * PAGE + 1)
        assert ground.machine.memory.munmap(ground.sched.current, at, 8) == 0
        mount.remove("f")
        mount.close(file)
        ground.wait_for_calls()
        ground.check()
        return seen


def test_traffic_of_ordinary_files_is_identical_with_and_without():
    with_patch = calls_of_ordinary_files("all")
    assert with_patch == calls_of_ordinary_files("all,-28")
    assert {"READ", "WRITE", "COMMIT", "GETATTR", "RENAME", "REMOVE"} <= {call[1] for call in with_patch}


@pytest.mark.parametrize("patches", ["all", "all,-28"])
def test_ordinary_files_are_served_alike(patches):
    with mounted(patches=patches) as ground:
        seen = noted(ground)
        ground.mount.create("f")
        file = ground.mount.open("f")
        ground.mount.write_buffered(file, 10, page_bytes(1) + page_bytes(2))
        ground.mount.fsync(file)
        assert seen == [("WRITE", 10, 2 * PAGE)]
        assert ground.file_bytes("f") == bytes(10) + page_bytes(1) + page_bytes(2)


def test_the_mounts_writeback_count_is_balanced(ground):
    for vpn in range(20):
        ground.write(vpn, page_bytes(vpn))
        ground.pageout(vpn)
    ground.wait_for_calls()
    assert ground.mount.server.writeback == 0 == ground.machine.vmstat.nr_writeback


# -- traps


def test_the_last_page_of_an_odd_file_is_shorter(ground):
    """A slot in the middle is 4096 bytes whatever the process's own index says; the last page is as long as the file goes."""
    inodes = ground.mount.ops.inodes
    ground.write(0, page_bytes(0))
    page = ground.pageout(0)
    assert page.flags & PG_swapcache
    slot = page.private & ((1 << 59) - 1)
    inode = ground.file.inode
    size, lengths = inode.size, []
    for inode.size in ((slot + 2) * PAGE, slot * PAGE + 10, slot * PAGE):
        lengths.append(inodes.nfs_page_length(page))
    inode.size = size
    assert lengths == [PAGE, 10, 0]
    ground.wait_for_calls()


def test_a_page_of_the_cache_is_itself_whatever_is_swapped(ground):
    inodes = ground.mount.ops.inodes
    header = ground.file.f_mapping.page_tree.lookup(0)
    assert inodes.page_mapping(header) is ground.file.f_mapping
    assert inodes.page_index(header) == 0


def test_the_index_of_the_process_decides_nothing(ground):
    seen = noted(ground)
    for vpn in (100, 3, 77):
        ground.write(vpn, page_bytes(vpn))
        assert ground.swap_out(vpn) * PAGE == seen[-1][1]
    assert len({offset for _, offset, _ in seen}) == 3
    assert [ground.read(vpn) for vpn in (77, 100, 3)] == [page_bytes(vpn) for vpn in (77, 100, 3)]


def test_the_header_is_never_written(ground):
    for vpn in range(100):
        ground.write(vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    assert read_header(ground.file_bytes("swap")[:PAGE]) == (299, ())


def test_methods_of_dropping_find_the_file_of_a_swap_page(ground):
    ops = ground.mount.ops
    ground.write(0, page_bytes(0))
    page = ground.pageout(0)
    ground.machine.filemap.lock_page(page)
    assert ops.launder_page(page) == 0, "waits for its WRITE"
    assert ground.file.private_data.nfsi.npages == 0
    ops.invalidatepage(page, 0)
    assert not ops.releasepage(page, 0)
    ground.machine.filemap.unlock_page(page)


def test_off_reading_a_swap_page_is_an_oops_too():
    with mounted(patches="all,-28") as ground:
        ground.file = ground.swapon()
        ground.process()
        ground.write(0, page_bytes(0))
        page = ground.sched.current.mm.ptes[0]
        with pytest.raises(KernelBug, match="mapping->host of an anonymous page"):
            ground.mount.ops.readpage(ground.file, page)


def test_off_the_process_index_would_be_the_place_in_the_file():
    with mounted(patches="all,-28") as ground:
        ground.swapon()
        ground.process()
        ground.write(5, page_bytes(5))
        page = ground.sched.current.mm.ptes[5]
        ground.machine.filemap.lock_page(page)
        assert ground.machine.swap_state.add_to_swap(page)
        assert ground.mount.ops.inodes.page_index(page) == page.word_d == 5
        assert page.private == 1, "its slot: with the patch it would go to 4096, not to 5 * 4096"
