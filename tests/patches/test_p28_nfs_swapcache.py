"""Patch 28: the NFS client looks at page_file_mapping() and page_file_index(), not at page->mapping and page->index."""

from __future__ import annotations

import random

import pytest

from kemu.errors import KernelBug
from kemu.mm.page import Page
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
