"""The daemon (mm/kswapd.py)."""

from __future__ import annotations

import pytest

from kemu.kernel.task import PF_KSWAPD, PF_MEMALLOC, PF_SWAPWRITE, TASK_INTERRUPTIBLE
from kemu.kernel.timer import HZ
from kemu.mm.cpuset import Cpuset, attach_task
from kemu.mm.slow_path import ReclaimState
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


# -- balance_pgdat(), with a shrink_zone() that does as it is told


class Scripted:
    """Two zones below pages_high; what was scanned at which priority, and what came of it."""

    def __init__(self, ground, monkeypatch):
        self.ground = ground
        self.low, self.high = self.zones = ground.pa.zones[:2]
        self.kswapd = ground.reclaim.kswapd
        self.scans = []
        self.naps = []
        self.freed = 0
        self.scanned = 10
        self.slab_objects = 0
        for zone in self.zones:
            zone.free_pages = zone.pages_high
            monkeypatch.setattr(zone, "inactive", dict.fromkeys(range(100)))
        monkeypatch.setattr(ground.reclaim, "shrink_zone", self.shrink_zone)
        monkeypatch.setattr(ground.reclaim, "shrink_slab", lambda *_: self.slab_objects)
        monkeypatch.setattr(ground.reclaim, "congestion_wait", self.naps.append)

    def shrink_zone(self, priority, zone, sc):
        self.scans.append((zone.name, priority))
        sc.nr_scanned += self.scanned
        return self.freed

    def lap(self, order=0):
        return self.kswapd._balance_once(order)


@pytest.fixture
def scripted(monkeypatch):
    with swap_ground(mem=64 * MIB, kswapd=False) as ground:
        free = [zone.free_pages for zone in ground.pa.zones]
        yield Scripted(ground, monkeypatch)
        for zone, pages in zip(ground.pa.zones, free, strict=True):
            zone.free_pages = pages


def test_a_lap_without_success_goes_down_all_priorities_lowest_zone_first(scripted):
    assert scripted.lap() == (0, False)
    assert scripted.scans == [(name, priority) for priority in range(12, -1, -1) for name in ("DMA", "DMA32")]


