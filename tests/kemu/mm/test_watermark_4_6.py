"""Marks of newer kernels against what a 6.1 kernel printed after its sysctls were written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kemu.machine import Machine, MachineConfig
from kemu.mm import watermark_4_6 as w

SWEEP = json.loads((Path(__file__).parents[2] / "truth" / "watermark-sweep.json").read_text(encoding="ascii"))
MARKS = [point for point in SWEEP if "scale" in point]
RATIOS = [point for point in SWEEP if "lowmem_reserve_ratio" in point]


def test_the_sweep_has_both_kinds_of_points():
    assert len(MARKS) + len(RATIOS) == len(SWEEP)
    assert min(len(MARKS), len(RATIOS)) > 3


@pytest.mark.parametrize("point", MARKS, ids=lambda p: f"{p['min_free_kbytes']}-{p['scale']}")
def test_marks_agree_with_the_sweep(point):
    lowmem = sum(zone["managed"] for zone in point["zones"])
    for zone in point["zones"]:
        expected = tuple(zone[mark] - zone["boost"] for mark in ("min", "low", "high"))
        assert w.zone_marks(zone["managed"], lowmem, point["min_free_kbytes"], point["scale"]) == expected, zone["zone"]


@pytest.mark.parametrize("point", RATIOS, ids=lambda p: str(p["lowmem_reserve_ratio"]))
def test_lowmem_reserve_agrees_with_the_sweep(point):
    table = w.lowmem_reserve_table([zone["managed"] for zone in point["zones"]], point["lowmem_reserve_ratio"])
    assert table == [zone["protection"] for zone in point["zones"]]


def test_a_ratio_of_none_keeps_nothing():
    assert w.lowmem_reserve_table([10, 1000], [0, 32]) == [[0, 0], [0, 0]]


def test_highmem_keeps_its_distance_for_reclaim():
    assert w.zone_marks(131072, 225280, 3776, 10, True) == (128, 128 + 137, 128 + 274)
    assert w.zone_marks(0, 225280, 3776, 10, True) == (32, 32, 32)


@pytest.mark.parametrize(("kbytes", "expected"), [(256, 128), (1 << 20, 4096), (1 << 40, 262144)])
def test_min_free_kbytes_at_boot(kbytes, expected):
    assert w.boot_min_free_kbytes(kbytes) == expected


def test_a_machine_with_newer_marks_has_the_scale_factor():
    with Machine(MachineConfig(mem=64 << 20, geometry="6.1")) as machine:
        zone = machine.page_alloc.zones[1]
        narrow = zone.pages_low - zone.pages_min
        assert machine.kernel.sysctl.write("vm.watermark_scale_factor", "500") == 0
        assert zone.pages_low - zone.pages_min == zone.present_pages * 500 // 10000 > narrow
        assert machine.kernel.sysctl.write("vm.watermark_scale_factor", "1001") < 0
        machine.check()


def test_2_6_23_has_no_scale_factor():
    with Machine(MachineConfig(mem=64 << 20)) as machine:
        assert machine.kernel.sysctl.write("vm.watermark_scale_factor", "500") < 0
