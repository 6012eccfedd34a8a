"""Same seed, same history: in any process, on both vehicles, on every Python.

history.json holds the histories of some short runs. Whoever changes the machine's behaviour on purpose writes it anew, in the same
commit, with KEMU_RECORD_HISTORY=1 in the environment of this test.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kemu.patches import PatchSet
from kemu_lab.run import run_scenario
from kemu_lab.run_config import RunConfig

RECORD = Path(__file__).with_name("history.json")
SHORT_RUNS = ["none", "all,-16", "all,-19", "all,-20", "all,-30"]

pytestmark = pytest.mark.xdist_group("main-run")


def run_elsewhere(*words, hash_seed):
    """Run kemu in a process of its own and return what it prints as JSON."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-m", "kemu_lab.cli", "run", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return json.loads(done.stdout)


def test_two_processes_have_one_history(main_run):
    first = run_elsewhere(hash_seed=1)

    assert first["outcome"] == "survived"
    assert first["history"] == main_run().history


def test_a_death_repeats_itself_whatever_the_hash_seed(main_run):
    histories = {run_elsewhere("--patches", "all,-19", hash_seed=seed)["history"] for seed in (1, 2)}

    assert histories == {main_run("all,-19").history}


@pytest.mark.parametrize("patches", ["all,-19", "all,-30", "none"])
def test_both_vehicles_have_one_history(main_run, patches):
    threads = run_scenario(RunConfig(patches=PatchSet.parse(patches), vehicle="threads"))

    assert threads.history == main_run(patches).history
    assert threads.outcome == main_run(patches).outcome


def test_tracing_does_not_change_history(monkeypatch, main_run):
    from kemu_lab import hosts

    class Traced(hosts.Pair):
        def __init__(self, config):
            super().__init__(config)
            self.client.kernel.trace.enable("*")

    monkeypatch.setattr("kemu_lab.scenarios.main_job.Pair", Traced)

    assert run_scenario(RunConfig(patches=PatchSet.parse("all,-19"))).history == main_run("all,-19").history


def test_the_histories_are_those_on_record(main_run):
    histories = {patches: main_run(patches).history for patches in SHORT_RUNS}
    if "KEMU_RECORD_HISTORY" in os.environ:
        RECORD.write_text(json.dumps(histories, indent=1) + "\n")

    assert histories == json.loads(RECORD.read_text())
