"""A disk: time, contents, faults."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from block_ground import MIB, MS, PAGE, SECTORS, block_ground
from kemu.errors import ConfigError
from kemu.kernel.errno import EIO
from kemu.kernel.softirq import BLOCK_SOFTIRQ
from kemu.machine import Machine, MachineConfig
from kemu.mm.backing_dev import READ, WRITE
from kemu.mm.gfp import GFP_NOIO


@pytest.fixture
def ground():
    with block_ground() as g:
        yield g


def timed(ground, sector, page):
    """Write a page and return how long it took from the unplugging on."""
    ground.write(sector, page)
    done = len(ground.ended)
    began = ground.sched.now
    ground.disk.unplug()
    ground.world.run(until=lambda: len(ground.ended) > done)
    return ground.sched.now - began


# -- time --------------------------------------------------------------------------------------------------------------------------


def test_a_request_that_follows_the_last_one_needs_no_seek(ground):
    page = ground.page()
    assert timed(ground, 800, page) > MS
    assert timed(ground, 808, page) < MS // 10
    assert timed(ground, 800, page) > MS


def test_bytes_take_time(ground):
    slow = ground.machine.add_disk("sdb", MIB, latency_ns=0, bandwidth=PAGE * 100)
    ground.write(0, disk=slow)
    slow.unplug()
    began = ground.sched.now
    ground.world.run(until=lambda: bool(ground.ended))
    assert 10 * MS <= ground.sched.now - began < 11 * MS


def test_one_request_at_a_time(ground):
    page = ground.page()
    for sector in (0, 800, 1600, 2400):
        ground.write(sector, page)
    assert len(ground.disk.queue.in_flight) == 1
    ground.settle()
    assert [sector for sector, _ in ground.ended] == [0, 800, 1600, 2400] and ground.disk.writes == 4


def test_the_end_comes_in_a_softirq_on_the_cpu_of_the_interrupt(ground):
    contexts = []
    bio = ground.bio(0)

    def end(bio, error):
        contexts.append((ground.sched.cpu.id, bool(ground.sched.cpu.preempt_count & 0xFF00)))
        ground.end(bio, error)

    bio.bi_end_io = end
    ground.bios.submit_bio(WRITE, bio)
    ground.settle()
    assert contexts == [(0, True)]
    assert ground.kernel.softirq._vector[BLOCK_SOFTIRQ] is not None


# -- contents ----------------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(ground):
    ground.write(16, ground.page(b"a"))
    ground.settle()
    page = ground.page(b"?")
    ground.read(16, page)
    ground.settle()
    assert page.contents == b"a" * PAGE and ground.disk.blocks == {2: b"a" * PAGE}


def test_contents_are_kept_by_reference(ground):
    page = ground.page(b"a")
    ground.write(0, page)
    ground.settle()
    assert ground.disk.blocks[0] is page.contents


def test_what_was_never_written_is_zeros(ground):
    page = ground.page(b"?")
    ground.read(800, page)
    ground.settle()
    assert page.contents == bytes(PAGE)


def test_the_data_move_at_the_end_not_at_the_begin(ground):
    page = ground.page(b"a")
    ground.write(0, page)
    page.contents = b"b" * PAGE
    ground.settle()
    assert ground.disk.blocks[0] == b"b" * PAGE


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8), st.integers(0, 7)), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_parts_of_pages_go_where_sectors_say(writes):
    with block_ground() as ground:
        model = bytearray(64 * 512)
        for number, (sector, length, offset) in enumerate(writes):
            sectors = min(length, 8 - offset)
            page = ground.page(bytes([number + 1]))
            bio = ground.bios.bio_alloc(GFP_NOIO, 1)
            bio.bi_bdev, bio.bi_sector, bio.bi_end_io = ground.disk, sector, ground.end
            bio.add_page(page, 512 * sectors, 512 * offset)
            ground.bios.submit_bio(WRITE, bio)
            ground.settle(100)
            model[512 * sector : 512 * (sector + sectors)] = bytes([number + 1]) * (512 * sectors)
        page = ground.page(b"?")
        bio = ground.bios.bio_alloc(GFP_NOIO, 1)
        bio.bi_bdev, bio.bi_sector, bio.bi_end_io = ground.disk, 3, ground.end
        bio.add_page(page, 1024, 512)
        ground.bios.submit_bio(READ, bio)
        ground.settle(100)
        assert page.contents == b"?" * 512 + bytes(model[3 * 512 : 5 * 512]) + b"?" * 2560


# -- faults ------------------------------------------------------------------------------------------------------------------------


def test_bad_sectors_fail_the_bios_that_touch_them_and_no_others(ground):
    ground.disk.fail(12, 1)
    for number in range(3):
        ground.write(SECTORS * number, ground.page())
    ground.settle()
    assert ground.disk.writes == 1
    assert ground.ended == [(0, 0), (8, -EIO), (16, 0)]
    assert sorted(ground.disk.blocks) == [0, 2]
    ground.disk.heal()
    ground.write(8, ground.page())
    ground.settle()
    assert ground.ended[-1] == (8, 0)


def test_behind_the_end_is_an_error_at_once(ground):
    last = 16 * MIB // 512
    ground.write(last - SECTORS + 1)
    assert ground.ended == [(last - SECTORS + 1, -EIO)]
    assert "beyond end of device" in ground.kernel.printk.buffer[-1][2]


def test_a_stalled_disk_answers_when_it_is_told_to(ground):
    page = ground.page()
    for sector in (0, 800, 1600, 2400):
        ground.write(sector, page)
    ground.disk.stall()
    ground.settle()
    assert not ground.ended and "does not answer" in str(ground.kernel.judge._explain_link(ground.bios.page_owner(page)))
    ground.disk.resume()
    ground.settle()
    assert len(ground.ended) == 4
    assert ground.bios.page_owner(page) is None


def test_a_stall_that_ends_before_the_disk_is_done_changes_nothing(ground):
    page = ground.page()
    for sector in (0, 800, 1600, 2400):
        ground.write(sector, page)
    ground.disk.stall()
    ground.disk.resume()
    ground.settle()
    assert [sector for sector, _ in ground.ended] == [0, 800, 1600, 2400]


def test_a_disk_that_stalls_while_idle_begins_nothing(ground):
    ground.disk.stall()
    ground.write(0)
    ground.disk.unplug()
    ground.settle()
    assert ground.disk.busy is None and not ground.ended
    ground.disk.resume()
    ground.settle()
    assert ground.ended == [(0, 0)]


def test_a_late_disk_is_late_for_as_long_as_one_says(ground):
    page = ground.page()
    plain = timed(ground, 800, page)
    ground.disk.late_ns = 50 * MS
    assert timed(ground, 800, page) == plain + 50 * MS
    ground.disk.late_ns = 0
    assert timed(ground, 800, page) == plain


def test_a_disk_with_work_is_not_dead(ground):
    assert ground.disk.idle_probe() == "sda has nothing to do"
    ground.write(0)
    assert ground.disk.idle_probe() is None
    ground.settle()


# -- plugging disks in -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [{"size": 4096}, {"size": 10000}, {"size": MIB, "latency_ns": -1}, {"size": MIB, "bandwidth": 0}])
def test_a_disk_that_cannot_be_is_refused(words):
    with Machine(MachineConfig(mem=8 * MIB)) as machine:
        with pytest.raises(ConfigError, match="disk sda"):
            machine.add_disk("sda", words.pop("size"), **words)
        assert not machine.disks and "bio" not in machine.slub.caches


def test_minor_numbers_are_given_once(ground):
    machine = ground.machine
    second = machine.add_disk("sdb", MIB)
    machine.remove_disk(ground.disk)
    third = machine.add_disk("sdc", MIB)
    assert (ground.disk.dev, second.dev, third.dev) == ("8:0", "8:16", "8:0")


def test_sectors_are_counted_for_proc_vmstat(ground):
    ground.write(0)
    ground.read(800, vecs=4)
    ground.settle()
    assert (ground.machine.vmstat.pgpgout, ground.machine.vmstat.pgpgin) == (8, 32)


def test_names_are_given_once(ground):
    with pytest.raises(ConfigError, match="a disk sda already"):
        ground.machine.add_disk("sda", MIB)


@pytest.mark.parametrize("vehicle", ["greenlet", "threads"])
def test_both_vehicles_and_two_cpus_end_the_same(vehicle):
    ends = []
    for _ in range(2):
        with block_ground(cpus=2, vehicle=vehicle) as ground:
            for sector in (1600, 0, 2400, 800, 808):
                ground.write(sector, ground.page())
            ground.settle()
            ends.append((ground.ended, ground.sched.now))
    assert ends[0] == ends[1]
    assert sorted(ends[0][0]) == [(sector, 0) for sector in (0, 800, 808, 1600, 2400)]
