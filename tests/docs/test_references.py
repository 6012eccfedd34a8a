"""Every function that the docs name exists."""

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
REFERENCES = sorted(
    {
        match
        for path in DOCS.glob("*.md")
        for match in re.findall(r"`(kemu[a-z0-9_.]*):([A-Za-z0-9_.]+)`", path.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize(("module", "name"), REFERENCES)
def test_a_named_function_exists(module, name):
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)

    assert callable(found)


def test_the_docs_name_functions():
    assert len(REFERENCES) > 20
