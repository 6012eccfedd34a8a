"""``kemu geometry``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kemu_lab.cli import main

TRUTH = Path(__file__).parents[1] / "truth"


def ask(capsys, *words):
    """Run the command; give its status and what it printed."""
    status = main(["geometry", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_sizes_are_printed_as_a_table(capsys):
    status, out, _ = ask(capsys, "--policy", "6.1", "--cpus", "4", "--size", "192", "--size", "704")
    lines = [line.split() for line in out.splitlines()]
    assert status == 0
    assert lines[-2:] == [["192", "0", "21", "5", "120"], ["704", "2", "23", "5", "52"]]


def test_sizes_as_json_name_the_policy_and_its_inputs(capsys):
    status, out, _ = ask(capsys, "--size", "2048", "--slub-max-order", "0", "--json")
    data = json.loads(out)
    assert status == 0
    assert (data["policy"], data["cpus"], data["word"], data["slub_max_order"]) == ("2.6.23", 1, 8, 0)
    assert data["rows"] == [
        {
            "object_size": None,
            "align": None,
            "slab_size": 2048,
            "order": 0,
            "objs_per_slab": 2,
            "min_partial": 2,
            "cpu_partial": None,
        }
    ]


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--object-size", "100"], 104),
        (["--object-size", "100", "--align", "32"], 128),
        (["--object-size", "100", "--hwcache-align"], 128),
        (["--object-size", "100", "--rcu"], 112),
        (["--object-size", "100", "--ctor"], 112),
        (["--object-size", "100", "--word", "4"], 104),
        (["--object-size", "96", "--slub-debug", "FZPU"], 96 + 8 + 8 + 64 + 8 + 8),
        (["--object-size", "96", "--slub-debug", "FZPU", "--kmalloc"], 96 + 8 + 8 + 64 + 8 + 8 + 8),
        (["--object-size", "96", "--slub-debug", "ZU", "--word", "4"], 96 + 4 + 40 + 4 + 8 + 0),
    ],
)
def test_a_size_is_derived_from_the_objects(capsys, words, size):
    _, out, _ = ask(capsys, "--policy", "6.1", "--json", *words)
    assert json.loads(out)["rows"][0]["slab_size"] == size


@pytest.mark.parametrize("path", sorted(TRUTH.glob("slab*.json")), ids=lambda path: path.stem)
def test_a_table_that_agrees_is_status_0(capsys, path):
    status, out, _ = ask(capsys, "--against", str(path))
    assert status == 0
    assert out.endswith("all are equal\n")


def test_a_table_that_differs_is_status_1_and_names_the_cache(capsys, tmp_path):
    data = json.loads((TRUTH / "slab-m256-c4.json").read_text(encoding="utf-8"))
    data["slab"]["dentry"]["order"] = 5
    path = tmp_path / "table.json"
    path.write_text(json.dumps(data))
    status, out, _ = ask(capsys, "--against", str(path))
    assert status == 1
    assert "dentry: order is 5 in the table, and 0 by the formula\n" in out
    status, out, _ = ask(capsys, "--against", str(path), "--json")
    assert status == 1
    assert json.loads(out)["differences"] == [{"cache": "dentry", "field": "order", "computed": "0", "table": 5}]


def test_what_is_given_goes_before_the_table(capsys):
    status, out, _ = ask(capsys, "--against", str(TRUTH / "slab-m256-c4.json"), "--cpus", "64", "--slub-max-order", "2", "--json")
    assert status == 1
    assert json.loads(out)["cpus"] == 64


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "nothing to compute"),
        (["--size", "0"], "--size '0' cannot be used"),
        (["--size", "-8"], "--size '-8' cannot be used"),
        (["--size", "9" * 400], "cannot be used"),
        (["--size", "٣"], "cannot be used"),
        (["--size", "4000000", "--slub-min-order", "12", "--policy", "6.1"], "fits no slab"),
        (["--size", "8", "--policy", "5.4"], "choose 2.6.23, 6.1, 6.18"),
        (["--size", "8", "--cpus", "0"], "--cpus '0' cannot be used"),
        (["--size", "8", "--word", "16"], "a word has 4 or 8 bytes"),
        (["--size", "8", "--slub-debug", "Q"], "is no letter"),
        (["--object-size", "8", "--align", "x"], "--align 'x' cannot be used"),
        (["--against", "/nowhere"], "No such file"),
        (["--against", "x\0y"], "--against"),
        (["--against", "x", "--size", "8"], "cannot be mixed"),
        (["--against", "x", "--this-machine"], "cannot be mixed"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(capsys, words, why):
    status, out, err = ask(capsys, *words)
    assert (status, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


def test_this_machine_agrees_or_says_why_it_cannot_be_read(capsys):
    status, out, err = ask(capsys, "--this-machine")
    if status == 2:
        pytest.skip(f"the running kernel cannot be read: {err.strip()}")
    assert "this machine: policy" in out


@pytest.mark.parametrize("policy", ["2.6.23", "6.1", "6.18"])
def test_a_table_of_derived_sizes_fits_an_ordinary_terminal(capsys, policy):
    status, out, _ = ask(capsys, "--policy", policy, "--object-size", "1000000", "--align", "64", "--rcu")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[1].split()[0] == "object_size"
