"""Injected allocation failures."""

from __future__ import annotations

import pytest

from kemu.mm import gfp as g
from kemu.mm.fault_inject import FailPageAlloc
from mm_ground import MIB, ground


@pytest.fixture
def machine():
    with ground(8 * MIB) as machine:
        yield machine


def failures(machine, calls=100, gfp=g.GFP_ATOMIC, order=0, **how):
    how = {"min_order": 0, **how}
    machine.pa.fail_page_alloc = FailPageAlloc(machine.kernel, **how)
    return [i for i in range(calls) if machine.pa.alloc_pages(gfp, order) is None]


def test_everything_fails_if_told_so(machine):
    assert failures(machine, 10) == list(range(10))


def test_times_bounds_the_number(machine):
    assert failures(machine, times=3) == [0, 1, 2]


def test_interval_spreads_them(machine):
    assert failures(machine, 12, interval=4) == [3, 7, 11]


def test_space_lets_so_many_pages_pass(machine):
    assert failures(machine, 12, space=10, times=1) == [9]


def test_probability_comes_from_the_machines_seed():
    runs = []
    for _ in range(2):
        with ground(8 * MIB) as machine:
            runs.append(failures(machine, probability=30))
    assert runs[0] == runs[1] and 10 < len(runs[0]) < 60


@pytest.mark.parametrize(("gfp", "order"), [(g.GFP_KERNEL, 1), (g.GFP_ATOMIC, 0), (g.GFP_ATOMIC | g._GFP_HIGHMEM, 1)])
def test_the_kernels_filters_let_these_pass(machine, gfp, order):
    assert failures(machine, 5, gfp, order, min_order=1) == []


def test_nofail_is_never_failed(machine):
    assert failures(machine, 5, g.GFP_KERNEL | g._GFP_NOFAIL, ignore_gfp_wait=False) == []


def test_injection_is_silent_and_counted(machine):
    failures(machine, 5)
    assert machine.pa.fail_page_alloc.failed == 5 and not machine.kernel.printk.buffer
