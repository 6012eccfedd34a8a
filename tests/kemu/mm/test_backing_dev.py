"""Naps, and what ends them early (mm/backing_dev.py)."""

from __future__ import annotations

import pytest

from kemu.kernel.timer import HZ, NSEC_PER_JIFFY
from kemu.mm.backing_dev import READ, WRITE, BackingDev
from swap_ground import swap_ground


@pytest.fixture
def ground():
    with swap_ground(kswapd=False) as g:
        yield g


@pytest.mark.parametrize("jiffies", [HZ // 50, HZ // 10])
def test_a_nap_lasts_its_whole_time_when_no_queue_was_congested(ground, jiffies):
    start = ground.sched.now
    left = ground.congestion.congestion_wait(WRITE, jiffies)
    assert left == 0
    assert ground.sched.now - start >= (jiffies - 1) * NSEC_PER_JIFFY
    assert ground.congestion.naps == 1


def test_a_congested_queue_that_clears_ends_the_nap(ground):
    bdi = BackingDev(ground.congestion, "net")
    bdi.set_congested(WRITE)
    ground.world.post(8 * NSEC_PER_JIFFY, lambda _: bdi.clear_congested(WRITE), None)
    left = ground.congestion.congestion_wait(WRITE, 100)
    assert 85 <= left <= 93
    assert not bdi.congested(WRITE)


def test_clearing_what_was_not_congested_wakes_nobody(ground):
    bdi = BackingDev(ground.congestion, "net")
    ground.world.post(NSEC_PER_JIFFY, lambda _: bdi.clear_congested(WRITE), None)
    assert ground.congestion.congestion_wait(WRITE, 10) == 0


def test_directions_are_apart(ground):
    bdi = BackingDev(ground.congestion, "net")
    bdi.set_congested(READ)
    assert bdi.congested(READ) and not bdi.congested(WRITE)
    ground.world.post(NSEC_PER_JIFFY, lambda _: bdi.clear_congested(READ), None)
    assert ground.congestion.congestion_wait(WRITE, 10) == 0


def test_a_napper_can_be_explained(ground):
    ground.task.why = ("congestion", "WRITE")
    assert "congestion_wait" in ground.judge.explain(ground.task)
    ground.task.why = None


def test_its_repr_names_the_device(ground):
    assert repr(BackingDev(ground.congestion, "net")) == "<BackingDev net>"


def test_a_device_reads_nothing_ahead_and_nobody_flushes_it_unless_said(ground):
    bdi = BackingDev(ground.congestion, "net")
    assert (bdi.ra_pages, bdi.pdflush) == (0, False)
    assert BackingDev(ground.congestion, "disk", ra_pages=32).ra_pages == 32
