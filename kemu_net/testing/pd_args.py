"""Arguments of system calls: from what a script writes to what a call takes.

Interface: ``number(expr)``, ``address(expr, default)``, ``option_value(expr, size)``, ``iovec_sizes(expr)``; raise
:exc:`ArgError` for what cannot be one, :exc:`ArgUnsupported` for what is not built.
"""

from __future__ import annotations

from kemu_net.core.uapi import AF_INET, Linger, SockaddrIn, Timeval
from kemu_net.testing.pd_ast import Dots, Expr, Func, Items, Number, Or, Struct, Text, Word
from kemu_net.testing.pd_config import read_address
from kemu_net.testing.pd_constants import CONSTANTS, NOT_BUILT, YOUNGER

MAX_BYTES = 16 << 20


class ArgError(Exception):
    """An argument that makes no sense."""


class ArgUnsupported(Exception):
    """An argument that is not supported, named."""


def number(expr: Expr) -> int:
    """Give the number that an expression stands for."""
    if isinstance(expr, Number):
        return expr.value
    if isinstance(expr, Or):
        return number(expr.left) | number(expr.right)
    if isinstance(expr, Word):
        if expr.name in CONSTANTS:
            return CONSTANTS[expr.name]
        if expr.name == "NULL":
            raise ArgUnsupported("a bad pointer (NULL) is not supported: programs here have no pointers")
        if expr.name in YOUNGER:
            raise ArgUnsupported(f"{expr.name} is not supported: it is younger than this kernel, 2.6.23")
        if expr.name in NOT_BUILT:
            raise ArgUnsupported(f"{expr.name} is not supported: it is not built")
        raise ArgUnsupported(f"the constant {expr.name} is not known")
    if isinstance(expr, Func) and expr.name in ("htons", "htonl", "ntohs", "ntohl") and len(expr.args) == 1:
        return number(expr.args[0])
    if isinstance(expr, Func) and expr.name == "inet_addr" and len(expr.args) == 1 and isinstance(expr.args[0], Text):
        try:
            return read_address(expr.args[0].value)
        except ValueError as error:
            raise ArgError(f"{expr.args[0].value!r} cannot be used; {error}") from None
    if isinstance(expr, Func):
        raise ArgUnsupported(f"{expr.name}() is not supported")
    raise ArgError("a number expected")


def only(expr: Expr) -> Expr:
    """Take a value out of ``[ ]``."""
    if isinstance(expr, Items):
        if len(expr.items) != 1:
            raise ArgError("[ ] with one value expected")
        return expr.items[0]
    return expr


def size_of(expr: Expr) -> int:
    """Give a count of bytes."""
    size = number(expr)
    if not 0 <= size <= MAX_BYTES:
        raise ArgUnsupported(f"a buffer of {size} bytes is not supported; it goes to {MAX_BYTES}")
    return size


def address(expr: Expr, default: SockaddrIn | None) -> SockaddrIn | None:
    """Give an address; ``...`` is the usual one."""
    if isinstance(expr, Dots):
        return default
    if isinstance(expr, Word) and expr.name == "NULL":
        return None
    if not isinstance(expr, Struct):
        raise ArgError("an address expected")
    family = number(expr.get("sa_family") or Number(AF_INET))
    port = number(expr.get("sin_port") or Number(0))
    host = expr.get("sin_addr")
    return SockaddrIn(0 if host is None else number(host), port & 0xFFFF, family)


def option_value(expr: Expr, size: int | None) -> int | bytes | Linger | Timeval:
    """Give the value of a socket option; ``size`` is what the script says it has."""
    expr = only(expr)
    if isinstance(expr, Text):
        return expr.value.encode()
    if isinstance(expr, Struct):
        names = [name for name, _value in expr.fields]
        if names == ["onoff", "linger"]:
            return Linger(number(expr.fields[0][1]), number(expr.fields[1][1]))
        if names in (["tv_sec", "tv_usec"], [None, None]):
            return Timeval(number(expr.fields[0][1]), number(expr.fields[1][1]))
        raise ArgUnsupported("this value of a socket option is not supported")
    value = number(expr)
    if size is not None and 0 <= size < 4:
        return (value & 0xFFFFFFFF).to_bytes(4, "little")[:size]
    return value


def iovec(expr: Expr) -> list[Expr]:
    """Give the buffers of ``[{..., 10}, {..., 20}]`` as the expressions of their sizes."""
    if not isinstance(expr, Items):
        raise ArgError("a list of buffers expected: [{..., 10}]")
    sizes = []
    for item in expr.items:
        if not isinstance(item, Struct) or len(item.fields) != 2:
            raise ArgError("a buffer is written {..., 10}")
        base, size = (value for _name, value in item.fields)
        if isinstance(base, Word):
            number(base)
        sizes.append(size)
    return sizes


def iovec_sizes(expr: Expr) -> list[int]:
    """Give the sizes of the buffers."""
    return [size_of(size) for size in iovec(expr)]
