"""The lists of switches and scenarios."""

import json

import pytest

from kemu.errors import ConfigError
from kemu.fixes import FIXES
from kemu.patches import PATCHES
from kemu_lab.listing import list_command


def test_each_patch_has_a_line_and_unbuilt_ones_a_mark(capsys):
    list_command("patches", as_json=False)
    lines = capsys.readouterr().out.splitlines()

    for patch, line in zip(PATCHES, lines, strict=False):
        assert line.split()[:2] == [str(patch.number), patch.name]
        assert line.endswith("(-)") != patch.built


def test_the_cards_can_be_read_by_programs(capsys):
    list_command("fixes", as_json=True)
    rows = json.loads(capsys.readouterr().out)

    assert [row["id"] for row in rows] == [fix.id for fix in FIXES]
    assert all(row["mended_in"] for row in rows)


def test_an_unknown_list_is_refused():
    with pytest.raises(ConfigError, match="there are patches, fixes and scenarios"):
        list_command("nosuch", as_json=False)
