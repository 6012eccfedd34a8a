"""The memory of a process as data (mm/mm_image.py): out of one machine and into another."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.errno import EINVAL, ENOMEM
from kemu.mm import mm_image
from kemu.mm.mm_image import MmImage
from kemu.mm.page import ZERO_PAGE
from kemu.mm.pte import SwapPte
from kemu.mm.shadow import Digest
from swap_ground import PAGE, page_bytes, swap_ground

SLOTS = 100
PAGES = 16


def digest(data):
    return hashlib.sha256(data).digest()


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        g.area, g.disk = g.disk_area(SLOTS)
        assert g.swapfile.swapon(g.area) == 0
        g.mm = g.process(PAGES)
        yield g


def fill(ground, written, out=()):
    """Write pages, and push some of them out."""
    for vpn in written:
        assert ground.memory.write_page(ground.task, vpn, page_bytes(vpn)) == 0
    for vpn in out:
        ground.swap_out(vpn)


def take(ground):
    ranks = {}
    for zone in ground.pa.zones:
        for lru in (zone.inactive, zone.active):
            for page in lru:
                ranks[page] = len(ranks)
    return mm_image.take(ground.mm, ground.swap_state, ground.shadow, ranks)


def put(ground, image):
    """Put an image into the empty memory of the caller's task."""
    ground.mm.total_vm = 0
    return mm_image.restore(ground.memory, ground.swapfile, ground.task, image)


# ---- out


def test_resident_pages_are_carried_with_their_contents(ground):
    fill(ground, range(4))
    assert sorted(take(ground).resident) == [(vpn, page_bytes(vpn)) for vpn in range(4)]
    assert take(ground).swapped == []


def test_the_coldest_page_is_carried_first(ground):
    fill(ground, [2, 0, 1])
    ranks = {ground.mm.ptes[vpn]: rank for rank, vpn in enumerate([1, 2, 0])}
    image = mm_image.take(ground.mm, ground.swap_state, ground.shadow, ranks)
    assert [vpn for vpn, _ in image.resident] == [1, 2, 0]


def test_a_page_in_swap_is_its_slot_and_what_it_should_contain(ground):
    fill(ground, range(4), out=[1, 3])
    image = take(ground)
    assert sorted(vpn for vpn, _ in image.resident) == [0, 2]
    assert image.swapped == [(vpn, ground.mm.ptes[vpn].entry, digest(page_bytes(vpn))) for vpn in (1, 3)]


def test_a_clean_page_of_the_swap_cache_stays_in_its_slot(ground):
    fill(ground, range(2), out=[1])
    entry = ground.mm.ptes[1].entry
    page = ground.swap_state.read_swap_cache_async(entry)
    ground.filemap.wait_on_page_locked(page)
    assert ground.swap_state.page_tree.lookup(entry) is page
    assert take(ground).swapped == [(1, entry, digest(page_bytes(1)))]
    ground.lru.put_page(page)


def test_a_page_that_was_taken_over_from_another_boot_keeps_its_digest(ground):
    image = MmImage(2, [], [(0, 9, digest(b"somewhere else"))])
    assert put(ground, image) == 0
    assert take(ground).swapped == image.swapped


def test_what_was_never_touched_is_not_carried(ground):
    fill(ground, [5])
    image = take(ground)
    assert [vpn for vpn, _ in image.resident] == [5]


# ---- in


def test_an_image_comes_back_page_for_page(ground):
    resident = [(vpn, page_bytes(vpn)) for vpn in (4, 0, 2)]
    assert put(ground, MmImage(6, resident)) == 0
    assert [ground.memory.read_page(ground.task, vpn) for vpn in (4, 0, 2)] == [data for _, data in resident]
    assert ground.judge.outcome is None
    ground.check()


def test_a_claimed_slot_is_read_and_compared(ground):
    ground.disk.blocks[9] = page_bytes(1)
    assert put(ground, MmImage(2, [], [(1, 9, digest(page_bytes(1)))])) == 0
    assert ground.memory.read_page(ground.task, 1) == page_bytes(1)
    assert ground.shadow.verified == 1
    assert ground.judge.outcome is None


