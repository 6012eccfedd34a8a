"""The shadow (mm/shadow.py)."""

from __future__ import annotations

import hashlib

import pytest

from kemu.mm.page import ZERO_PAGE
from kemu.mm.shadow import Digest
from swap_ground import page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        g.area, g.disk = g.disk_area(100)
        g.swapfile.swapon(g.area)
        g.mm = g.process(16)
        yield g


def read_disk(ground):
    return lambda si, offset: ground.disk.blocks.get(si.map_swap_page(offset))


def test_what_was_written_is_what_is_expected(ground):
    ground.shadow.record(1, 5, b"x")
    assert ground.shadow.verify(1, 5, b"x", "here")
    assert ground.judge.outcome is None


def test_what_was_never_written_is_zeros(ground):
    assert ground.shadow.verify(1, 5, ZERO_PAGE, "here")


@pytest.mark.parametrize(("found", "words"), [(None, "nothing"), (ZERO_PAGE, "zeros"), (b"y", "other bytes")])
def test_a_difference_is_lost_data_once(ground, found, words):
    ground.shadow.record(1, 5, b"x")
    assert not ground.shadow.verify(1, 5, found, "here")
    assert words in ground.judge.reason
    assert ground.vmstat.lost_pages == 1
    ground.shadow.verify(1, 5, found, "here")
    assert ground.vmstat.lost_pages <= 2
    assert ground.judge.outcome == "data_loss"


def test_the_audit_compares_resident_cached_and_swapped_pages(ground):
    for vpn in range(6):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
    for vpn in range(4):
        ground.swap_out(vpn)
    page = ground.swap_state.read_swap_cache_async(ground.mm.ptes[3].entry)
    ground.filemap.wait_on_page_locked(page)
    assert ground.memory.audit(read_disk(ground)) == (6, 0)
    del ground.disk.blocks[ground.mm.ptes[3].entry]
    assert ground.memory.audit(read_disk(ground)) == (6, 0), "the cache has it"
    ground.disk.blocks[ground.mm.ptes[0].entry] = ZERO_PAGE
    assert ground.memory.audit(read_disk(ground)) == (6, 1)
    assert "entry" in ground.judge.reason
    ground.lru.put_page(page)


def test_a_page_that_is_nowhere_is_found_by_the_audit(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    entry = ground.swap_out(0)
    del ground.mm.ptes[0]
    assert ground.memory.audit(read_disk(ground)) == (1, 1)
    assert entry


def test_a_page_that_comes_back_wrong_names_slot_and_task(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    entry = ground.swap_out(0)
    ground.disk.blocks[entry] = page_bytes(7)
    assert ground.memory.read_page(ground.task, 0) == page_bytes(7)
    assert f"swap-in of entry {entry:#x} by init:1" in ground.judge.reason
    assert ground.vmstat.lost_pages == 1


def test_who_leaves_is_forgotten(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.memory.exit_mmap(ground.task)
    assert ground.shadow.pages == {}


def test_a_page_known_by_its_sha256_alone_is_compared_too(ground):
    ground.shadow.of(1)[5] = Digest(hashlib.sha256(b"x").digest())
    assert ground.shadow.verify(1, 5, b"x", "here")
    assert not ground.shadow.verify(1, 5, b"y", "here")
    assert ground.judge.outcome == "data_loss"


def test_writing_such_a_page_makes_its_bytes_known(ground):
    ground.shadow.of(1)[5] = Digest(hashlib.sha256(b"x").digest())
    ground.shadow.record(1, 5, b"y")
    assert ground.shadow.of(1)[5] == b"y"


def test_the_audit_reads_the_area_for_a_page_known_by_its_sha256(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    ground.shadow.of(ground.mm.mm_id)[0] = Digest(hashlib.sha256(page_bytes(0)).digest())
    assert ground.memory.audit(read_disk(ground)) == (1, 0)
    ground.disk.blocks[ground.mm.ptes[0].entry] = page_bytes(1)
    assert ground.memory.audit(read_disk(ground)) == (1, 1)
