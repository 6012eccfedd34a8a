"""The main job with a disk of the client's own: it lives, whatever the patches, because mempools are enough."""

import functools
import json
import os
import subprocess
import sys

import pytest

from kemu.fixes import FixSet
from kemu.patches import PatchSet
from kemu_lab.run import run_scenario
from kemu_lab.run_config import RunConfig

pytestmark = pytest.mark.xdist_group("main-disk")


@functools.cache
def run(patches="all", seed=1, fixes="all", cpus=1, vehicle=None):
    words = {"patches": PatchSet.parse(patches), "fixes": FixSet.parse(fixes)}
    return run_scenario(RunConfig(swap="disk", mem=16 << 20, seed=seed, cpus=cpus, vehicle=vehicle, **words))


@pytest.mark.parametrize("patches", ["all", "none", "all,-4", "all,-25", "series:12"])
def test_it_survives_with_any_patches(patches):
    result = run(patches)

    assert (result.outcome, result.also) == ("survived", [])
    assert result.pages.swapped_out > 4000 and result.pages.swapped_in > 3000
    assert result.pages.lost == result.reclaim.oom_kills == 0


@pytest.mark.parametrize("words", [{"seed": 2}, {"seed": 3}, {"cpus": 2}, {"fixes": "none"}])
def test_it_survives_on_other_seeds_and_cpus(words):
    assert (run(**words).outcome, run(**words).also) == ("survived", [])


def test_the_disk_does_the_work_and_nfs_nothing():
    result = run()

    assert result.swap == "disk"
    assert result.disk.writes > 50 and result.disk.reads > 500
    assert result.disk.merged > result.pages.swapped_out / 2  # bios of a page join requests of up to 128
    assert result.nfs.writes == result.nfs.reads == 0
    assert result.reserve.pages_emerg == 0  # no socket is swapped to: nothing has to be held back


def test_frames_are_lost_at_the_nic_and_it_does_not_matter():
    """The disk's completions need no memory."""
    assert run().net.drops["nic"] > 500


def test_nobody_sleeps_for_a_pool_as_long_as_the_disk_answers():
    assert run("none").reclaim.mempool_sleeps == 0


def test_another_process_with_another_hash_seed_has_the_same_history():
    words = ["run", "--swap", "disk", "--mem", "16M", "--json"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-m", "kemu_lab.cli", *words], capture_output=True, text=True, env=environment, check=True
    )

    assert json.loads(done.stdout)["history"] == run().history
    assert json.loads(done.stdout)["swap"] == "disk"


def test_both_vehicles_have_one_history():
    assert run(vehicle="threads").history == run().history
