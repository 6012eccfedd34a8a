"""The block layer against a dictionary: every bio ends once, and what ended well is on the disk."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from block_ground import MS, PAGE, SECTORS, block_ground
from kemu.kernel.errno import EIO

step = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 30)),
    st.tuples(st.just("read"), st.integers(0, 30)),
    st.tuples(st.just("wait"), st.integers(0, 6)),
    st.tuples(st.sampled_from(["stall", "resume", "unplug", "heal"]), st.just(0)),
    st.tuples(st.just("fail"), st.integers(0, 30)),
    st.tuples(st.just("late"), st.integers(0, 4)),
)


class Model:
    """What should be on the disk; pages that are under way are left alone."""

    def __init__(self, ground) -> None:
        self.ground = ground
        self.blocks: dict[int, bytes] = {}
        self.busy: set[int] = set()
        self.ends = 0
        self.submitted = 0

    def submit(self, kind, number):
        if number in self.busy:
            return
        self.busy.add(number)
        self.submitted += 1
        page = self.ground.page(bytes([self.submitted % 251]))
        bio = self.ground.bio(SECTORS * number, page)
        bio.bi_private = (kind, number, page)
        bio.bi_end_io = self.ended
        self.ground.bios.submit_bio(kind == "write", bio)

    def ended(self, bio, error):
        kind, number, page = bio.bi_private
        assert number in self.busy and error in (0, -EIO)
        self.busy.remove(number)
        self.ends += 1
        if not error and kind == "write":
            self.blocks[number] = page.contents
        elif not error:
            assert page.contents == self.blocks.get(number, bytes(PAGE))
        self.ground.bios.bio_put(bio)
        self.ground.machine.page_alloc.put_page(page)


@given(st.lists(step, max_size=60), st.sampled_from([1, 2]))
@settings(max_examples=25, deadline=None)
def test_every_bio_ends_once_and_what_ended_well_is_there(steps, cpus):
    with block_ground(cpus=cpus) as ground:
        model, disk = Model(ground), ground.disk
        for kind, number in steps:
            if kind in ("write", "read"):
                model.submit(kind, number)
            elif kind == "wait":
                ground.settle(number)
            elif kind == "fail":
                disk.fail(SECTORS * number + 1, 1)
            elif kind == "late":
                disk.late_ns = number * MS
            else:
                getattr(disk, kind)()
            ground.bios.check()
        disk.resume()
        ground.settle()
        assert model.ends == model.submitted and not model.busy
        assert disk.blocks == model.blocks
        assert disk.queue.count == [0, 0] and ground.bios.in_flight == 0
