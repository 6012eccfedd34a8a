"""Runs of the main job that several tests look at."""

import functools

import pytest

from kemu.fixes import FixSet
from kemu.patches import PatchSet
from kemu_lab.run import run_scenario
from kemu_lab.run_config import RunConfig


@functools.cache
def _run(patches, fixes, seed, nic):
    return run_scenario(RunConfig(patches=PatchSet.parse(patches), fixes=FixSet.parse(fixes), seed=seed, nic=nic))


@pytest.fixture
def main_run():
    """Run the main job, once per set of options and process."""

    def run(patches="all", fixes="all", seed=1, nic=""):
        return _run(patches, fixes, seed, nic)

    return run
