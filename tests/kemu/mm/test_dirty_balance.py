"""Who dirties waits, pdflush writes (mm/dirty_balance.py)."""

from __future__ import annotations

import pytest

from file_ground import MIB, PAGE, file_ground, page_bytes
from kemu.kernel.timer import HZ
from kemu.mm.page import PG_dirty

SECOND = 10**9


@pytest.fixture
def ground():
    with file_ground(mem=16 * MIB) as g:
        g.process()
        g.balance = g.machine.dirty_balance
        g.io = g.memory.file_io
        g.world.run(for_ns=1_000_000)
        yield g


def dirty_pages(ground, file, count, first=0):
    for i in range(first, first + count):
        assert ground.io.write(file, i * PAGE, page_bytes(i, 1)) == PAGE


def test_who_dirties_a_few_pages_is_not_held_up(ground):
    file = ground.file(pages=100)
    dirty_pages(ground, file, 50)
    assert ground.vmstat.nr_dirty == 50
    assert ground.vmstat.nr_writeback == 0
    ground.check()


def test_above_the_background_limit_pdflush_writes_and_the_writer_goes_on(ground):
    background, limit = ground.machine.reclaim.writeout.get_dirty_limits()
    file = ground.file(pages=background + 150)
    before = ground.sched.now
    dirty_pages(ground, file, background + 150)
    assert background + 150 < limit
    assert ground.sched.now - before < SECOND // 100  # a nap would be a tenth
    ground.world.run(for_ns=SECOND)
    assert ground.vmstat.nr_dirty < background
    ground.check()


def test_the_writer_never_gets_far_above_the_limit(ground):
    _, limit = ground.machine.reclaim.writeout.get_dirty_limits()
    file = ground.file(pages=3 * limit, fill=False)
    peak = 0
    for i in range(3 * limit):
        ground.io.write(file, i * PAGE, page_bytes(i, 1))
        peak = max(peak, ground.vmstat.nr_dirty + ground.vmstat.nr_writeback)
    _, limit = ground.machine.reclaim.writeout.get_dirty_limits()
    assert limit - 50 < peak <= limit + ground.balance.ratelimit_pages + 14
    ground.check()


def test_a_mapped_file_is_held_up_as_well(ground):
    _, limit = ground.machine.reclaim.writeout.get_dirty_limits()
    pages = 2 * limit
    file = ground.file(pages=pages, fill=False)
    at = ground.mmap(file)
    peak = 0
    for i in range(pages):
        ground.store(at + i, page_bytes(i, 1))
        peak = max(peak, ground.vmstat.nr_dirty + ground.vmstat.nr_writeback)
    assert peak <= limit + ground.balance.ratelimit_pages + 14
    ground.check()


def test_who_dirties_looks_at_every_so_many_pages_and_more_often_above_the_limit(ground):
    asked = []
    ground.balance.balance_dirty_pages = asked.append
    mapping = ground.file().f_mapping
    for _ in range(2 * ground.balance.ratelimit_pages):
        ground.balance.balance_dirty_pages_ratelimited(mapping)
    assert len(asked) == 2
    ground.balance.dirty_exceeded = True
    for _ in range(16):
        ground.balance.balance_dirty_pages_ratelimited(mapping)
    assert len(asked) == 4


@pytest.mark.parametrize(("mem", "expected"), [(8 * MIB, 62), (64 * MIB, 510), (256 * MIB, 1024)])
def test_how_often_depends_on_memory(mem, expected):
    with file_ground(mem=mem) as ground:
        assert abs(ground.machine.dirty_balance.ratelimit_pages - expected) <= 4


def test_a_writer_at_a_stalled_disk_waits_and_says_for_what(ground):
    _, limit = ground.machine.reclaim.writeout.get_dirty_limits()
    file = ground.file(pages=2 * limit, fill=False)

    class Writer:
        def __init__(self):
            self.at = 0

        def step(self):
            self.at += 1
            return ("file_write", file, (self.at - 1) * PAGE, page_bytes(self.at)) if self.at <= 2 * limit else None

    ground.disk.stall()
    program = Writer()
    task = ground.machine.processes.spawn("writer", program)
    ground.world.run(for_ns=20 * SECOND)
    assert task.exit_code is None
    assert program.at < 1.5 * limit
    text = ground.judge.explain(task)
    assert "balance_dirty_pages" in text or "page" in text
    assert ground.balance.dirty_exceeded
    ground.disk.resume()
    ground.run(task, for_ns=200 * SECOND)
    assert task.exit_code == 0
    assert ground.io.fsync(file) == 0
    assert ground.audit()[1] == 0
    ground.balance.balance_dirty_pages(file.f_mapping)
    assert not ground.balance.dirty_exceeded


# -- old data


def test_what_is_dirty_for_thirty_seconds_is_written(ground):
    file = ground.file(pages=4)
    ground.world.run(for_ns=3 * SECOND)
    dirty_pages(ground, file, 2)
    ground.world.run(for_ns=29 * SECOND)
    assert ground.vmstat.nr_dirty == 2
    ground.world.run(for_ns=7 * SECOND)
    assert ground.vmstat.nr_dirty == 0
    assert ground.on_disk(file, 1) == page_bytes(1, 1)


