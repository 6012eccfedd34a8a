"""The pool itself; patch 08's invariants are in tests/patches/test_p08_emergency_pool.py."""

import pytest

from kemu import Machine, MachineConfig
from kemu.errors import KernelBug


def marks(machine):
    return [(zone.pages_min, zone.pages_low, zone.pages_high, zone.pages_emerg) for zone in machine.page_alloc.zones]


@pytest.mark.parametrize("pages", [1, 100, 500])
def test_up_and_down_again_restores_every_mark(pages):
    with Machine(MachineConfig(mem=16 << 20)) as machine:
        before = marks(machine)

        assert machine.page_alloc.adjust_memalloc_reserve(pages) == 0
        assert sum(zone.pages_emerg for zone in machine.page_alloc.zones) == pages
        assert machine.page_alloc.adjust_memalloc_reserve(-pages) == 0
        assert marks(machine) == before


def test_less_than_nothing_is_a_bug():
    with Machine(MachineConfig(mem=16 << 20)) as machine, pytest.raises(KernelBug):
        machine.page_alloc.adjust_memalloc_reserve(-1)


def test_the_new_size_is_logged_in_kilobytes():
    with Machine(MachineConfig(mem=16 << 20)) as machine:
        machine.page_alloc.adjust_memalloc_reserve(25)

        assert "Emergency reserve: 100" in [text for _, _, text in machine.kernel.printk.buffer]


def test_without_the_patch_nothing_changes():
    with Machine(MachineConfig(mem=16 << 20, patches="all,-8")) as machine:
        before = marks(machine)

        assert machine.page_alloc.adjust_memalloc_reserve(100) == 0
        assert marks(machine) == before
