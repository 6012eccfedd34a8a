"""The project's own lint: what ruff cannot know about this house.

Run ``python tools/lint.py``; it prints one line per finding and exits with 1 if there is any.

    names     no identifier begins with two underscores (Python mangles it inside classes); dunder methods aside
    guards    every load of .patched or .fixed has one of the allowed shapes and carries its mark: # [p03], # [b03a]
    cards     a card's `touches` and the guards in the code agree both ways; every built card has its test module
    sets      no iteration over a set in the core: its order differs between processes
    excepts   no bare or broad except without a reason in a comment on its line
    chance    no random.*() but random.Random(seed) in the core

Allowed shapes of a guard: ``if self.patched.x:`` and ``if not self.patched.x:``, each with an optional else (no elif);
``if self.patched.x and COND:`` without else; a bare one-line ``a if self.patched.x else b``. Only in methods, never in Page,
SkBuff or NfsPage; a constructor may also test ``kernel.patched.x``. ``self.fixed.x`` stands inside a guard of its patch, or in a
module that the patch added. A line that ends in ``# [p08] added`` declares what comes with the patch.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from kemu.fixes import FIXES
from kemu.patches import BY_NAME, PATCHES

ROOT = Path(__file__).resolve().parent.parent
CORE = ("kemu", "kemu_net", "kemu_nfs")
PACKAGES = (*CORE, "kemu_lab")
PLAIN_STRUCTS = ("Page", "SkBuff", "NfsPage")
CONSTRUCTORS = ("__init__", "__attrs_post_init__")
MARK = re.compile(r"# .*\[(p\d\d|b\d\d[a-e]?)\]")
FIX_BY_ID = {fix.id: fix for fix in FIXES}
NUMBER_TO_NAME = {patch.number: patch.name for patch in PATCHES}

Finding = tuple[Path, int, str]


class Source:
    """One parsed file: its tree, its lines, and who is whose parent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        self.lines = text.split("\n")
        self.tree = ast.parse(text)
        self.parent = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def up(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around ``node``, nearest first."""
        while node in self.parent:
            node = self.parent[node]
            yield node

    def qualified(self, node: ast.AST) -> str:
        """Return the dotted name of the method or class around ``node``."""
        names = [n.name for n in self.up(node) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        return ".".join([self.module, *reversed(names)])


def guard_name(node: ast.AST) -> tuple[str, str] | None:
    """Return (``patched`` or ``fixed``, the name) if ``node`` is such a load."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr in ("patched", "fixed"):
        return node.value.attr, node.attr
    return None


def check_names(source: Source) -> Iterator[Finding]:
    """Find identifiers that Python would mangle."""
    for node in ast.walk(source.tree):
        name = getattr(node, "name", None) or getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "arg", None)
        if isinstance(name, str) and name.startswith("__") and not name.endswith("__"):
            yield source.path, getattr(node, "lineno", 1), f"{name}: write the kernel's __x as _x"


def check_guards(source: Source) -> Iterator[Finding]:
    """Find loads of .patched and .fixed that a program could not render."""
    for node in ast.walk(source.tree):
        found = guard_name(node)
        if found is None:
            continue
        assert isinstance(node, ast.Attribute)
        kind, name = found
        problem = known(kind, name) or place(source, node) or shape(source, node) or mark(source, node, kind, name)
        if problem is None and kind == "fixed":
            problem = inside(source, node, name)
        if problem is not None:
            yield source.path, node.lineno, f"{kind}.{name}: {problem}"


def known(kind: str, name: str) -> str | None:
    """Tell whether there is a card of that name."""
    return None if name in (BY_NAME if kind == "patched" else FIX_BY_ID) else "there is no such card"


def place(source: Source, node: ast.AST) -> str | None:
    """Hold a guard's surroundings against the rule: a method of a subsystem."""
    around = list(source.up(node))
    methods = [n for n in around if isinstance(n, ast.FunctionDef)]
    classes = [n for n in around if isinstance(n, ast.ClassDef)]
    if not methods or not classes:
        return "a guard stands in a method of a subsystem, not in a free function"
    if classes[0].name in PLAIN_STRUCTS:
        return f"{classes[0].name} carries no guards"
    if any(isinstance(n, ast.comprehension | ast.Lambda) for n in around):
        return "not inside a comprehension or lambda"
    assert isinstance(node, ast.Attribute)
    assert isinstance(node.value, ast.Attribute)
    owner = node.value.value
    if not (isinstance(owner, ast.Name) and owner.id == "self") and methods[-1].name not in CONSTRUCTORS:
        return "write self.patched.x"
    return None


