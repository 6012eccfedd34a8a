"""How commands print tables."""

from __future__ import annotations

from kemu_lab.show import print_json, print_table


def test_a_table_aligns_numbers_right_and_shows_what_is_missing(capsys):
    print_table(["name", "n"], [{"name": "a", "n": 1}, {"name": "bcd", "n": None}, {"name": "e", "n": [1, 2]}])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()][2:] == ["a        1", "bcd      -", "e      1 2"]


def test_json_is_one_object(capsys):
    print_json({"a": [1]})
    assert capsys.readouterr().out == '{\n "a": [\n  1\n ]\n}\n'


def test_no_column_is_cut_where_the_terminal_is_narrow(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    columns = [f"a_long_column_{number}" for number in range(8)]
    print_table(columns, [dict.fromkeys(columns, 1)])
    assert capsys.readouterr().out.split()[:8] == columns