@pytest.mark.parametrize("there", [ZERO_PAGE, page_bytes(2)])
def test_a_slot_that_holds_something_else_is_lost_data(ground, there):
    ground.disk.blocks[9] = there
    assert put(ground, MmImage(2, [], [(1, 9, digest(page_bytes(1)))])) == 0
    ground.memory.read_page(ground.task, 1)
    assert ground.judge.outcome == "data_loss"


def test_claimed_slots_are_counted_and_freed_with_the_process(ground):
    free = ground.swapfile.nr_swap_pages
    assert put(ground, MmImage(3, [], [(vpn, 20 + vpn, digest(ZERO_PAGE)) for vpn in range(3)])) == 0
    assert ground.swapfile.nr_swap_pages == free - 3
    ground.check()
    ground.memory.exit_mmap(ground.task)
    assert ground.swapfile.nr_swap_pages == free
    ground.swapfile.check()


@pytest.mark.parametrize("entry", [0, SLOTS, SLOTS + 1, 2**24 - 1, 1 << 24, 5 << 24 | 3])
def test_a_slot_that_does_not_exist_is_refused(ground, entry):
    assert put(ground, MmImage(2, [], [(1, entry, digest(ZERO_PAGE))])) == -EINVAL
    assert 1 not in ground.mm.ptes


def test_a_slot_that_is_in_use_is_refused(ground):
    rows = [(0, 9, digest(ZERO_PAGE)), (1, 9, digest(ZERO_PAGE))]
    assert put(ground, MmImage(2, [], rows)) == -EINVAL


def test_a_heap_that_cannot_be_had_is_refused(ground):
    assert put(ground, MmImage(10**9)) == -ENOMEM


def test_more_pages_than_memory_push_the_first_ones_out(ground):
    """Restoring is a load as any other: reclaim works while it goes on."""
    area, _ = ground.disk_area(4000)
    assert ground.swapfile.swapon(area) == 0
    count = 2000  # 6 MiB are 1536 pages
    assert put(ground, MmImage(count, [(vpn, page_bytes(vpn)) for vpn in range(count)])) == 0
    assert any(isinstance(pte, SwapPte) for pte in ground.mm.ptes.values())
    assert ground.memory.read_page(ground.task, 0) == page_bytes(0)
    assert ground.judge.outcome is None


# ---- both


@given(st.lists(st.tuples(st.integers(0, PAGES - 1), st.booleans()), max_size=12))
@settings(max_examples=25, deadline=None)
def test_an_image_that_was_put_in_can_be_taken_again(writes):
    with swap_ground(kswapd=False) as ground:
        area, disk = ground.disk_area(SLOTS)
        ground.swapfile.swapon(area)
        ground.mm = ground.process(PAGES)
        for vpn, out in writes:
            ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
            if out:
                ground.swap_out(vpn)
        first = take(ground)
        blocks = {slot: data for slot, data in disk.blocks.items() if slot}
    with swap_ground(kswapd=False) as ground:
        area, disk = ground.disk_area(SLOTS)
        disk.blocks |= blocks
        ground.swapfile.swapon(area)
        ground.mm = ground.process(0)
        assert put(ground, first) == 0
        again = take(ground)
        assert (sorted(again.resident), again.swapped) == (sorted(first.resident), first.swapped)
        for vpn, _ in writes:
            assert ground.memory.read_page(ground.task, vpn) == page_bytes(vpn)
        assert ground.judge.outcome is None
        ground.check()


def test_a_digest_is_equal_to_the_bytes_it_was_made_of_and_to_nothing_else():
    known = Digest(digest(b"a" * PAGE))
    assert known == b"a" * PAGE
    assert known != b"b" * PAGE
    assert known != digest(b"a" * PAGE)
    assert known != None  # noqa: E711  # what verify() compares with when a page is nowhere
