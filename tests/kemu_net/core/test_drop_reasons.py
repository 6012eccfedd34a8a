"""Every reason to lose a packet is in the table, and nothing else is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import kemu_net
from kemu_net.core.drop_reasons import IGNORED_IN, REASONS
from kemu_net.core.stats import DROP_GATES

ROOT = Path(kemu_net.__file__).parent

#: Calls that take a reason, names that hold one, and functions that give one.
CALLS = {"kfree_skb", "ignore", "_ignore", "_refuse", "_lose", "_drop"}
NAMES = {"reason"}
GIVERS = {"_no_room_for_request", "ndisc_rcv", "_recv_ns", "_recv_na"}


def words(node: ast.AST | None) -> Iterator[str]:
    """Give the strings that an expression may come to."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from words(node.body)
        yield from words(node.orelse)


def used(tree: ast.Module) -> Iterator[str]:
    """Give the reasons that a module names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in CALLS:
            for argument in node.args:
                yield from words(argument)
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in NAMES:
            yield from words(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name in GIVERS:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    yield from words(inner.value)


@cache
def reasons_of_the_code() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        where = path.relative_to(ROOT).with_suffix("").as_posix()
        if where == "drivers/wire" or where.startswith("testing/"):  # what a cable loses was never here
            continue
        for word in used(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(word, set()).add(where)
    return found


def test_every_reason_is_explained():
    assert {word: where for word, where in reasons_of_the_code().items() if word not in REASONS} == {}


def test_every_entry_is_a_reason_of_the_code():
    assert sorted(set(REASONS) - set(reasons_of_the_code())) == []


def test_the_table_says_where_each_reason_comes_from():
    code = reasons_of_the_code()
    assert {word: sorted(where) for word, where in code.items() if where != set(REASONS[word].where.split(", "))} == {}


def test_every_gate_has_an_entry():
    assert set(DROP_GATES) <= set(REASONS)


def test_sides_are_those_that_are_explained():
    assert {reason.side for reason in REASONS.values()} == {"wire", "in", "out", "both"}
    assert set(IGNORED_IN) == {word for word, reason in REASONS.items() if reason.side in ("in", "both")}
