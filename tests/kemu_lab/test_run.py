"""What a run tells, and what it leaves behind."""

import gc
import json
import re
import sys
import threading
from pathlib import Path

import jsonschema
import pytest

import kemu_lab
from kemu.kernel.world import live_worlds
from kemu.mm.page_alloc import PageAllocator
from kemu.patches import PatchSet
from kemu_lab.cli import main
from kemu_lab.run import run_scenario
from kemu_lab.run_config import RunConfig

DATA = Path(kemu_lab.__file__).parent / "data"
SCHEMA = json.loads((DATA / "run.schema.json").read_text())


@pytest.mark.parametrize(("words", "status"), [("--patches none", 1), ("--patches all,-30", 1), (f"--trace {DATA}/true.trace", 0)])
def test_json_is_as_the_schema_says(words, status, capsys):
    assert main(["run", "--json", *words.split()]) == status
    out, err = capsys.readouterr()
    jsonschema.validate(json.loads(out), SCHEMA)
    assert err == ""


@pytest.mark.xdist_group("main-run")
def test_the_survivor_is_as_the_schema_says(main_run):
    jsonschema.validate(json.loads(json.dumps(main_run().as_json())), SCHEMA)


def test_a_real_trace_is_followed_and_survives(capsys):
    assert main(["run", "--trace", str(DATA / "true.trace"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)

    assert result["outcome"] == "survived"
    assert result["pages"]["touched"] == 12 + 60 * 4


def test_pages_can_be_filled_from_a_real_file(capsys):
    assert main(["run", "--fill", sys.executable, "--patches", "all,-19", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["outcome"] == "deadlock"


def test_the_table_names_outcome_reason_chain_and_the_line_that_repeats(capsys):
    assert main(["run", "--patches", "all,-19"]) == 1
    text = capsys.readouterr().out

    assert "deadlock: " in text
    assert "1356 pages, 17 % of memory" in text
    assert re.search(r"kswapd0:\d+ on client waits for", text)
    assert "repeat: kemu run --seed 1 --patches all,-19 --fixes all" in text
    assert max(map(len, text.splitlines())) <= 90


def test_quiet_prints_the_verdict_only(capsys):
    assert main(["run", "--patches", "none", "--quiet"]) == 1
    assert len(capsys.readouterr().out.splitlines()) <= 5


def test_a_run_leaves_no_world_and_no_thread():
    for vehicle in ("greenlet", "threads"):
        run_scenario(RunConfig(patches=PatchSet.parse("all,-30"), vehicle=vehicle))
    gc.collect()

    assert not [world for world in live_worlds if not world.dead]
    assert threading.active_count() == 1


def test_the_deepest_stack_is_below_400_frames(monkeypatch):
    deepest = 0
    plain = PageAllocator._alloc_pages

    def probed(self, *args):
        nonlocal deepest
        frame, depth = sys._getframe(), 0
        while frame is not None:
            frame, depth = frame.f_back, depth + 1
        deepest = max(deepest, depth)
        return plain(self, *args)

    monkeypatch.setattr(PageAllocator, "_alloc_pages", probed)
    run_scenario(RunConfig(patches=PatchSet.parse("all,-19")))

    assert 20 < deepest < 400
