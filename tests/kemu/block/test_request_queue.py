"""A disk's queue: merging, plugging, the limit, congestion (2.6.23 block/ll_rw_blk.c)."""

from __future__ import annotations

import pytest

from block_ground import MIB, MS, SECTORS, block_ground
from kemu.block.request_queue import BLKDEV_MAX_RQ
from kemu.errors import KernelBug
from kemu.kernel.timer import NSEC_PER_JIFFY
from kemu.mm.backing_dev import BIO_RW_SYNC, READ, WRITE


@pytest.fixture
def ground():
    with block_ground() as g:
        yield g


@pytest.fixture
def page(ground):
    return ground.page()


@pytest.fixture
def queue(ground):
    return ground.disk.queue


def fill(ground, page, count, rw=WRITE):
    """Submit requests that have no neighbours."""
    for number in range(count):
        (ground.write if rw == WRITE else ground.read)(2 * SECTORS * number, page)


# -- merging -----------------------------------------------------------------------------------------------------------------------


def test_neighbours_become_one_request_whichever_comes_first(ground, queue, page):
    for number in (4, 5, 3, 6, 2):
        ground.write(SECTORS * number, page)
    assert queue.count == [0, 1] and queue.merged == 4
    rq = queue.elevator.requests()[0]
    assert (rq.sector, rq.nr_sectors) == (2 * SECTORS, 5 * SECTORS)
    ground.settle()
    assert ground.disk.writes == 1 and len(ground.ended) == 5


def test_reads_do_not_join_writes(ground, queue, page):
    ground.write(0, page)
    ground.read(SECTORS, page)
    assert queue.count == [1, 1] and not queue.merged


def test_a_request_holds_128_pages_and_1024_sectors(ground, queue, page):
    for number in range(130):
        ground.write(SECTORS * number, page)
    assert [rq.nr_sectors for rq in queue.elevator.requests()] == [1024, 16]


def test_what_the_disk_has_begun_takes_no_more(ground, queue, page):
    ground.write(0, page)
    ground.disk.unplug()
    ground.write(SECTORS, page)
    assert queue.count == [0, 2] and not queue.merged


# -- plugging ----------------------------------------------------------------------------------------------------------------------


def test_an_empty_queue_waits_for_company_until_the_timer(ground, queue, page):
    ground.write(0, page)
    assert queue.plugged and ground.disk.busy is None
    ground.world.run(for_ns=2 * NSEC_PER_JIFFY)
    assert not queue.plugged and (ground.disk.busy or ground.ended)


def test_four_requests_are_company_enough(ground, queue, page):
    fill(ground, page, 3)
    assert queue.plugged
    ground.write(4000, page)
    assert not queue.plugged and ground.disk.busy is not None


def test_who_waits_for_a_page_unplugs(ground):
    """sync_page(): the header of a swap area is read at once, not after the timer."""
    disk = ground.disk
    mapping = disk.open().f_mapping
    began = ground.sched.now
    got = ground.machine.filemap.read_mapping_page(mapping, 0, None)
    assert ground.sched.now - began < NSEC_PER_JIFFY + MS // 2
    ground.machine.lru.put_page(got)


def test_a_synchronous_bio_starts_the_queue(ground, queue, page):
    ground.write(0, page)
    bio = ground.bio(800, page)
    ground.bios.submit_bio(WRITE | BIO_RW_SYNC, bio)
    assert not queue.plugged and ground.disk.busy is not None


def test_a_disk_can_go_while_its_timer_is_armed(ground, page):
    ground.write(0, page)
    ground.disk.unplug()
    ground.settle()
    ground.write(0, page)
    ground.world.run(for_ns=NSEC_PER_JIFFY)
    ground.settle()
    ground.machine.remove_disk(ground.disk)
    assert not ground.machine.disks


# -- the limit and congestion ------------------------------------------------------------------------------------------------------


def test_thresholds_are_those_of_128_requests(queue):
    assert (queue.nr_requests, queue.nr_congestion_on, queue.nr_congestion_off) == (128, 113, 103)


