"""The throttle (mm/page_writeback.py)."""

from __future__ import annotations

import pytest

from kemu.kernel.task import PF_LESS_THROTTLE
from kemu.kernel.timer import HZ, NSEC_PER_JIFFY
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
