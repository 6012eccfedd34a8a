"""Evaluate the Python of ``%{ }%`` without running Python: a small evaluator over a white list of syntax.

Interface: ``Evaluator(lookup)``, ``run(code)``; raises :exc:`CodeFalse` when an assertion is false, :exc:`CodeUnsupported` for what
is not evaluated, :exc:`CodeBroken` for what is no Python.

Rules of this file
    * Known: assert, assignment to names, if, pass, print(); numbers, strings, tuples, lists; arithmetic, comparison, and, or, not,
      conditional expressions, subscripts; abs(), bool(), int(), len(), max(), min(), str().
    * ``lookup(name)`` gives the value of a name, or raises KeyError. Attributes are those of a :class:`Space` only.
    * Variables live as long as the evaluator, as in packetdrill, where all code of a script is one program.
    * Numbers have at most 256 bits, so that no script can keep the machine busy.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any, Final

MAX_BITS: Final = 256
MAX_CODE: Final = 20_000


class CodeFalse(Exception):  # an assertion of the script, not an error of this program
    """An assertion is false; the text says which, and what its names were."""


class CodeUnsupported(Exception):
    """Syntax or a name that is not known here."""


class CodeBroken(Exception):
    """No Python, or an operation that Python refuses."""


class Space:
    """Names behind a dot: ``reserve.usage``. The values are asked for when they are read."""

    def __init__(self, **names: Callable[[], Any]) -> None:
        self.names = names


_BINARY: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
_UNARY: Final[dict[type[ast.unaryop], Callable[[Any], Any]]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
_CALLS: Final[dict[str, Callable[..., Any]]] = {
    "abs": abs,
    "bool": bool,
    "int": int,
    "len": len,
    "max": max,
    "min": min,
    "str": str,
}


class Evaluator:
    """Runs the code of one script.

    :param lookup: gives the value of a name that the script did not assign.
    :ivar printed: what print() wrote.
    """

    def __init__(self, lookup: Callable[[str], Any]) -> None:
        self.lookup = lookup
        self.variables: dict[str, Any] = {}
        self.printed: list[str] = []

    def run(self, code: str) -> None:
        """Run one block."""
        if len(code) > MAX_CODE:
            raise CodeUnsupported("the code is too long")
        try:
            tree = ast.parse(code.strip())
            for statement in tree.body:
                self._statement(statement)
        except (SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError, MemoryError) as error:
            raise CodeBroken(f"the code cannot be evaluated: {type(error).__name__}: {error}") from None

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assert):
            if not self._value(node.test):
                raise CodeFalse(self._explain(node))
        elif isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
            value = self._value(node.value)
            for target in node.targets:
                assert isinstance(target, ast.Name)
                self.variables[target.id] = value
        elif isinstance(node, ast.If):
            for statement in node.body if self._value(node.test) else node.orelse:
                self._statement(statement)
        elif isinstance(node, ast.Expr):
            self._value(node.value)
        elif not isinstance(node, ast.Pass):
            raise CodeUnsupported(f"Python's {type(node).__name__.lower()} statement is not evaluated")

    def _explain(self, node: ast.Assert) -> str:
        """Say which assertion is false, and what its names are."""
        names: dict[str, Any] = {}
        for part in ast.walk(node.test):
            if isinstance(part, ast.Attribute) or (isinstance(part, ast.Name) and part.id not in _CALLS):
                text = ast.unparse(part)
                value = self._value(part)
                if not isinstance(value, Space) and not text.isupper() and not text.startswith("TCP_"):
                    names[text] = value
        found = ", ".join(f"{name} is {value!r}" for name, value in names.items())
        message = "" if node.msg is None else f" ({self._value(node.msg)})"
        return f"assert {ast.unparse(node.test)}: {found or 'it is false'}{message}"

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.BinOp):
            return self._binary(node)
        if isinstance(node, ast.UnaryOp):
            return _UNARY[type(node.op)](self._value(node.operand))
        if isinstance(node, ast.Compare):
            return self._compare(node)
        if isinstance(node, ast.BoolOp):
            return self._boolean(node)
        if isinstance(node, ast.IfExp):
            return self._value(node.body if self._value(node.test) else node.orelse)
        if isinstance(node, ast.Tuple | ast.List):
            return [self._value(element) for element in node.elts]
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice):
            return self._value(node.value)[self._value(node.slice)]
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.JoinedStr):
            return "".join(str(self._value(part)) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return str(self._value(node.value))
        raise CodeUnsupported(f"Python's {type(node).__name__} is not evaluated")

    def _name(self, name: str) -> Any:
        if name in self.variables:
            return self.variables[name]
        try:
            return self.lookup(name)
        except KeyError:
            raise CodeUnsupported(f"the name {name!r} is not known") from None

    def _attribute(self, node: ast.Attribute) -> Any:
        space = self._value(node.value)
        if isinstance(space, Space) and node.attr in space.names:
            return space.names[node.attr]()
        raise CodeUnsupported(f"{ast.unparse(node)} is not known")

    def _binary(self, node: ast.BinOp) -> Any:
        left, right = self._value(node.left), self._value(node.right)
        kind = type(node.op)
        if kind not in _BINARY:
            raise CodeUnsupported(f"Python's {kind.__name__} is not evaluated")
        if kind in (ast.Mult, ast.LShift, ast.Mod):
            for value in (left, right):
                if not isinstance(value, int | float) and not (kind is ast.Mod and value is not right):
                    raise CodeUnsupported("only numbers are multiplied and shifted")
            if kind is ast.LShift and not 0 <= right <= MAX_BITS:
                raise CodeUnsupported(f"a shift by {right} is not evaluated")
        value = _BINARY[kind](left, right)
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise CodeUnsupported(f"numbers have at most {MAX_BITS} bits")
        return value

    def _compare(self, node: ast.Compare) -> bool:
        left = self._value(node.left)
        for kind, part in zip(node.ops, node.comparators, strict=True):
            right = self._value(part)
            if not _COMPARE[type(kind)](left, right):
                return False
            left = right
        return True

    def _boolean(self, node: ast.BoolOp) -> Any:
        stop = isinstance(node.op, ast.Or)
        value: Any = None
        for part in node.values:
            value = self._value(part)
            if bool(value) is stop:
                return value
        return value

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if node.keywords or (name not in _CALLS and name != "print"):
            raise CodeUnsupported(f"{ast.unparse(node.func)}() is not evaluated")
        args = [self._value(argument) for argument in node.args]
        if name == "print":
            self.printed.append(" ".join(map(str, args)))
            return None
        if name in ("int", "str") and (len(args) > 1 or (args and len(str(args[0])) > 100)):
            raise CodeUnsupported(f"{name}() of this is not evaluated")
        return _CALLS[name](*args)
