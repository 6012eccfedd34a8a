"""The command line: exit statuses and sentences."""

import json

import pytest

from kemu_lab.cli import main


@pytest.mark.parametrize(
    "words",
    [
        "run --mem x",
        "run --mem 1M",
        "run nosuch",
        "run --loss 2",
        "run --loss x",
        "run --patches 99",
        "run --patches 1-24,31",
        "run --fixes b99",
        "run --cpus 0",
        "run --cpus 99",
        "run --seed -1",
        "run --seed x",
        "run --latency 5",
        "run --fill /nonexistent/file",
        "run --pcap /nonexistent/file",
        "run --pcap /",
        "run --trace /nonexistent/file",
        "run --nosuch",
        "run a b",
        "nosuch",
        "list",
        "list nosuch",
    ],
)
def test_wrong_use_is_one_sentence_and_exit_status_2(words, capsys):
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kemu: ")
    assert err.count("\n") == 1


def test_a_malformed_trace_line_is_named(tmp_path, capsys):
    (tmp_path / "t").write_text(" L 1000,4\nbad\n")

    assert main(["run", "--trace", str(tmp_path / "t")]) == 2
    assert "line 2" in capsys.readouterr().err


@pytest.mark.parametrize(("what", "count"), [("patches", 33), ("fixes", 24), ("scenarios", 3)])
def test_lists(what, count, capsys):
    assert main(["list", what]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) >= count
    assert max(map(len, text.splitlines())) <= 80
    assert main(["list", what, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == count


@pytest.mark.parametrize("words", ["--help", "run --help", "list --help", "--version"])
def test_help(words, capsys):
    assert main(words.split()) == 0
    assert "kemu" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", "run", "list", "geometry", "watermarks", "tap"])
def test_help_shows_its_examples_one_a_line(command, capsys):
    main([*command.split(), "--help"])
    out = capsys.readouterr().out
    assert "\\b" not in out
    assert any(line.strip().startswith("kemu ") for line in out.splitlines())