def test_the_queue_is_congested_from_113_requests_on(ground, page):
    ground.disk.stall()
    bdi = ground.disk.backing_dev_info
    fill(ground, page, 112)
    assert not bdi.congested(WRITE)
    ground.write(4096, page)
    assert bdi.congested(WRITE) and not bdi.congested(READ)


def test_congestion_wait_ends_when_102_are_left(ground, page, queue):
    ground.disk.stall()
    fill(ground, page, 120)
    left = []

    def nap():
        left.append(ground.machine.congestion.congestion_wait(WRITE, 100))
        left.append(queue.count[WRITE])

    task = ground.sched.spawn("napper", nap)
    ground.disk.resume()
    ground.world.run(until=lambda: task.exit_code is not None)
    assert left[0] > 0 and left[1] == 102
    assert not ground.disk.backing_dev_info.congested(WRITE)


def test_who_finds_the_queue_full_sleeps_until_a_request_is_free(ground, page, queue):
    ground.disk.stall()
    fill(ground, page, BLKDEV_MAX_RQ)
    task = ground.sched.spawn("late", lambda: ground.write(30000, page))
    ground.settle(100)
    assert task.exit_code is None and queue.count[WRITE] == BLKDEV_MAX_RQ
    ground.read(31000, page)  # reads have a limit of their own
    ground.disk.resume()
    ground.world.run(until=lambda: task.exit_code is not None)
    ground.settle()
    assert len(ground.ended) == BLKDEV_MAX_RQ + 2 and queue.count == [0, 0]


def test_requests_come_from_a_pool_of_four(queue):
    assert (queue.rq_pool.name, queue.rq_pool.min_nr, queue.rq_pool.curr_nr) == ("blkdev_requests", 4, 4)


def test_two_queues_have_limits_of_their_own(ground, page):
    other = ground.machine.add_disk("sdb", MIB)
    ground.disk.stall()
    fill(ground, page, 128)
    ground.write(0, page, disk=other)
    ground.settle()
    assert ground.ended == [(0, 0)]


def test_a_disk_goes_when_its_last_request_is_done(ground, page):
    fill(ground, page, 20)
    ground.machine.remove_disk(ground.disk)
    assert len(ground.ended) == 20 and ground.disk.writes == 20
    assert ground.bios.in_flight == 0 and not ground.machine.disks


def test_a_stalled_disk_is_waited_for(ground, page):
    ground.disk.stall()
    ground.write(0, page)
    task = ground.sched.spawn("remover", lambda: ground.machine.remove_disk(ground.disk))
    ground.settle()
    assert task.exit_code is None and ground.machine.disks
    ground.disk.resume()
    ground.settle()
    assert task.exit_code is not None and not ground.machine.disks


# -- check() notices ---------------------------------------------------------------------------------------------------------------


def tampered(ground, page, change, match):
    ground.write(0, page)
    undo = change(ground.disk)
    with pytest.raises(KernelBug, match=match):
        ground.machine.check()
    undo()
    ground.machine.check()


def test_a_request_that_nobody_counted(ground, page):
    def change(disk):
        disk.queue.count[WRITE] = 0
        return lambda: disk.queue.count.__setitem__(WRITE, 1)

    tampered(ground, page, change, "are counted")


def test_sectors_that_no_bio_has(ground, page):
    def change(disk):
        rq = disk.queue.elevator.requests()[0]
        rq.nr_sectors += 1
        return lambda: setattr(rq, "nr_sectors", rq.nr_sectors - 1)

    tampered(ground, page, change, "does not count what its bios hold")


def test_a_disk_that_sleeps_beside_its_work(ground, page):
    def change(disk):
        disk.queue.plugged = False
        return lambda: setattr(disk.queue, "plugged", True)

    tampered(ground, page, change, "requests wait, and the disk does nothing")


def test_a_disk_that_works_on_nothing_known(ground, page):
    def change(disk):
        disk.busy = disk.queue.elevator.requests()[0]
        return lambda: setattr(disk, "busy", None)

    tampered(ground, page, change, "not in flight")
