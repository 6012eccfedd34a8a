"""The soak of bench/soak_memory.py, in short; and that it would notice what is left."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "soak_memory.py"


def run(*words):
    return subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def soak():
    spec = importlib.util.spec_from_file_location("soak_memory", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    soak = module.Soak(seed=7)
    yield soak
    soak.machine.shutdown()


@pytest.mark.parametrize("patches", ["all", "none"])
def test_nothing_is_left_after_20000_operations(patches):
    done = run("--operations", "20000", "--seed", "5", "--patches", patches, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["left"] == {}
    assert report["operations"] >= 20_000
    assert report["nulls"] > 0, "memory never ran out: the soak shows nothing"


def test_the_same_seed_does_the_same():
    reports = [json.loads(run("--operations", "4000", "--seed", "9", "--json").stdout) for _ in range(2)]
    assert reports[0]["served"] == reports[1]["served"]


def test_every_mark_is_reached(soak):
    soak.run(40_000)
    soak.give_back()
    assert min(soak.pa.vmstat.alloc_low, soak.pa.vmstat.alloc_min, soak.pa.vmstat.alloc_no_watermarks) > 0
    assert soak.left() == {}


@pytest.mark.parametrize("what", ["pages", "objects of kmalloc-128", "kB of the emergency pool"])
def test_what_is_left_is_named(soak, what):
    soak.run(2000)
    soak.give_back()
    if what == "pages":
        soak.pa.alloc_pages(0x20, 2)
    elif what == "kB of the emergency pool":
        soak.machine.reserves.mem_reserve_pages_set(soak.reserve, 3)
    else:
        soak.slub.kmalloc(128, 0x20)
    assert what in soak.left()


def test_bad_words_are_refused_with_a_sentence():
    done = run("--patches", "99")
    assert done.returncode != 0 and "99" in done.stderr and "Traceback" not in done.stderr
