"""A mount's queue: how much may be under writeback, and who minds."""

from __future__ import annotations

import pytest

from kemu.mm.address_space import WritebackControl
from kemu.mm.backing_dev import WRITE
from nfs_ground import PAGE, SECOND, mounted, page_bytes


@pytest.fixture
def ground():
    with mounted() as g:
        g.mount.create("f")
        g.file = g.mount.open("f")
        g.server = g.mount.server
        yield g
        g.wire.mend()
        g.wait_for_calls()
        g.check()
        assert g.server.writeback == 0
        assert not g.server.bdi.congested(WRITE)


def limit(ground, pages):
    assert ground.kernel.sysctl.write("fs.nfs.nfs_congestion_kb", str(pages * 4)) == 0


def dirty(ground, pages):
    """Make every second page dirty, so that each goes in a call of its own."""
    for index in range(0, 2 * pages, 2):
        ground.mount.write_buffered(ground.file, index * PAGE, page_bytes(index))


def test_the_limit_is_a_sysctl_of_the_machine(ground):
    sysctl = ground.kernel.sysctl
    assert sysctl.read("fs.nfs.nfs_congestion_kb").strip() == str(ground.mount.modules.congestion_kb)
    limit(ground, 16)
    assert (ground.server.congestion_on, ground.server.congestion_off) == (16, 12)
    assert sysctl.read("fs.nfs.nfs_congestion_kb").strip() == "64"


def test_a_writer_that_need_not_wait_stops_at_the_limit(ground):
    limit(ground, 8)
    dirty(ground, 20)
    wbc = WritebackControl(100, nonblocking=True)
    ground.mount.ops.writepages(ground.file.f_mapping, wbc)
    assert wbc.encountered_congestion
    assert ground.server.writeback == 14, "the ninth page makes it congested; the rest of its batch of 14 still goes"
    assert ground.machine.vmstat.nr_dirty == 6


def test_a_writer_that_syncs_does_not_stop(ground):
    limit(ground, 8)
    dirty(ground, 20)
    assert ground.mount.fsync(ground.file) == 0
    assert ground.machine.vmstat.nr_dirty == 0


def test_the_queue_is_clear_below_three_quarters(ground):
    limit(ground, 8)
    dirty(ground, 20)
    ground.mount.ops.writepages(ground.file.f_mapping, WritebackControl(100, nonblocking=True))
    seen = []
    ends = ground.server.writeback_ends

    def watched():
        ends()
        seen.append((ground.server.writeback, ground.server.bdi.congested(WRITE)))

    ground.server.writeback_ends = watched
    ground.wait_for_calls()
    assert seen == [(left, left >= 6) for left in range(13, -1, -1)]


def test_who_naps_is_woken_when_the_queue_clears(ground):
    limit(ground, 8)
    dirty(ground, 20)
    ground.mount.ops.writepages(ground.file.f_mapping, WritebackControl(100, nonblocking=True))
    woken = []

    def sleeper():
        left = ground.machine.congestion.congestion_wait(WRITE, 1000)
        woken.append((left > 0, ground.server.writeback))

    ground.spawn(sleeper)
    ground.wait_for_calls()
    assert woken == [(True, 5)]


def test_nobody_is_woken_below_the_limit(ground):
    dirty(ground, 4)
    ground.mount.ops.writepages(ground.file.f_mapping, WritebackControl(100))
    assert ground.machine.congestion.congestion_wait(WRITE, 30) == 0
    assert ground.stats.writes_outstanding == 0


def test_reclaim_by_others_keeps_off_a_congested_mount(ground):
    limit(ground, 2)
    dirty(ground, 3)
    ground.mount.ops.writepages(ground.file.f_mapping, WritebackControl(100))
    assert ground.server.bdi.congested(WRITE)
    ground.mount.write_buffered(ground.file, 100 * PAGE, page_bytes(100))
    page = ground.isolate(ground.file.f_mapping.page_tree.lookup(100))
    writes = ground.stats.writes
    _, rest = ground.shrink(page)
    assert rest == [page]
    assert ground.stats.writes == writes
    ground.machine.reclaim._put_back(rest)


def test_who_makes_too_much_dirty_waits_for_the_server(ground):
    """While the server is away he stays in balance_dirty_pages(), with no more than the limit dirty or on its way."""
    limit(ground, 64)
    ground.wire.cut()
    written = []

    def writer():
        for index in range(2000):
            ground.machine.memory.file_io.write(ground.file, index * PAGE, page_bytes(index))
            written.append(index)

    task = ground.spawn(writer, "writer")
    ground.run_for(20 * SECOND)
    assert task.why[0] == "dirty"
    vmstat = ground.machine.vmstat
    threshold = ground.machine.reclaim.writeout.dirty_threshold()
    assert len(written) < 2000
    assert vmstat.nr_dirty + vmstat.nr_writeback + vmstat.nr_unstable < 2 * threshold
    ground.wire.mend()
    ground.run_for(200 * SECOND)
    assert len(written) == 2000
    assert ground.mount.fsync(ground.file) == 0
    assert ground.file_bytes("f")[1999 * PAGE :] == page_bytes(1999)
