"""Reclaim's passes (mm/vmscan.py, mm/shrink_slab.py)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.kernel.task import PF_KSWAPD
from kemu.kernel.timer import HZ, NSEC_PER_JIFFY
from kemu.mm.address_space import AddressSpace, Inode
from kemu.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, GFP_NOFS, GFP_NOIO
from kemu.mm.page import ZERO_PAGE, PG_active
from kemu.mm.shrink_list import ScanControl
from kemu.mm.slow_path import ReclaimState
from leaks import assert_no_pages
from reclaim_ground import fill, reclaim_ground
from swap_ground import MIB, Touch, page_bytes, swap_ground


@pytest.fixture
def ground():
    with reclaim_ground() as g:
        yield g


def test_scans_add_up_until_there_are_32(ground):
    fill(ground, 300)
    sc = ScanControl(GFP_KERNEL)
    scanned = []
    for _ in range(8):
        before = ground.vmstat.pgscan_direct
        ground.reclaim.shrink_zone(6, ground.zone, sc)  # (300 >> 6) + 1 = 5 a pass
        scanned.append(ground.vmstat.pgscan_direct - before)
    assert scanned[:6] == [0] * 6
    assert scanned[6] >= 32


def test_a_pass_scans_its_share_in_clusters(ground):
    fill(ground, 300)
    ground.reclaim.shrink_zone(1, ground.zone, ScanControl(GFP_KERNEL))
    assert ground.vmstat.pgscan_direct == 160, "151 in clusters of 32"


def test_try_to_free_pages_frees_a_cluster(ground):
    fill(ground, 300)
    ground.disk.latency_ns = 10
    free = ground.pa.nr_free_pages()
    assert ground.reclaim.try_to_free_pages(ground.pa.zonelist, 0, GFP_KERNEL) == 1
    assert ground.vmstat.pgsteal >= 32
    assert ground.pa.nr_free_pages() >= free
    ground.check()


def test_it_reports_progress_as_long_as_kswapd_has_not_given_up(ground):
    zone = ground.zone
    assert ground.reclaim.try_to_free_pages([zone], 0, GFP_KERNEL) == 1
    zone.all_unreclaimable = True
    assert ground.reclaim.try_to_free_pages([zone], 0, GFP_KERNEL) == 0


def test_the_first_pass_looks_also_at_zones_that_were_given_up(ground):
    fill(ground, 200)
    ground.disk.latency_ns = 10
    ground.zone.all_unreclaimable = True
    ground.zone.nr_scan_inactive = 200
    ground.reclaim.try_to_free_pages([ground.zone], 0, GFP_KERNEL)
    assert ground.vmstat.pgscan_direct >= 200


def test_it_naps_from_priority_9_on(ground):
    fill(ground, 300)
    for vpn in range(300):
        ground.task.mm.ptes[vpn].count += 1
    start = ground.sched.now
    ground.reclaim.try_to_free_pages([ground.zone], 0, 0x10)
    naps = ground.congestion.naps
    assert 1 <= naps <= 10
    assert ground.sched.now - start >= naps * 24 * NSEC_PER_JIFFY
    assert ground.zone.prev_priority == 0


def test_direct_reclaim_is_traced(ground):
    ground.kernel.trace.enable("vmscan:mm_vmscan_direct*")
    fill(ground, 300)
    ground.reclaim.try_to_free_pages(ground.pa.zonelist, 0, GFP_KERNEL)
    names = [name for name, _ in ground.kernel.trace.events()]
    assert names == ["vmscan:mm_vmscan_direct_reclaim_begin", "vmscan:mm_vmscan_direct_reclaim_end"]


def test_pdflush_is_told_when_much_was_scanned(ground):
    told = []
    ground.reclaim.wakeup_pdflush = told.append
    fill(ground, 300)
    for vpn in range(300):
        ground.task.mm.ptes[vpn].count += 1
    ground.reclaim.try_to_free_pages([ground.zone], 0, 0x10)
    assert told and min(told) > 48


# -- slab


def test_a_shrinker_feels_the_pressure_of_the_lists(ground):
    objects = [1000]
    asked = []

    def shrink(nr, _gfp):
        asked.append(nr)
        objects[0] -= min(nr, objects[0])
        return objects[0]

    shrinker = ground.reclaim.register_shrinker(shrink)
    freed = ground.reclaim.shrink_slab(100, GFP_KERNEL, 399)  # 4 * 100 / 2 * 1000 / 400 = 500: three batches of 128
    assert freed == 384 == ground.vmstat.slabs_scanned
    assert shrinker.nr == 500 - 384
    ground.reclaim.shrink_slab.unregister_shrinker(shrinker)
    assert ground.reclaim.shrink_slab(100, GFP_KERNEL, 399) == 0


def test_a_shrinker_that_cannot_now_is_left_alone(ground):
    ground.reclaim.register_shrinker(lambda nr, _gfp: -1 if nr else 1000)
    assert ground.reclaim.shrink_slab(1000, GFP_KERNEL, 100) == 0


def test_a_shrinker_owes_at_most_twice_its_objects(ground):
    shrinker = ground.reclaim.register_shrinker(lambda nr, _gfp: -1 if nr else 200)
    ground.reclaim.shrink_slab(100000, GFP_KERNEL, 1)
    assert shrinker.nr == 400


# -- the whole


def test_an_allocation_that_finds_no_page_reclaims_and_gets_one(ground):
    ground.process(3000)
    ground.memory.overcommit_memory = 1
    fill(ground, 1500, old=False)
    assert ground.vmstat.allocstall > 0
    assert ground.vmstat.pswpout > 400
    assert ground.pa.alloc_page(GFP_HIGHUSER_MOVABLE) is not None


def test_sysctls_are_there_and_bounded(ground):
    sysctl = ground.kernel.sysctl
    assert sysctl.read("vm.swappiness").strip() == "60"
    assert sysctl.write("vm.swappiness", "10") == 0
    assert ground.reclaim.swappiness == 10
    assert sysctl.write("vm.dirty_ratio", "40") == 0
    assert ground.reclaim.writeout.dirty_ratio == 40
    sysctl.write("vm.dirty_ratio", "101")
    assert ground.reclaim.writeout.dirty_ratio == 40


def test_the_judge_hears_that_memory_is_closed_only_when_it_is(ground):
    assert ground.reclaim.closed_probe() is None
    taken = []
    while (page := ground.pa.alloc_page(0x220)) is not None:
        taken.append(page)
    assert "no page can be reclaimed" in ground.reclaim.closed_probe()
    ground.vmstat.nr_writeback = 500
    assert "throttle_vm_writeout" in ground.reclaim.closed_probe()
    ground.vmstat.nr_writeback = 0
    ground.lru.lru_cache_add(taken[0])
    assert ground.reclaim.closed_probe() is None


# -- zones


def test_who_waits_in_the_throttle_keeps_direct_reclaim_from_reporting_failure(ground):
    """As long as kswapd has not given up, no progress is still progress: nobody is killed (B.9)."""
    assert not ground.zone.all_unreclaimable
    assert ground.reclaim.try_to_free_pages([ground.zone], 0, GFP_KERNEL) == 1
    assert not ground.zone.all_unreclaimable, "only kswapd gives up"


def test_direct_reclaim_never_gives_up_a_zone(ground):
    fill(ground, 100)
    for page in ground.zone.inactive:
        page.count += 1
    for _ in range(10):
        ground.reclaim.try_to_free_pages([ground.zone], 0, 0x10)
    assert ground.zone.pages_scanned > 6 * 100 and not ground.zone.all_unreclaimable


def test_a_page_that_comes_free_takes_the_giving_up_back(ground):
    ground.zone.all_unreclaimable, ground.zone.pages_scanned = True, 99
    page = ground.pa.alloc_page(GFP_KERNEL)
    ground.pa.free_pages(page)
    ground.pa.drain_pages(0)
    assert (ground.zone.all_unreclaimable, ground.zone.pages_scanned) == (False, 0)


@pytest.mark.parametrize(("gfp", "written"), [(GFP_KERNEL, (True, True)), (GFP_NOFS, (False, True)), (GFP_NOIO, (False, False))])
def test_nofs_swaps_out_and_noio_does_not(ground, gfp, written):
    """may_enter_fs: FS, or IO for what is in the swap cache when it is looked at. Why patch 32 exists."""
    fill(ground, 32)
    seen = []
    for _ in range(2):
        ground.reclaim.shrink_inactive_list(32, ground.zone, ScanControl(gfp))
        seen.append(ground.vmstat.pswpout > 0)
    assert tuple(seen) == written


def test_nobody_is_killed_while_the_server_is_away_and_kswapd_sleeps_in_the_throttle():
    """B.9: an outage is waited out. kswapd cannot give up a zone there, so direct reclaim goes on reporting progress."""
    with swap_ground(mem=4 * MIB) as ground:
        area, net = ground.net_area(4000)
        net.latency_ns = 20 * 10**9
        assert ground.swapfile.swapon(area) == 0
        ground.memory.overcommit_memory = 1
        task = ground.processes.spawn("hog", Touch(1100), uid=1)
        seen = []

        def kswapd_in_the_throttle():
            if ground.reclaim.kswapd.task.pid in ground.reclaim.writeout.sleepers:
                seen.append(ground.zone_given_up())
            return task.exit_code is not None

        ground.zone_given_up = lambda: ground.pa.zones[0].all_unreclaimable
        ground.world.run(until=kswapd_in_the_throttle, for_ns=15 * 10**9)
        assert len(seen) > 50 and not any(seen)
        assert ground.vmstat.oom_kills == 0 and task.exit_code is None
        net.latency_ns = 1000
        ground.run(task)
        assert (task.exit_code, ground.vmstat.oom_kills) == (0, 0)
        ground.check()


# -- try_to_free_pages(), with a shrink_zone() that does as it is told


class Scripted:
    """What direct reclaim asked for: passes, naps, calls of pdflush."""

    def __init__(self, ground, monkeypatch):
        self.ground = ground
        self.freed, self.scanned = 0, 10
        self.passes, self.naps, self.flushed = [], [], []
        monkeypatch.setattr(ground.reclaim, "shrink_zone", self.shrink_zone)
        monkeypatch.setattr(ground.reclaim, "shrink_slab", lambda *_: 0)
        monkeypatch.setattr(ground.reclaim, "congestion_wait", self.naps.append)
        monkeypatch.setattr(ground.reclaim, "wakeup_pdflush", self.flushed.append)

    def shrink_zone(self, priority, _zone, sc):
        self.passes.append(priority)
        sc.nr_scanned += self.scanned
        return self.freed

    def reclaim(self):
        return self.ground.reclaim.try_to_free_pages([self.ground.zone], 0, GFP_KERNEL)


@pytest.fixture
def scripted(ground, monkeypatch):
    return Scripted(ground, monkeypatch)


@pytest.mark.parametrize(("freed", "passes"), [(32, [12]), (31, [12, 11]), (16, [12, 11]), (15, [12, 11, 10])])
def test_direct_reclaim_ends_when_32_pages_went_in_all(scripted, freed, passes):
    scripted.freed = freed
    assert scripted.reclaim() == 1
    assert scripted.passes == passes
    assert scripted.ground.zone.prev_priority == passes[-1]


def test_without_success_it_goes_down_to_priority_0_and_naps_ten_times(scripted):
    assert scripted.reclaim() == 1, "kswapd has not given up"
    assert scripted.passes == list(range(12, -1, -1))
    assert scripted.naps == [HZ // 10] * 10
    assert scripted.ground.zone.prev_priority == 0


def test_what_is_remembered_is_this_reclaimers_priority_even_if_another_was_in_greater_need(scripted):
    scripted.ground.zone.prev_priority = 2
    scripted.freed = 32
    scripted.reclaim()
    assert scripted.ground.zone.prev_priority == 12


def test_pdflush_hears_of_more_than_48_pages(scripted):
    scripted.scanned = 16
    scripted.reclaim()
    assert scripted.flushed == [16 * n for n in range(4, 14)], "not of 48"


def test_direct_reclaim_counts_pages_of_the_slabs_once(scripted, monkeypatch):
    scripted.ground.task.reclaim_state = state = ReclaimState()
    monkeypatch.setattr(
        scripted.ground.reclaim, "shrink_slab", lambda *_: setattr(state, "reclaimed_slab", state.reclaimed_slab + 10)
    )
    scripted.reclaim()
    assert scripted.passes == [12, 11, 10, 9], "10, 20, 30, 40"
    assert state.reclaimed_slab == 0
    scripted.ground.task.reclaim_state = None


def test_a_list_that_was_scanned_begins_to_count_anew(ground):
    fill(ground, 300, old=False)
    fill(ground, 300, first=300)
    ground.reclaim.shrink_zone(1, ground.zone, ScanControl(GFP_KERNEL, may_swap=False))
    assert (ground.zone.nr_scan_active, ground.zone.nr_scan_inactive) == (0, 0)
    ground.reclaim.shrink_zone(12, ground.zone, ScanControl(GFP_KERNEL, may_swap=False))
    assert (ground.zone.nr_scan_active, ground.zone.nr_scan_inactive) == (1, 1)


@pytest.mark.parametrize(("kswapd", "counted"), [(0, (7, 0, 0, 32)), (PF_KSWAPD, (7, 7, 32, 0))])
def test_what_kswapd_scans_and_frees_is_counted_as_its_own(ground, monkeypatch, kswapd, counted):
    fill(ground, 40)
    monkeypatch.setattr(ground.reclaim.shrink_list, "shrink_page_list", lambda pages, _sc: (7, pages))
    ground.task.flags |= kswapd
    ground.reclaim.shrink_inactive_list(32, ground.zone, ScanControl(GFP_KERNEL))
    ground.task.flags &= ~kswapd
    stat = ground.vmstat
    assert (stat.pgsteal, stat.kswapd_steal, stat.pgscan_kswapd, stat.pgscan_direct) == counted


def test_without_swap_mapped_pages_of_files_may_still_leave_the_active_list():
    with swap_ground(mem=4 * MIB, kswapd=False) as ground:
        page = ground.pa.alloc_page(GFP_KERNEL)
        page.mapping = AddressSpace(Inode(ino=9, size=4096), None, None)
        page.mapcount = 1
        ground.lru.lru_cache_add_active(page)
        ground.reclaim.shrink_active_list(1, ground.pa.zones[0], ScanControl(GFP_KERNEL), 0)
        assert not page.flags & PG_active
        page.mapcount, page.mapping = 0, None
        ground.pa.put_page(page)
        ground.lru.check()


# -- any history


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "read", "direct", "inactive", "active", "kswapd", "wait"]),
            st.integers(0, 399),
            st.sampled_from([0, 1, 3, 4, 6]),
            st.sampled_from([GFP_KERNEL, GFP_NOFS, GFP_NOIO]),
        ),
        max_size=30,
    ),
    st.sampled_from(["all", "none"]),
)
def test_lists_counts_and_contents_survive_any_mix_of_reclaimers(steps, patches):
    """Blocks of all orders, with page tables, swap cache and writes under way; nothing is lost, nothing leaks."""
    with swap_ground(mem=4 * MIB, patches=patches, kswapd=False) as ground:
        area, disk = ground.disk_area(2000)
        disk.latency_ns = 50_000
        ground.swapfile.swapon(area)
        ground.process(400)
        zone = ground.pa.zones[0]
        fill(ground, 200, old=False)
        written = dict.fromkeys(range(200), 0)
        for generation, (what, number, order, gfp) in enumerate(steps, 1):
            sc = ScanControl(gfp, order)
            if what == "write":
                ground.memory.write_page(ground.task, number, page_bytes(number, generation))
                written[number] = generation
            elif what == "read":
                expected = page_bytes(number, written[number]) if number in written else ZERO_PAGE
                assert ground.memory.read_page(ground.task, number) == expected
            elif what == "direct":
                ground.reclaim.try_to_free_pages(ground.pa.zonelist, order, gfp)
            elif what == "inactive":
                ground.reclaim.shrink_inactive_list(number + 1, zone, sc)
            elif what == "active":
                ground.reclaim.shrink_active_list(number + 1, zone, sc, number % 13)
            elif what == "kswapd":
                ground.task.flags |= PF_KSWAPD
                ground.reclaim.shrink_zone(number % 13, zone, sc)
                ground.task.flags &= ~PF_KSWAPD
            else:
                ground.sched.usleep(number)
            ground.check()
        for vpn, generation in written.items():
            assert ground.memory.read_page(ground.task, vpn) == page_bytes(vpn, generation)
        assert ground.vmstat.lost_pages == 0
        ground.memory.exit_mmap(ground.task)
        assert ground.swapfile.swapoff(area) == 0
        ground.filemap.truncate_inode_pages(area.f_mapping)  # the header's page
        ground.check()
        ground.nodes.drain()
        assert ground.slub.objects_in_use(ground.slub.caches["radix_tree_node"]) == 0
        slabs = sum(len(cache.slabs) << cache.order for cache in ground.slub.caches.values())
        assert_no_pages(ground.pa, expected=slabs)


# -- laptop mode: a disk that sleeps is woken for everything at once


def test_in_laptop_mode_nothing_is_written_until_much_was_scanned(scripted, monkeypatch):
    may = []

    def shrink_zone(_priority, _zone, sc):
        may.append(sc.may_writepage)
        sc.nr_scanned += 16
        return 0

    monkeypatch.setattr(scripted.ground.reclaim, "shrink_zone", shrink_zone)
    assert scripted.ground.kernel.sysctl.write("vm.laptop_mode", "5") == 0
    scripted.reclaim()
    assert may == [False] * 4 + [True] * 9
    assert scripted.flushed == [0] * 10, "then everything"


def test_otherwise_reclaim_may_write_from_the_beginning(scripted, monkeypatch):
    may = []
    monkeypatch.setattr(scripted.ground.reclaim, "shrink_zone", lambda _priority, _zone, sc: may.append(sc.may_writepage) or 32)
    scripted.reclaim()
    assert may == [True]
