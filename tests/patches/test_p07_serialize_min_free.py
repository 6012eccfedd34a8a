"""Patch 07: two passes over the marks do not interleave."""

from __future__ import annotations

import pytest

from kemu.errors import KernelBug
from kemu.kernel.policy import Explorer
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


def race(machine, preempt_at, writes=("1024", "4096")):
    """Let tasks write the sysctl; the one that reaches the n-th preemption points in ``preempt_at`` gives way."""
    seen = [0]

    def preempt(label, _current):
        assert label == "setup_per_zone_pages_min"
        seen[0] += 1
        return seen[0] in preempt_at

    def writer(text):
        def body():
            assert machine.kernel.sysctl.write("vm.min_free_kbytes", text) == 0

        return body

    sched = machine.kernel.sched
    sched.policy = Explorer(lambda _: 0, preempt)
    tasks = [sched.spawn(f"writer{i}", writer(text)) for i, text in enumerate(writes)]
    for task in tasks:
        sched.join(task)
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