def test_an_inode_keeps_its_age_while_it_is_dirtied_again(ground):
    file = ground.file(pages=20)
    dirty_pages(ground, file, 1)
    for i in range(7):
        ground.world.run(for_ns=5 * SECOND)
        dirty_pages(ground, file, 1, first=i + 1)
    assert ground.on_disk(file, 0) == page_bytes(0, 1)
    assert ground.on_disk(file, 3) == page_bytes(3, 1)


def test_the_timer_runs_only_while_something_is_dirty(ground):
    assert not ground.balance._wb_timer.pending
    file = ground.file(pages=4)
    dirty_pages(ground, file, 1)
    assert ground.balance._wb_timer.pending
    ground.io.fsync(file)
    ground.world.run(for_ns=40 * SECOND)
    assert not ground.balance._wb_timer.pending


def test_the_timer_keeps_to_its_grid(ground):
    ground.world.run(for_ns=12 * SECOND)
    dirty_pages(ground, ground.file(pages=4), 1)
    assert ground.balance._wb_timer.expires == 15 * HZ


def test_the_intervals_are_hundredths_of_seconds(ground):
    read, write = ground.kernel.sysctl.read, ground.kernel.sysctl.write
    assert (read("vm.dirty_writeback_centisecs"), read("vm.dirty_expire_centisecs")) == ("500\n", "3000\n")
    assert write("vm.dirty_writeback_centisecs", "100") == 0
    assert write("vm.dirty_expire_centisecs", "200") == 0
    file = ground.file(pages=4)
    dirty_pages(ground, file, 1)
    ground.world.run(for_ns=4 * SECOND)
    assert ground.vmstat.nr_dirty == 0


def test_an_interval_of_zero_stops_the_periodic_flush(ground):
    file = ground.file(pages=4)
    dirty_pages(ground, file, 1)
    assert ground.kernel.sysctl.write("vm.dirty_writeback_centisecs", "0") == 0
    ground.world.run(for_ns=100 * SECOND)
    assert ground.vmstat.nr_dirty == 1
    assert ground.kernel.sysctl.write("vm.dirty_writeback_centisecs", "500") == 0
    ground.world.run(for_ns=10 * SECOND)
    assert ground.vmstat.nr_dirty == 0


def test_a_flush_that_finds_no_thread_comes_again(ground):
    file = ground.file(pages=4)
    dirty_pages(ground, file, 1)
    for _ in range(2):
        ground.machine.pdflush.pdflush_operation(lambda _: ground.sched.schedule_timeout(38 * HZ, ("sleep", None)))
    ground.world.run(for_ns=37 * SECOND)
    assert ground.vmstat.nr_dirty == 1
    ground.world.run(for_ns=4 * SECOND)
    assert ground.vmstat.nr_dirty == 0


# -- reclaim and sync


def test_reclaim_wakes_pdflush_to_write_so_many_pages(ground):
    file = ground.file(pages=60)
    dirty_pages(ground, file, 40)
    ground.machine.reclaim.wakeup_pdflush(10)
    ground.world.run(for_ns=SECOND)
    assert ground.vmstat.nr_dirty == 0  # pages are written by the batch of 1024
    assert not ground.cached(file, 0).flags & PG_dirty


# -- one look of balance_dirty_pages()


def look(ground, *, written=0, pdflush=False):
    """Let it look at far too many dirty pages; a writer writes so many of what he is asked for. Return naps and pdflush's work."""
    mapping = ground.file().f_mapping
    asked = []

    def write(wbc):
        asked.append((wbc.nr_to_write, wbc.bdi, wbc.range_cyclic))
        wbc.nr_to_write -= written
        if len(asked) == 3:
            ground.vmstat.nr_dirty = 0

    ground.balance.writeback_inodes = write
    ground.vmstat.nr_dirty = 10_000
    ground.fs.bdi.pdflush = pdflush
    handed = []
    ground.machine.pdflush.pdflush_operation = lambda fn, _arg=0: handed.append(fn) or 0
    before = ground.machine.congestion.naps
    ground.balance.balance_dirty_pages(mapping)
    ground.vmstat.nr_dirty = 0
    ground.fs.bdi.pdflush = False
    ground.balance.writeback_inodes = ground.machine.fs_writeback.writeback_inodes
    return ground.machine.congestion.naps - before, len(handed), asked


def test_who_has_written_his_share_may_go_on(ground):
    chunk = ground.balance.ratelimit_pages * 3 // 2
    naps, handed, asked = look(ground, written=chunk)
    assert (naps, handed) == (0, 1)
    assert asked == [(chunk, ground.fs.bdi, True)]
    assert ground.balance.dirty_exceeded
    ground.balance.dirty_exceeded = False


def test_who_could_not_write_naps_and_tries_again_until_it_is_enough(ground):
    naps, handed, asked = look(ground)
    assert (naps, handed, len(asked)) == (2, 0, 3)
    assert not ground.balance.dirty_exceeded


def test_pdflush_is_not_sent_to_a_queue_it_works_on(ground):
    chunk = ground.balance.ratelimit_pages * 3 // 2
    assert look(ground, written=chunk, pdflush=True)[1] == 0
    ground.balance.dirty_exceeded = False
