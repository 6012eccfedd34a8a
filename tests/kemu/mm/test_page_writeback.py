"""The throttle (mm/page_writeback.py)."""

from __future__ import annotations

import pytest

from kemu.kernel.task import PF_LESS_THROTTLE
from kemu.kernel.timer import HZ, NSEC_PER_JIFFY
from kemu.machine import Machine, MachineConfig
from kemu.mm.gfp import GFP_KERNEL, GFP_NOFS, GFP_NOIO
from kemu.mm.page import PG_writeback
from swap_ground import MIB, swap_ground


@pytest.fixture
def ground():
    with swap_ground(mem=4 * MIB, kswapd=False) as g:
        g.limit = g.pa.nr_free_pages() // 10
        g.limit += g.limit // 10
        yield g


SLICE = HZ // 10


def test_at_the_limit_nobody_sleeps(ground):
    ground.vmstat.nr_writeback = ground.limit
    ground.reclaim.throttle_vm_writeout(GFP_KERNEL)
    assert ground.sched.now < NSEC_PER_JIFFY
    assert ground.vmstat.throttled == 0


@pytest.mark.parametrize("gfp", [GFP_NOFS, GFP_NOIO, 0x90])
def test_who_lacks_fs_or_io_sleeps_one_slice(ground, gfp):
    ground.vmstat.nr_writeback = ground.limit + 1
    ground.reclaim.throttle_vm_writeout(gfp)
    assert ground.vmstat.throttled == 1
    assert ground.sched.now >= (SLICE - 1) * NSEC_PER_JIFFY


def test_who_has_both_sleeps_until_enough_writes_have_ended(ground):
    ground.vmstat.nr_writeback = ground.limit + 1

    def end(_):
        ground.vmstat.nr_writeback -= 1

    ground.world.post(10 * SLICE * NSEC_PER_JIFFY, end, None)
    ground.reclaim.throttle_vm_writeout(GFP_KERNEL)
    assert ground.vmstat.throttled >= 10
    assert not ground.reclaim.writeout.sleepers


def test_unstable_pages_count_too(ground):
    ground.vmstat.nr_unstable = ground.limit + 1
    assert ground.reclaim.writeout.over_limit()


def test_less_throttled_and_realtime_tasks_have_a_quarter_more(ground):
    threshold = ground.reclaim.writeout.dirty_threshold()
    ground.task.flags |= PF_LESS_THROTTLE
    assert ground.reclaim.writeout.dirty_threshold() == threshold + threshold // 4
    ground.task.flags &= ~PF_LESS_THROTTLE
    ground.task.rt = True
    assert ground.reclaim.writeout.dirty_threshold() == threshold + threshold // 4


def test_a_sleeper_is_explained_by_a_page_that_is_being_written(ground):
    page = ground.pa.alloc_page(GFP_KERNEL)
    ground.lru.lru_cache_add(page)
    ground.task.why = ("throttle", ground.reclaim.writeout)
    assert "throttle_vm_writeout" in ground.judge.explain(ground.task)
    assert "writeback of page" not in ground.judge.explain(ground.task)
    page.flags |= PG_writeback
    assert "writeback of page" in ground.judge.explain(ground.task)
    ground.task.why = None


def test_no_oom_kill_while_kswapd_sleeps_in_the_throttle():
    with swap_ground(mem=4 * MIB) as ground:
        area, disk = ground.disk_area(4000)
        ground.swapfile.swapon(area)
        disk.stall()  # the server is away
        from swap_ground import Touch

        task = ground.processes.spawn("hog", Touch(2000), uid=1)
        ground.judge.hold("server away")
        ground.world.run(for_ns=60 * 10**9)
        kswapd = ground.reclaim.kswapd.task
        assert kswapd.pid in ground.reclaim.writeout.sleepers
        assert ground.vmstat.oom_kills == 0
        assert task.exit_code is None
        disk.resume()
        ground.judge.release("server away")
        ground.run(task)
        assert task.exit_code == 0
        assert ground.judge.outcome is None
        ground.check()


# -- the limits


def limits(ground, *, mapped=0, ratio=None, background=None):
    """Give the limits as percentages of what could be dirty, with so many per cent of it mapped."""
    writeout = ground.reclaim.writeout
    available = writeout.dirtyable_memory()
    anon = ground.vmstat.nr_anon_pages
    ground.vmstat.nr_anon_pages = -(-mapped * available // 100)
    if ratio is not None:
        ground.kernel.sysctl.write("vm.dirty_ratio", str(ratio))
    if background is not None:
        ground.kernel.sysctl.write("vm.dirty_background_ratio", str(background))
    found = writeout.get_dirty_limits()
    ground.vmstat.nr_anon_pages = anon
    return tuple(next(p for p in range(101) if p * available // 100 == limit) for limit in found)


def test_the_defaults_are_5_and_10_per_cent(ground):
    assert limits(ground) == (5, 10)


@pytest.mark.parametrize(
    ("mapped", "expected"),
    [(0, (5, 10)), (79, (5, 10)), (82, (5, 9)), (88, (5, 6)), (90, (2, 5)), (99, (2, 5))],
)
def test_the_more_is_mapped_the_less_may_be_dirty(ground, mapped, expected):
    """Half of what is not mapped, and never less than 5 %; the background limit stays below."""
    assert limits(ground, mapped=mapped) == expected


@pytest.mark.parametrize(
    ("ratio", "background", "expected"),
    [(40, 10, (10, 40)), (60, 5, (5, 50)), (2, 5, (2, 5)), (20, 20, (10, 20)), (20, 30, (10, 20))],
)
def test_a_person_may_choose_within_reason(ground, ratio, background, expected):
    assert limits(ground, ratio=ratio, background=background) == expected


def test_less_throttled_tasks_have_a_quarter_more_of_both(ground):
    background, dirty = ground.reclaim.writeout.get_dirty_limits()
    ground.task.flags |= PF_LESS_THROTTLE
    assert ground.reclaim.writeout.get_dirty_limits() == (background + background // 4, dirty + dirty // 4)


def test_mapped_pages_of_files_count_as_mapped(ground):
    available = ground.reclaim.writeout.dirtyable_memory()
    ground.vmstat.nr_file_mapped = available * 9 // 10
    assert ground.reclaim.writeout.dirty_threshold() == available * 5 // 100


def test_highmem_cannot_be_dirty():
    with Machine(MachineConfig("high", 1024 * MIB, arch="i386")) as machine:
        high = next(zone for zone in machine.page_alloc.zones if zone.name == "HIGHMEM")
        pages = machine.page_alloc.nr_free_pages() + machine.vmstat.nr_active + machine.vmstat.nr_inactive
        assert high.free_pages > 10_000
        assert machine.reclaim.writeout.dirtyable_memory() == pages - high.free_pages + 1
