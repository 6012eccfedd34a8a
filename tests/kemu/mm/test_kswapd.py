"""The daemon (mm/kswapd.py)."""

from __future__ import annotations

import pytest

from kemu.kernel.task import PF_KSWAPD, PF_MEMALLOC, PF_SWAPWRITE, TASK_INTERRUPTIBLE
from swap_ground import MIB, Touch, page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground(mem=4 * MIB) as g:
        g.area, g.disk = g.disk_area(2000)
        g.swapfile.swapon(g.area)
        g.kswapd = g.reclaim.kswapd
        g.zone = g.pa.zones[0]
        g.sched.usleep(1_000_000)
        yield g


def test_it_sleeps_with_its_three_flags_for_life(ground):
    assert ground.kswapd.task.state == TASK_INTERRUPTIBLE
    assert ground.kswapd.task.flags == PF_MEMALLOC | PF_SWAPWRITE | PF_KSWAPD
    assert ground.kswapd.start() is ground.kswapd.task


def test_above_pages_low_nobody_wakes_it(ground):
    ground.kswapd.wakeup_kswapd(ground.zone, 0)
    assert ground.vmstat.kswapd_wakes == 0


def test_below_pages_low_it_is_woken_once(ground):
    free, ground.zone.free_pages = ground.zone.free_pages, 5
    ground.kernel.trace.enable("vmscan:mm_vmscan_kswapd_wake")
    ground.kswapd.wakeup_kswapd(ground.zone, 1)
    ground.kswapd.wakeup_kswapd(ground.zone, 0)
    ground.zone.free_pages = free
    assert ground.vmstat.kswapd_wakes == 1
    assert ground.kswapd.max_order == 1
    assert len(list(ground.kernel.trace.events())) == 1


def test_an_empty_zone_wakes_nobody(ground):
    ground.kswapd.wakeup_kswapd(ground.pa.zones[2], 0)
    assert ground.vmstat.kswapd_wakes == 0


def test_it_balances_to_pages_high(ground):
    ground.process(990)
    ground.memory.overcommit_memory = 1
    for vpn in range(970):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        ground.sched.cond_resched()
    ground.sched.usleep(2 * 10**9)
    assert ground.vmstat.kswapd_wakes >= 1
    assert ground.vmstat.pgscan_kswapd > 0
    assert ground.zone.zone_watermark_ok(0, ground.zone.pages_high, 0, 0)
    assert ground.kswapd.task.state == TASK_INTERRUPTIBLE
    ground.check()


def test_the_emergency_pool_is_on_top_of_its_marks(ground):
    assert ground.pa.adjust_memalloc_reserve(200) == 0
    ground.zone.free_pages, free = ground.zone.pages_low + 100, ground.zone.free_pages
    ground.kswapd.wakeup_kswapd(ground.zone, 0)
    ground.zone.free_pages = free
    assert ground.vmstat.kswapd_wakes == 1


def test_a_zone_of_which_nothing_goes_is_given_up_and_a_freed_page_takes_that_back():
    with swap_ground(mem=4 * MIB) as ground:  # no swap
        task = ground.processes.spawn("hog", Touch(952, chunk=31), uid=1)
        ground.memory.overcommit_memory = 1
        task.oomkilladj = -17
        zone = ground.pa.zones[0]
        ground.sched.usleep(1000)
        ground.world.run(until=lambda: zone.all_unreclaimable or task.exit_code is not None, for_ns=10**9)
        assert zone.all_unreclaimable
        ground.processes.kill(task)
        ground.run(task)
        assert not zone.all_unreclaimable
        ground.check()


def test_it_goes_on_at_once_when_a_larger_block_was_asked_for_meanwhile(ground):
    runs = []
    ground.kswapd.balance_pgdat = lambda order: (
        runs.append(order),
        setattr(ground.kswapd, "max_order", 3 if len(runs) == 1 else 0),
    )
    free, ground.zone.free_pages = ground.zone.free_pages, 5
    ground.kswapd.wakeup_kswapd(ground.zone, 0)
    ground.zone.free_pages = free
    ground.sched.usleep(1_000_000)
    assert runs == [0, 3]
