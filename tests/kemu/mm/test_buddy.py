"""The buddy system: examples, and a state machine that compares it with a set of frames."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from kemu.errors import KernelBug
from kemu.mm.buddy import check_buddies, free_one_page, rmqueue, seed_zone
from kemu.mm.gfp import MAX_ORDER
from kemu.mm.mmzone import zone_layout
from kemu.patches import PatchSet

NONE = PatchSet.none()


def seeded(pages):
    zone = zone_layout(pages << 12, "x86_64", NONE)[0]
    seed_zone(zone)
    return zone


@pytest.mark.parametrize(
    ("pages", "nr_free"),
    [
        (4096, [0] * 10 + [4]),
        (1024, [0] * 10 + [1]),
        (1023, [1] * 10 + [0]),
        (64, [0] * 6 + [1] + [0] * 4),
        (67, [1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
    ],
)
def test_boot_makes_the_largest_blocks(pages, nr_free):
    zone = seeded(pages)
    assert zone.nr_free == nr_free and zone.free_pages == pages
    check_buddies(zone)


def test_a_zone_that_begins_in_the_middle_is_aligned_to_frames_not_to_itself():
    zones = zone_layout((16 << 20) + (1000 << 12), "x86_64", NONE)
    seed_zone(zones[1])
    zones[1].check()
    assert zones[1].nr_free == [0, 0, 0, 1, 0, 1, 1, 1, 1, 1, 0]


def test_a_split_leaves_one_block_of_each_smaller_order():
    zone = seeded(1024)
    assert rmqueue(zone, 0) == 0
    assert zone.nr_free == [1] * 10 + [0] and zone.free_pages == 1023


def test_what_was_split_is_merged_again():
    zone = seeded(1024)
    free_one_page(zone, rmqueue(zone, 0), 0)
    assert zone.nr_free == [0] * 10 + [1]


def test_the_newest_block_is_taken_first():
    zone = seeded(16)
    pages = [rmqueue(zone, 0) for _ in range(16)]
    for pfn in (3, 8, 5):
        free_one_page(zone, pfn, 0)
    assert pages == list(range(16)) and [rmqueue(zone, 0) for _ in range(4)] == [5, 8, 3, None]


def test_two_neighbours_that_are_not_buddies_stay_apart():
    zone = seeded(8)
    for _ in range(8):
        rmqueue(zone, 0)
    free_one_page(zone, 1, 0)
    free_one_page(zone, 2, 0)
    assert zone.nr_free[:2] == [2, 0]


def test_a_block_too_large_is_not_there():
    zone = seeded(8)
    assert rmqueue(zone, 4) is None and zone.free_pages == 8


def test_check_finds_unmerged_buddies():
    zone = seeded(8)
    zone.free_area[3].clear()
    zone.free_area[2] = {0: None, 4: None}
    with pytest.raises(KernelBug, match="both free"):
        check_buddies(zone)


def test_check_finds_a_block_on_two_lists():
    zone = seeded(8)
    zone.free_area[1] = {0: None}
    with pytest.raises(KernelBug, match="orders 1 and 3"):
        check_buddies(zone)


def test_check_finds_overlapping_blocks():
    zone = seeded(8)
    zone.free_area[0] = {3: None}
    with pytest.raises(KernelBug, match="inside"):
        check_buddies(zone)


class Buddies(RuleBasedStateMachine):
    """Take and give blocks of a zone of 200 frames; a set of frames says what must be free."""

    blocks = Bundle("blocks")

    def __init__(self):
        super().__init__()
        self.zone = seeded(200)
        self.free = set(range(200))

    @rule(target=blocks, order=st.integers(0, 6))
    def take(self, order):
        pfn = rmqueue(self.zone, order)
        if pfn is None:
            for start in range(0, 200 - (1 << order) + 1, 1 << order):
                assert not self.free.issuperset(range(start, start + (1 << order)))
            return multiple()
        frames = set(range(pfn, pfn + (1 << order)))
        assert frames <= self.free and pfn % (1 << order) == 0
        self.free -= frames
        return (pfn, order)

    @rule(block=consumes(blocks))
    def give(self, block):
        pfn, order = block
        free_one_page(self.zone, pfn, order)
        self.free |= set(range(pfn, pfn + (1 << order)))

    @rule(block=consumes(blocks))
    def give_one_by_one(self, block):
        pfn, order = block
        for each in range(pfn, pfn + (1 << order)):
            free_one_page(self.zone, each, 0)
            self.free.add(each)

    @invariant()
    def zone_is_sound(self):
        self.zone.check()
        check_buddies(self.zone)
        assert self.zone.free_pages == len(self.free)
        listed = {
            pfn for order in range(MAX_ORDER) for block in self.zone.free_area[order] for pfn in range(block, block + (1 << order))
        }
        assert listed == self.free


TestBuddies = Buddies.TestCase
TestBuddies.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
