"""The project's own lint finds what it promises to find."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "tools/lint.py"
spec = importlib.util.spec_from_file_location("kemu_project_lint", PATH)
lint = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lint)

METHOD = "class Slub:\n    def slow(self):\n"


def findings(tmp_path, monkeypatch, body, check):
    monkeypatch.setattr(lint, "ROOT", tmp_path)
    path = tmp_path / "sample.py"
    path.write_text(body)
    return [text for _, _, text in check(lint.Source(path))]


@pytest.mark.parametrize(
    "body",
    [
        "        if self.patched.slub_reserve:  # [p03]\n            pass\n",
        "        if not self.patched.slub_reserve:  # [p03]\n            pass\n        else:\n            pass\n",
        "        if self.patched.slub_reserve and self.x:  # [p03]\n            pass\n",
        "        y = 1 if self.patched.slub_reserve else 2  # [p03]\n",
        "        if self.patched.slub_reserve:  # [p03]\n            y = 1 if self.fixed.b03a else 2  # [b03a]\n",
    ],
)
def test_allowed_shapes_pass(tmp_path, monkeypatch, body):
    assert findings(tmp_path, monkeypatch, METHOD + body, lint.check_guards) == []


@pytest.mark.parametrize(
    "body",
    [
        "        if self.patched.slub_reserve:\n            pass\n",
        "        if self.patched.slub_reserve:  # [p04]\n            pass\n",
        "        if self.patched.no_such_patch:  # [p03]\n            pass\n",
        "        if self.x and self.patched.slub_reserve:  # [p03]\n            pass\n",
        "        if self.patched.slub_reserve or self.x:  # [p03]\n            pass\n",
        "        if self.patched.slub_reserve and self.x:  # [p03]\n            pass\n        else:\n            pass\n",
        "        if self.x:\n            pass\n        elif self.patched.slub_reserve:  # [p03]\n            pass\n",
        "        if self.patched.slub_reserve:  # [p03]\n            pass\n        elif self.x:\n            pass\n",
        "        y = self.patched.slub_reserve and self.x  # [p03]\n",
        "        while self.patched.slub_reserve:  # [p03]\n            pass\n",
        "        y = [i for i in self.x if self.patched.slub_reserve]  # [p03]\n",
        "        p = self\n        if p.patched.slub_reserve:  # [p03]\n            pass\n",
        "        if self.fixed.b03a:  # [b03a]\n            pass\n",
    ],
)
def test_other_shapes_are_found(tmp_path, monkeypatch, body):
    assert findings(tmp_path, monkeypatch, METHOD + body, lint.check_guards)


@pytest.mark.parametrize("head", ["class Page:\n    def f(self):\n", "if True:\n    def f(self):\n"], ids=["struct", "function"])
def test_a_guard_in_a_plain_struct_or_a_free_function_is_found(tmp_path, monkeypatch, head):
    body = head + "        if self.patched.slub_reserve:  # [p03]\n            pass\n"

    assert findings(tmp_path, monkeypatch, body, lint.check_guards)


def test_names_sets_excepts_and_chance(tmp_path, monkeypatch):
    assert findings(tmp_path, monkeypatch, "__gfp_wait = 1\n", lint.check_names)
    assert not findings(tmp_path, monkeypatch, "__all__ = ()\n", lint.check_names)
    assert findings(tmp_path, monkeypatch, "for x in {1, 2}:\n    pass\n", lint.check_sets)
    assert findings(tmp_path, monkeypatch, "a: set[int] = set()\nfor x in a:\n    pass\n", lint.check_sets)
    assert findings(tmp_path, monkeypatch, "try:\n    pass\nexcept Exception:\n    pass\n", lint.check_excepts)
    assert not findings(tmp_path, monkeypatch, "try:\n    pass\nexcept Exception:  # the reason\n    pass\n", lint.check_excepts)
    assert findings(tmp_path, monkeypatch, "import random\nrandom.random()\n", lint.check_chance)


def test_this_house_is_clean():
    assert lint.main() == 0
