"""``kemu watermarks``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kemu_lab.cli import main

TRUTH = Path(__file__).parents[1] / "truth"
SWEEP = TRUTH / "watermark-sweep.json"


def ask(capsys, *words):
    """Run the command; give its status and what it printed."""
    status = main(["watermarks", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_machine_of_128_mebibytes_has_the_marks_of_2_6_23(capsys):
    status, out, _ = ask(capsys, "--json")
    data = json.loads(out)
    assert status == 0
    assert data["min_free_kbytes"] == 1448
    assert [(zone["zone"], zone["min"], zone["low"], zone["high"]) for zone in data["zones"]] == [
        ("DMA", 45, 56, 67),
        ("DMA32", 316, 395, 474),
        ("Normal", 0, 0, 0),
    ]
    assert data["zones"][0]["protection"] == [0, 112, 112]
    assert "scale" not in data  # 2.6.23 has no such sysctl


def test_the_same_for_people(capsys):
    status, out, _ = ask(capsys, "--mem", "128M")
    assert status == 0
    assert out.startswith("policy 2.6.23, min_free_kbytes 1448\n")
    assert out.splitlines()[-2].split() == ["0", "DMA32", "28672", "316", "395", "474", "0", "0", "0"]


def test_sysctls_are_written_first(capsys):
    words = ["--mem", "1G", "--policy", "6.1", "--min-free-kbytes", "4096", "--scale", "500", "--lowmem-reserve-ratio", "16,16,4"]
    _, out, _ = ask(capsys, *words, "--json")
    data = json.loads(out)
    dma32 = data["zones"][1]
    assert (data["min_free_kbytes"], data["scale"], data["lowmem_reserve_ratio"]) == (4096, 500, [16, 16, 4])
    assert dma32["low"] - dma32["min"] == dma32["managed"] * 500 // 10000
    assert data["zones"][0]["protection"][1] == dma32["managed"] // 16


def test_a_32_bit_machine_has_highmem(capsys):
    _, out, _ = ask(capsys, "--mem", "2G", "--arch", "i386", "--json")
    assert [zone["zone"] for zone in json.loads(out)["zones"]] == ["DMA", "Normal", "HighMem"]


def test_several_nodes_have_zones_of_their_own(capsys):
    _, out, _ = ask(capsys, "--mem", "1G", "--nodes", "2", "--json")
    assert {zone["node"] for zone in json.loads(out)["zones"]} == {0, 1}


@pytest.mark.parametrize("path", [SWEEP, TRUTH / "slab-6.18.json"], ids=lambda path: path.stem)
def test_a_table_that_agrees_is_status_0(capsys, path):
    status, out, _ = ask(capsys, "--against", str(path))
    assert status == 0
    assert out.endswith("all are equal\n")


@pytest.mark.parametrize(
    ("point", "field", "said"),
    [(0, "low", "zone DMA: min low high is 0 9 0"), (-1, "protection", "zone DMA: protection is 9")],
)
def test_a_table_that_differs_is_status_1_and_names_the_zone(capsys, tmp_path, point, field, said):
    data = json.loads(SWEEP.read_text(encoding="utf-8"))
    data[point]["zones"][0][field] = 9 if field == "low" else [9]
    path = tmp_path / "table.json"
    path.write_text(json.dumps(data))
    status, out, _ = ask(capsys, "--against", str(path))
    assert status == 1
    assert said in out
    status, out, _ = ask(capsys, "--against", str(path), "--json")
    assert status == 1
    assert len(json.loads(out)["differences"]) == 1


def test_2_6_23_does_not_explain_a_6_1_kernel(capsys):
    status, _, _ = ask(capsys, "--against", str(SWEEP), "--policy", "2.6.23")
    assert status == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--mem", "lots"], "--mem 'lots' is no size"),
        (["--mem", "1"], "out of range"),
        (["--policy", "9"], "choose 2.6.23, 6.1, 6.18"),
        (["--arch", "vax"], "arch 'vax' is unknown"),
        (["--nodes", "0"], "--nodes '0'"),
        (["--nodes", "65"], "--nodes '65'"),
        (["--mem", "1M", "--nodes", "2"], "nodes 2 cannot be used"),
        (["--min-free-kbytes", "-1"], "--min-free-kbytes '-1'"),
        (["--scale", "10"], "2.6.23 has no vm.watermark_scale_factor"),
        (["--scale", "0", "--policy", "6.1"], "refuses this value"),
        (["--lowmem-reserve-ratio", "1,a"], "--lowmem-reserve-ratio 'a'"),
        (["--against", "/nowhere"], "No such file"),
        (["--against", "x", "--mem", "1G"], "cannot be mixed"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(capsys, words, why):
    status, out, err = ask(capsys, *words)
    assert (status, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


def test_this_machine_can_be_read_or_the_reason_is_said(capsys):
    status, out, err = ask(capsys, "--this-machine")
    if status == 2:
        pytest.skip(f"the running kernel cannot be read: {err.strip()}")
    assert out.splitlines()[-1].startswith("this machine: policy")


def test_marks_of_boot_are_told_from_those_of_a_sweep(capsys):
    """6.1 computes marks before initial memory is freed, and its table shows the pages managed after that."""
    assert main(["watermarks", "--against", str(TRUTH / "slab-m128-c2.json")]) == 1
    assert "at boot" in capsys.readouterr().out