def shape(source: Source, node: ast.AST) -> str | None:
    """Hold one guard against the allowed shapes."""
    above = source.parent[node]
    negated = isinstance(above, ast.UnaryOp) and isinstance(above.op, ast.Not)
    test: ast.AST = above if negated else node
    around = source.parent[test]
    joined = isinstance(around, ast.BoolOp)
    if joined:
        assert isinstance(around, ast.BoolOp)
        if not isinstance(around.op, ast.And) or around.values[0] is not test or negated:
            return "in a longer condition the guard comes first and is joined by `and`"
        test, around = around, source.parent[around]
    if isinstance(around, ast.IfExp) and around.test is test:
        return (
            "a conditional expression tests one bare guard on one line"
            if joined or negated or around.lineno != around.end_lineno
            else None
        )
    if not isinstance(around, ast.If) or around.test is not test:
        return "test it in an `if` or a one-line conditional expression"
    if source.lines[around.lineno - 1].lstrip().startswith("elif"):
        return "no elif"
    if around.orelse and joined:
        return "`if self.patched.x and COND:` has no else; nest the condition"
    if around.orelse and source.lines[around.orelse[0].lineno - 1].lstrip().startswith("elif"):
        return "no elif behind a guard"
    return None


def mark(source: Source, node: ast.Attribute, kind: str, name: str) -> str | None:
    """Look for the mark on the guard's line."""
    wanted = f"[p{BY_NAME[name].number:02d}]" if kind == "patched" else f"[{name}]"
    line = source.lines[node.lineno - 1]
    return None if wanted in line.partition("#")[2] else f"the line wants the mark # {wanted}"


def inside(source: Source, node: ast.AST, name: str) -> str | None:
    """Look for the guard of its patch around a fix, or for a module that its patch added."""
    patch = NUMBER_TO_NAME[FIX_BY_ID[name].patch]
    for above in source.up(node):
        if isinstance(above, ast.If | ast.IfExp) and any(guard_name(n) == ("patched", patch) for n in ast.walk(above.test)):
            return None
    if source.module in BY_NAME[patch].touches or source.qualified(node) in BY_NAME[patch].touches:
        return None
    return f"stands outside every guard of patch {FIX_BY_ID[name].patch} ({patch}) and of what that patch adds"


def check_sets(source: Source) -> Iterator[Finding]:
    """Find loops over sets."""
    sets = {
        t
        for node in ast.walk(source.tree)
        if isinstance(node, ast.AnnAssign) and is_set(node.annotation)
        for t in [ast.unparse(node.target)]
    }
    for node in ast.walk(source.tree):
        over = node.iter if isinstance(node, ast.For | ast.comprehension) else None
        if over is None:
            continue
        made = isinstance(over, ast.Set | ast.SetComp) or (
            isinstance(over, ast.Call) and ast.unparse(over.func) in ("set", "frozenset")
        )
        if made or ast.unparse(over) in sets:
            yield source.path, over.lineno, f"{ast.unparse(over)}: a set has no order; use a dict or sort it"


def is_set(annotation: ast.expr) -> bool:
    """Tell whether an annotation names a set."""
    return ast.unparse(annotation).split("[")[0] in ("set", "frozenset")


def check_excepts(source: Source) -> Iterator[Finding]:
    """Find handlers that catch everything and do not say why."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            if broad and "#" not in source.lines[node.lineno - 1]:
                yield source.path, node.lineno, "a broad except says why in a comment on its line"


def check_chance(source: Source) -> Iterator[Finding]:
    """Find uses of the global random generator."""
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "random"
            and node.attr != "Random"
        ):
            yield source.path, node.lineno, f"random.{node.attr}: a machine gets its own random.Random"


def check_cards(sources: list[Source]) -> Iterator[Finding]:
    """Hold every card's `touches` against the guards in the code, and look for its test module."""
    guards: dict[str, set[str]] = {}
    places = {source.module for source in sources}
    for source in sources:
        places |= {
            source.qualified(n) + "." + n.name for n in ast.walk(source.tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)
        }
        for node in ast.walk(source.tree):
            found = guard_name(node)
            if found is not None:
                guards.setdefault(found[1], set()).add(source.qualified(node))
    for card in (*PATCHES, *FIXES):
        name = getattr(card, "name", None) or getattr(card, "id", "")
        home = next((ROOT / "kemu").glob(f"*/{f'p{card.number:02d}_' if hasattr(card, 'number') else name + '_'}*.py"))
        for where in sorted(guards.get(name, set()) - set(card.touches)):
            yield home, 1, f"{where} has a guard of {name}, but `touches` does not name it"
        for where in card.touches:
            if where not in places:
                yield home, 1, f"touches {where}: there is no such place"
        if hasattr(card, "number") and card.built and not (ROOT / f"tests/patches/test_p{card.number:02d}_{name}.py").exists():
            yield home, 1, f"there is no tests/patches/test_p{card.number:02d}_{name}.py"
        if hasattr(card, "number") and card.built and not card.touches:
            yield home, 1, "a built card names what it touches"


def main() -> int:
    """Print every finding; return 1 if there is any."""
    sources = [Source(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    findings: list[Finding] = []
    for source in sources:
        findings += [*check_names(source), *check_guards(source), *check_excepts(source)]
        if source.module.split(".")[0] in CORE:
            findings += [*check_sets(source), *check_chance(source)]
    findings += check_cards(sources)
    for path, line, text in findings:
        print(f"{path.relative_to(ROOT)}:{line}: {text}")
    print(f"{len(sources)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
