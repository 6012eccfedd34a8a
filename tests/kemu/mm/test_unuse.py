"""Swapoff's walk (mm/unuse.py)."""

from __future__ import annotations

import pytest

from kemu.kernel.errno import ENOMEM
from kemu.mm.page import ZERO_PAGE
from swap_ground import page_bytes, swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        g.area, g.disk = g.disk_area(100)
        g.swapfile.swapon(g.area)
        g.process(16)
        yield g


def test_a_slot_whose_page_cannot_be_had_is_enomem(ground, monkeypatch):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    monkeypatch.setattr(ground.swap_state, "read_swap_cache_async", lambda _entry: None)
    assert ground.swapfile.swapoff(ground.area) == -ENOMEM


def test_a_slot_that_leaks_keeps_swapoff_busy_until_it_is_free(ground):
    entry = ground.swapfile.get_swap_page()

    def give_back(_):
        ground.swapfile.swap_free(entry)

    ground.world.post(20_000_000, give_back, None)
    assert ground.swapfile.swapoff(ground.area) == 0


def test_a_page_that_could_not_be_read_is_lost_data(ground):
    ground.memory.write_page(ground.task, 0, page_bytes(0))
    ground.swap_out(0)
    ground.disk.blocks.clear()
    assert ground.swapfile.swapoff(ground.area) == 0
    assert ground.task.mm.ptes[0].contents == ZERO_PAGE
    assert ground.judge.outcome == "data_loss"
    assert ground.vmstat.lost_pages == 1


def test_only_the_areas_own_pages_come_back(ground):
    other, _ = ground.disk_area(100)
    ground.swapfile.swapon(other, priority=10)
    for vpn in range(4):
        ground.memory.write_page(ground.task, vpn, page_bytes(vpn))
        ground.swap_out(vpn)
    assert ground.swapfile.swapoff(ground.area) == 0
    assert ground.vmstat.pswpin == 0
    assert ground.swapfile.swapoff(other) == 0
    assert ground.vmstat.pswpin == 4
