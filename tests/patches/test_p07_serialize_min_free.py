"""Patch 07: two passes over the marks do not interleave."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemu.errors import KernelBug
from kemu.kernel.policy import Explorer
from kemu.mm.memory_hotplug import MemoryHotplug
from kemu.mm.watermark import zone_emerg, zone_marks
from mm_ground import MIB, ground


def consistent(pa):
    """Tell whether all marks fit the one pair of inputs that stands now."""
    lowmem = sum(zone.present_pages for zone in pa.zones)
    return all(
        (zone.pages_min, zone.pages_low, zone.pages_high) == zone_marks(zone.present_pages, lowmem, pa.min_free_kbytes)
        and zone.pages_emerg == zone_emerg(zone.present_pages, lowmem, pa.var_free_kbytes)
        for zone in pa.zones
    )


def sysctl(machine, text):
    def body():
        assert machine.kernel.sysctl.write("vm.min_free_kbytes", text) == 0

    return body


def hotplug(machine, section=1):
    """Add one section of 128 MiB."""

    def body():
        added = MemoryHotplug(machine.pa)
        assert added.online_pages(0, section * added.section_pages, added.section_pages) == 0

    return body


def swapon(machine, pages):
    def body():
        assert machine.pa.adjust_memalloc_reserve(pages) == 0

    return body


def race(machine, preempt_at, writes=("1024", "4096")):
    """Let tasks write the sysctl; the one that reaches the n-th preemption points in ``preempt_at`` gives way."""
    return race_of(machine, preempt_at, [sysctl(machine, text) for text in writes])


def race_of(machine, preempt_at, bodies):
    """Let tasks run side by side, each with a pass of its own."""
    seen = [0]

    def preempt(label, _current):
        assert label == "setup_per_zone_pages_min"
        seen[0] += 1
        return seen[0] in preempt_at

    sched = machine.kernel.sched
    sched.policy = Explorer(lambda _: 0, preempt)
    tasks = [sched.spawn(f"caller{i}", body) for i, body in enumerate(bodies)]
    for task in tasks:
        sched.join(task)
    machine.pa.check()
    return machine.pa


SCHEDULES = [{n} for n in range(1, 6)] + [{1, 4}, {1, 5}, {2, 5}, {1, 3, 5}]


@pytest.mark.parametrize("preempt_at", SCHEDULES, ids=str)
def test_on_every_interleaving_ends_with_the_marks_of_the_last_value(preempt_at):
    with ground(32 * MIB) as machine:
        pa = race(machine, preempt_at)
        assert consistent(pa) and pa.min_free_kbytes == 4096


def test_off_an_interleaving_leaves_marks_of_both():
    with ground(32 * MIB, "all,-7") as machine:
        pa = race(machine, {1})
        assert not consistent(pa)
        assert [zone.pages_min for zone in pa.zones[:2]] == [512, 128]


# the second caller: memory hotplug


@pytest.mark.parametrize("preempt_at", SCHEDULES, ids=str)
@pytest.mark.parametrize("first", ["sysctl", "hotplug"])
def test_on_the_sysctl_and_hotplug_leave_one_consistent_set(first, preempt_at):
    with ground(32 * MIB) as machine:
        bodies = [sysctl(machine, "4096"), hotplug(machine)]
        pa = race_of(machine, preempt_at, bodies if first == "sysctl" else bodies[::-1])
        assert consistent(pa) and pa.min_free_kbytes == 4096 and pa.total_pages == 160 * MIB >> 12


@pytest.mark.parametrize(
    ("first", "marks"),
    [
        # the sysctl's pass shared 1024 pages among 32 MiB, hotplug's among 160; NORMAL had its share of the first as well
        ("sysctl", [4096 * 1024 // 40960, 512, 4096]),
        # hotplug's pass had read 724 kB, and found the other's marks too late
        ("hotplug", [4096 * 1024 // 40960, 4096 * 181 // 40960, 32768 * 181 // 40960]),
    ],
)
def test_off_the_sysctl_and_hotplug_leave_mixed_marks(first, marks):
    with ground(32 * MIB, "all,-7") as machine:
        bodies = [sysctl(machine, "4096"), hotplug(machine)]
        pa = race_of(machine, {1}, bodies if first == "sysctl" else bodies[::-1])
        assert not consistent(pa) and [zone.pages_min for zone in pa.zones] == marks


@settings(max_examples=40, deadline=None)
@given(
    st.permutations(["sysctl 1024", "sysctl 4096", "hotplug 1", "hotplug 2", "swapon 50"]),
    st.sets(st.integers(1, 15), max_size=6),
)
def test_on_no_schedule_of_three_kinds_of_callers_mixes_marks(order, preempt_at):
    kinds = {"sysctl": lambda m, n: sysctl(m, str(n)), "hotplug": hotplug, "swapon": swapon}
    with ground(32 * MIB) as machine:
        pa = race_of(machine, preempt_at, [kinds[word.split()[0]](machine, int(word.split()[1])) for word in order])
        last = [word for word in order if word.startswith("sysctl")][-1]
        assert consistent(pa) and f"sysctl {pa.min_free_kbytes}" == last
        assert sum(zone.pages_min for zone in pa.zones) <= pa.min_free_kbytes // 4


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(1, 12), max_size=5))
def test_the_sum_of_reserves_is_one_sets_too(preempt_at):
    """totalreserve_pages is summed up at the end of each pass: of the marks of one."""
    with ground(32 * MIB) as machine:
        pa = race_of(machine, preempt_at, [sysctl(machine, "4096"), hotplug(machine)])
        assert pa.totalreserve_pages == sum(
            min(zone.present_pages, max(zone.lowmem_reserve) + zone.pages_high + zone.pages_emerg) for zone in pa.zones
        )


@pytest.mark.parametrize("patches", ["all", "all,-7"])
def test_alone_hotplug_leaves_a_consistent_set(patches):
    with ground(32 * MIB, patches) as machine:
        hotplug(machine)()
        assert consistent(machine.pa)


def test_off_a_later_pass_mends_it():
    with ground(32 * MIB, "all,-7") as machine:
        pa = race(machine, {1})
        pa.setup_per_zone_pages_min()
        assert consistent(pa)


@pytest.mark.parametrize("patches", ["all", "all,-7"])
def test_alone_there_is_no_difference(patches):
    with ground(32 * MIB, patches) as machine:
        machine.kernel.sysctl.write("vm.min_free_kbytes", "3000")
        machine.pa.adjust_memalloc_reserve(77)
        assert consistent(machine.pa)


@pytest.mark.parametrize("kbytes", ["0", "128", "725", "65537"])
def test_the_zones_together_keep_no_more_than_was_asked(kbytes):
    with ground(32 * MIB) as machine:
        machine.kernel.sysctl.write("vm.min_free_kbytes", kbytes)
        assert int(kbytes) // 4 - 1 <= sum(zone.pages_min for zone in machine.pa.zones) <= int(kbytes) // 4


def test_the_boot_path_takes_no_lock():
    """Whoever calls it with the lock held would otherwise hang here."""
    with ground(32 * MIB) as machine:
        lock = machine.pa.min_free.min_free_lock
        flags = lock.spin_lock_irqsave()
        machine.pa.min_free._init_per_zone_pages_min()
        with pytest.raises(KernelBug, match="recursion"):
            machine.pa.setup_per_zone_pages_min()
        machine.kernel.sched.cpu.preempt_count = 1
        lock.spin_unlock_irqrestore(flags)


@pytest.mark.parametrize(("patches", "held"), [("all", (True, 1, True)), ("all,-7", (False, 0, False))])
def test_a_pass_holds_this_lock_alone_with_interrupts_off(patches, held):
    """So no order of locks can go wrong: inside it the kernel takes zone->lru_lock, which kemu has not."""
    with ground(32 * MIB, patches) as machine:
        lock, cpu = machine.pa.min_free.min_free_lock, machine.kernel.sched.cpu
        seen = []
        machine.kernel.sched.preemption_point = lambda _: seen.append(
            (lock.owner is cpu, cpu.preempt_count, bool(cpu.irq_disabled))
        )
        machine.pa.setup_per_zone_pages_min()
        assert seen == [held] * 3
        assert lock.owner is None and not cpu.preempt_count and not cpu.irq_disabled
