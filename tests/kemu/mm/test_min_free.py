"""Marks at boot and by sysctl; patch 07's serialization is in tests/patches/test_p07_serialize_min_free.py."""

import pytest

from kemu import Machine, MachineConfig


@pytest.mark.parametrize(("mib", "kbytes"), [(16, 512), (64, 1024), (128, 1448), (256, 2048), (1024, 4096)])
def test_min_free_kbytes_at_boot(mib, kbytes):
    with Machine(MachineConfig(mem=mib << 20)) as machine:
        assert machine.kernel.sysctl.read("vm.min_free_kbytes").split() == [str(kbytes)]


def test_a_write_moves_all_marks_with_it():
    with Machine(MachineConfig(mem=16 << 20)) as machine:
        assert machine.kernel.sysctl.write("vm.min_free_kbytes", "1024\n") == 0
        zone = machine.page_alloc.zonelist[0]

        assert (zone.pages_min, zone.pages_low, zone.pages_high) == (256, 320, 384)


def test_a_negative_write_is_refused_and_changes_nothing():
    with Machine(MachineConfig(mem=16 << 20)) as machine:
        before = machine.kernel.sysctl.read("vm.min_free_kbytes")

        assert machine.kernel.sysctl.write("vm.min_free_kbytes", "-1\n") < 0
        assert machine.kernel.sysctl.read("vm.min_free_kbytes") == before


def test_the_reserve_of_lower_zones_follows_the_ratio():
    with Machine(MachineConfig(mem=32 << 20)) as machine:
        dma, dma32 = machine.page_alloc.zones[:2]

        assert dma.lowmem_reserve[1] == dma32.present_pages // 256
        assert dma.lowmem_reserve[0] == dma32.lowmem_reserve[1] == 0
