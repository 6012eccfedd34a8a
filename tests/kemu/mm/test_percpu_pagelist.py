"""The sysctl that says how long hot lists may grow."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import EINVAL
from kemu.mm import gfp as g
from mm_ground import MIB, ground

NAME = "vm.percpu_pagelist_fraction"


@pytest.fixture
def machine():
    """DMA32 of 112 MiB: 28672 pages."""
    with ground(128 * MIB, ncpus=2) as machine:
        yield machine
        machine.pa.check()


def lists(machine, zone=1):
    zone = machine.pa.zones[zone]
    return [(pcp.high, pcp.batch) for pcp in (*zone.hot, *zone.cold)]


def test_at_boot_it_is_0_and_says_nothing(machine):
    assert machine.kernel.sysctl.read(NAME) == "0\n"
    assert lists(machine) == [(42, 7)] * 2 + [(14, 3)] * 2


@pytest.mark.parametrize(
    ("fraction", "high", "batch"), [(1000, 28, 7), (100, 286, 71), (50, 573, 96), (8, 3584, 96), (30000, 0, 1)]
)
def test_it_sets_the_hot_lists_of_all_cpus(machine, fraction, high, batch):
    assert machine.kernel.sysctl.write(NAME, str(fraction)) == 0
    assert lists(machine) == [(high, batch)] * 2 + [(14, 3)] * 2
    assert lists(machine, 0)[0][0] == 4096 // fraction


@pytest.mark.parametrize("text", ["7", "0", "-8"])
def test_less_than_8_is_refused(machine, text):
    assert machine.kernel.sysctl.write(NAME, text) == -EINVAL
    assert machine.kernel.sysctl.read(NAME) == "0\n" and lists(machine)[0] == (42, 7)


def test_a_list_grows_to_its_new_length_and_gives_a_batch_back(machine):
    machine.kernel.sysctl.write(NAME, "100")
    pages = [machine.pa.alloc_page(g.GFP_KERNEL) for _ in range(400)]
    zone = machine.pa.zones[1]
    longest = 0
    for page in pages:
        machine.pa.free_pages(page)
        longest = max(longest, len(zone.hot[0].pages))
    assert longest == 285
    machine.pa.drain_pages(0)
    assert machine.pa.nr_free_pages() == machine.pa.total_pages


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_write_changes_nothing(machine, text):
    machine.kernel.sysctl.write(NAME, text)
    assert lists(machine)[0] == (42, 7)