def test_it_naps_a_tenth_of_a_second_after_each_pass_below_priority_10(scripted):
    scripted.lap()
    assert scripted.naps == [HZ // 10] * 10


def test_it_does_not_nap_if_there_was_nothing_to_scan(scripted):
    scripted.scanned = 0
    scripted.lap()
    assert scripted.naps == []


def test_a_lap_ends_when_a_cluster_of_pages_went(scripted):
    scripted.freed = 16
    assert scripted.lap() == (32, False)
    assert [priority for _, priority in scripted.scans] == [12, 12]


def test_pages_of_the_slabs_count(scripted, monkeypatch):
    scripted.ground.sched.current.reclaim_state = state = ReclaimState()

    def shrink_slab(*_):
        state.reclaimed_slab = 16
        return 1

    monkeypatch.setattr(scripted.ground.reclaim, "shrink_slab", shrink_slab)
    assert scripted.lap() == (32, False)
    scripted.ground.sched.current.reclaim_state = None


def test_the_priority_at_which_a_zone_became_happy_is_remembered_for_each_zone(scripted, monkeypatch):
    def shrink_zone(priority, zone, sc):
        sc.nr_scanned += 1
        if priority == 7 and zone is scripted.high:
            zone.free_pages = zone.pages_high + 1000
        if priority == 4:
            zone.free_pages = zone.pages_high + 1000
        return 0

    monkeypatch.setattr(scripted.ground.reclaim, "shrink_zone", shrink_zone)
    assert scripted.lap() == (0, True)
    assert (scripted.low.prev_priority, scripted.high.prev_priority) == (4, 7)


def test_zones_above_the_highest_that_needs_it_are_left_alone(scripted):
    scripted.high.free_pages = scripted.high.present_pages
    scripted.lap()
    assert {name for name, _ in scripted.scans} == {"DMA"}
    assert scripted.high.prev_priority == 12


def test_zones_below_it_are_scanned_too_unless_far_too_much_is_free(scripted):
    reserve = scripted.low.lowmem_reserve[1]
    scripted.low.free_pages = 8 * scripted.low.pages_high + reserve
    scripted.lap()
    assert {name for name, _ in scripted.scans} == {"DMA", "DMA32"}
    scripted.scans.clear()
    scripted.low.free_pages += 1
    scripted.lap()
    assert {name for name, _ in scripted.scans} == {"DMA32"}
    assert scripted.low.prev_priority == 0, "noted all the same"


def test_a_zone_is_given_up_when_six_times_as_much_was_scanned_and_no_slab_shrank(scripted):
    zone = scripted.high
    zone.pages_scanned = 599
    scripted.lap()
    assert not zone.all_unreclaimable
    zone.pages_scanned, scripted.slab_objects = 600, 1
    scripted.lap()
    assert not zone.all_unreclaimable
    scripted.slab_objects = 0
    scripted.lap()
    assert zone.all_unreclaimable


def test_a_zone_without_a_page_on_its_lists_is_given_up_at_once(scripted):
    scripted.low.inactive = {}
    scripted.lap()
    assert (scripted.low.all_unreclaimable, scripted.high.all_unreclaimable) == (True, False)


def test_a_zone_that_was_given_up_is_polled_at_the_first_priority_only(scripted):
    for zone in scripted.zones:
        zone.all_unreclaimable = True
    assert scripted.lap() == (0, True), "nothing more to do below: that counts as well"
    assert scripted.scans == [("DMA", 12), ("DMA32", 12)]


def test_it_laps_until_all_zones_are_well(scripted, monkeypatch):
    laps = []

    def shrink_zone(priority, zone, sc):
        if priority == 12 and zone is scripted.low:
            laps.append(priority)
        zone.free_pages += 20
        sc.nr_scanned += 32
        return 32

    monkeypatch.setattr(scripted.ground.reclaim, "shrink_zone", shrink_zone)
    for zone in scripted.zones:
        zone.free_pages = zone.pages_high - 70
    before = scripted.ground.vmstat.pageoutrun
    scripted.kswapd.balance_pgdat(0)
    assert all(zone.zone_watermark_ok(0, zone.pages_high, 0, 0) for zone in scripted.zones)
    assert scripted.ground.vmstat.pageoutrun - before == len(laps) + 1 > 3


# -- order


def split(zone):
    """Let a zone have the free pages that it has, but no block of order 3."""
    zone.free_area = [dict.fromkeys(range(zone.free_pages))] + [{} for _ in zone.free_area[1:]]


def test_a_zone_without_large_blocks_is_out_of_balance_for_who_wants_one(scripted, monkeypatch):
    for zone in scripted.zones:
        zone.free_pages = 4 * zone.pages_high
        monkeypatch.setattr(zone, "free_area", zone.free_area)
        split(zone)
    assert scripted.kswapd._highest_zone_to_scan(scripted.zones, 0, 12) == -1
    assert scripted.kswapd._highest_zone_to_scan(scripted.zones, 3, 12) == 1
    scripted.kswapd.wakeup_kswapd(scripted.high, 0)
    assert scripted.kswapd.max_order == 0
    scripted.kswapd.wakeup_kswapd(scripted.high, 3)
    assert scripted.kswapd.max_order == 3


def test_the_largest_order_is_remembered_while_it_is_awake(scripted):
    """Nobody sleeps on the queue: no wake-up, but the order stands."""
    scripted.low.free_pages = scripted.low.pages_low
    for order in (1, 3, 2):
        scripted.kswapd.wakeup_kswapd(scripted.low, order)
    assert scripted.kswapd.max_order == 3
    assert scripted.ground.vmstat.kswapd_wakes == 0


def test_a_task_confined_to_other_nodes_wakes_nobody_but_leaves_its_order(ground):
    attach_task(ground.task, Cpuset((5,), mem_exclusive=True))
    free, ground.zone.free_pages = ground.zone.free_pages, 5
    ground.kswapd.wakeup_kswapd(ground.zone, 2)
    ground.zone.free_pages = free
    attach_task(ground.task, None)
    assert (ground.kswapd.max_order, ground.vmstat.kswapd_wakes) == (2, 0)


def test_a_lap_that_finds_all_well_lets_zones_start_anew(scripted):
    """The priority at which a zone was scanned once does not stick to it."""
    for zone in scripted.zones:
        zone.free_pages = zone.present_pages
        zone.prev_priority = 3
    assert scripted.lap() == (0, True)
    assert [zone.prev_priority for zone in scripted.zones] == [12, 12]


@pytest.mark.parametrize(("freed", "writes_from"), [(0, 7), (7, None)])
def test_in_laptop_mode_kswapd_writes_once_it_has_scanned_much_for_little(scripted, monkeypatch, freed, writes_from):
    """More than 64 pages, and more than one and a half for each that went."""
    may = []

    def shrink_zone(_priority, _zone, sc):
        may.append(sc.may_writepage)
        sc.nr_scanned += 10
        return freed

    monkeypatch.setattr(scripted.ground.reclaim, "shrink_zone", shrink_zone)
    assert scripted.ground.kernel.sysctl.write("vm.laptop_mode", "5") == 0
    scripted.lap()
    assert may.index(True) == writes_from if writes_from else True not in may
