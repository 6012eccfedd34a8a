"""What the README shows is what happens."""

import contextlib
import io
import re
from pathlib import Path

from kemu_lab.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_python_example_prints_what_stands_below_it():
    code, printed = re.search(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", README, re.DOTALL).groups()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})

    assert out.getvalue() == re.sub("^    ", "", printed, flags=re.MULTILINE)


def test_quick_commands_print_what_stands_below_them(capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    commands = re.findall(r"^    \$ kemu (geometry .*)\n((?:    (?!\$).*\n)+)", README, re.MULTILINE)
    assert len(commands) == 2
    for words, printed in commands:
        assert main(words.split()) == 0
        assert capsys.readouterr().out == re.sub("^    ", "", printed, flags=re.MULTILINE)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parents[2] / target).exists(), target


def test_the_two_command_lines_stand_alone_in_their_lines():
    run = "    python3 -m venv .venv && .venv/bin/python -m pip install -q . && .venv/bin/kemu run\n"
    test = "    python3 -m venv .venv && .venv/bin/python -m pip install -q -e '.[test]' && .venv/bin/python -m pytest -q\n"

    assert run in README
    assert test in README
