"""Patch 04, seen from outside: a late disk that holds all bios."""

import functools

import pytest

from kemu.errors import ConfigError
from kemu.patches import PatchSet
from kemu_lab.run import run_scenario
from kemu_lab.run_config import RunConfig

pytestmark = pytest.mark.xdist_group("late-disk")


@functools.cache
def run(patches, cpus=1, vehicle=None):
    return run_scenario(RunConfig("late-disk", mem=16 << 20, patches=PatchSet.parse(patches), cpus=cpus, vehicle=vehicle))


def pages_meanwhile(result):
    return int(result.reason.split(" pages went")[0].split()[-1])


def test_with_patch_04_reclaim_goes_on_beside_the_late_disk():
    result = run("all")

    assert (result.outcome, result.also) == ("survived", [])
    assert result.reclaim.mempool_sleeps == 0
    assert pages_meanwhile(result) > 3000


def test_with_two_cpus_too_though_the_reserve_may_run_out_for_a_moment():
    """Nobody has reserved anything for bios here: what is entitled is what GFP_ATOMIC has left, 3/8 of pages_min."""
    result = run("all", cpus=2)

    assert (result.outcome, result.also) == ("survived", [])
    assert pages_meanwhile(result) > 3000
    assert result.reclaim.mempool_sleeps <= 1


@pytest.mark.parametrize("patches", ["all,-4", "all,-1", "none"])
def test_without_it_the_machine_sleeps_in_slices_of_5_s(patches):
    """Kswapd and the process, each at 0, 5 and 10 s; the third nap ends when the disk answers after 12 s."""
    result = run(patches)

    assert (result.outcome, result.also) == ("survived", [])
    assert result.reclaim.mempool_sleeps >= 6
    assert "12 s, 0 pages went to sda, and reclaim slept 6 times" in result.reason


def test_the_whole_takes_longer_by_what_it_slept():
    assert run("all,-4").virtual_ns - run("all").virtual_ns > 5 * 10**9


def test_in_the_end_nobody_has_lost_anything():
    for patches in ("all", "all,-4"):
        result = run(patches)
        assert result.pages.lost == result.reclaim.oom_kills == 0
        assert result.pages.verified > result.pages.touched


def test_both_vehicles_have_one_history():
    assert run("all,-4", vehicle="threads").history == run("all,-4").history


def test_it_does_not_swap_over_nfs():
    with pytest.raises(ConfigError, match="leave --swap out"):
        run_scenario(RunConfig("late-disk", swap="nfs"))


def test_the_line_that_repeats_it_names_the_scenario():
    assert run("all,-4").command.startswith("kemu run late-disk --swap disk --mem 16M")
