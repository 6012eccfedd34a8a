"""Memory as text."""

from __future__ import annotations

import pytest

from kemu.mm.gfp import GFP_KERNEL
from kemu.mm.show_mem import ShowMem
from mm_ground import MIB, ground


@pytest.fixture
def machine():
    with ground(32 * MIB) as machine:
        machine.show = ShowMem(machine.kernel, machine.pa)
        machine.pa.alloc_page(GFP_KERNEL)
        yield machine


def test_free_areas_add_up(machine):
    text = machine.show.show_free_areas()
    assert "free:8191 slab:0" in text.splitlines()[0]
    assert "Node 0 DMA32: 1*4kB 1*8kB 1*16kB 1*32kB 1*64kB 1*128kB 1*256kB 1*512kB 1*1024kB 1*2048kB 3*4096kB = 16380kB" in text
    assert "lowmem_reserve[]: 0 16 16" in text


def test_empty_zones_are_not_shown(machine):
    for text in (machine.show.show_free_areas(), machine.show.zoneinfo(), machine.show.buddyinfo()):
        assert "NORMAL" not in text


def test_buddyinfo_counts_blocks_per_order(machine):
    assert [int(word) for word in machine.show.buddyinfo().splitlines()[1].split()[4:]] == [1] * 10 + [3]


def test_zoneinfo_shows_protection_and_per_cpu_lists(machine):
    text = machine.show.zoneinfo()
    assert "protection: (0, 16, 16)" in text and text.count("cpu: 0 pcp: 0") == 2
