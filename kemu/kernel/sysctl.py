"""sysctl: integers that a person reads and writes as text (2.6.23 kernel/sysctl.c).

Interface: ``kernel.sysctl.register(name, get, set)``; ``read(name)``, ``write(name, text)``.

A variable is a vector of one or more integers. ``set`` may refuse a value by returning a negative errno; that is how a conv
callback refuses. A handler runs after the integers were written (min_free_kbytes recomputes the marks there).

Left out: sysctl(2), the binary call, which v14 forgets too (defect B18a); strings; the tree of directories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kemu.kernel.errno import EINVAL, ENOENT, EPERM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kemu.kernel.core import Kernel

_SPACE = " \t\n\r\v\f"


@attrs.define(eq=False)
class CtlTable:
    """``ctl_table``: one variable.

    :ivar get: gives the integer, or all of the vector.
    :ivar set: takes ``(value, index)``; None or 0 means taken, anything else is the refusal. None: read only.
    :ivar conv: ``conv(neg, value, table, index, write)``, the conv callback of __do_proc_dointvec(). On write: 0, or why the value
        is refused. On read its result is only looked at for being an error.
    :ivar handler: runs after a write that stored something.
    """

    name: str
    get: Callable[[], int | Sequence[int]]
    set: Callable[[int, int], int | None] | None = None
    count: int = 1
    conv: Callable[[bool, int, CtlTable, int, bool], int] | None = None
    handler: Callable[[], object] | None = None

    def values(self) -> list[int]:
        """Give the vector."""
        value = self.get()
        return [value] if isinstance(value, int) else list(value)


def do_proc_dointvec_conv(neg: bool, value: int, table: CtlTable, index: int, write: bool) -> int:
    """Store the value as it is (kernel/sysctl.c)."""
    if not write:
        return 0
    assert table.set is not None
    return table.set(-value if neg else value, index) or 0


def minmax_conv(minimum: int | None, maximum: int | None) -> Callable[[bool, int, CtlTable, int, bool], int]:
    """Make a conv that refuses what is out of range with -EINVAL (kernel/sysctl.c: do_proc_dointvec_minmax_conv())."""

    def conv(neg: bool, value: int, table: CtlTable, index: int, write: bool) -> int:
        signed = -value if neg else value
        if write and ((minimum is not None and signed < minimum) or (maximum is not None and signed > maximum)):
            return -EINVAL
        return do_proc_dointvec_conv(neg, value, table, index, write)

    return conv


def simple_strtoul(text: str, at: int) -> tuple[int, int]:
    """Parse digits from ``at``, base 0 (0x hexadecimal, 0 octal): the value, and where it ends (lib/vsprintf.c)."""
    base = 10
    if text[at] == "0":
        base = 8
        if text[at + 1 : at + 2] in ("x", "X") and text[at + 2 : at + 3].isalnum() and _digit(text[at + 2]) < 16:
            base = 16
            at += 2
    value = 0
    while at < len(text) and _digit(text[at]) < base:
        value = value * base + _digit(text[at])
        at += 1
    return value, at


def _digit(char: str) -> int:
    if "0" <= char <= "9":
        return ord(char) - 48
    lower = char.lower()
    return ord(lower) - 87 if "a" <= lower <= "f" else 99


class Sysctl:
    """The table of a machine's variables."""

    def __init__(self, kernel: Kernel) -> None:
        self.patched = kernel.patched
        self.fixed = kernel.fixed
        self._tables: dict[str, CtlTable] = {}

    def register(
        self,
        name: str,
        get: Callable[[], int | Sequence[int]],
        set: Callable[..., int | None] | None = None,  # the pair reads as get and set
        *,
        conv: Callable[[bool, int, CtlTable, int, bool], int] | None = None,
        handler: Callable[[], object] | None = None,
        count: int = 1,
    ) -> CtlTable:
        """Add a variable. ``set(value)`` for a single integer, ``set(value, index)`` for a vector; None makes it read only."""
        setter = set
        if setter is not None and count == 1:
            single = setter

            def setter(value: int, _index: int) -> int | None:
                return single(value)

        table = CtlTable(name, get, setter, count, conv, handler)
        self._tables[name] = table
        return table

    def names(self) -> list[str]:
        """Give all names in order."""
        return sorted(self._tables)

    def read(self, name: str) -> str:
        """Give the variable as /proc/sys shows it: numbers with tabs between, and a newline."""
        return self._do_proc_dointvec(self._tables[name], False, "")[1]

    def write(self, name: str, text: str) -> int:
        """Write text to a variable: 0 or a negative errno, as the system call would report it.

        With patch 17 a conv that returns a positive number makes the result positive: the VFS takes it for a byte count.
        """
        table = self._tables.get(name)
        if table is None:
            return -ENOENT
        if table.set is None:
            return -EPERM
        result, _, stored = self._do_proc_dointvec(table, True, text)
        if stored and table.handler is not None:
            table.handler()
        return result

    def _do_proc_dointvec(self, table: CtlTable, write: bool, text: str) -> tuple[int, str, int]:
        """Parse or print a vector (kernel/sysctl.c: __do_proc_dointvec()): the result, what was read, how many values were stored.

        Patch 17: what conv returns reaches the caller. Before, it only ended the loop, and a write that had stored nothing was
        -EINVAL whatever the reason.
        """
        conv = table.conv or do_proc_dointvec_conv
        ret = 0
        at = 0
        done = 0
        printed: list[str] = []
        values = [] if write else table.values()
        for index in range(table.count):
            neg = False
            if write:
                at = _skip_space(text, at)
                if at == len(text):
                    break
                start = at
                if text[start] == "-" and len(text) - start > 1:
                    neg = True
                    start += 1
                if not "0" <= text[start] <= "9":
                    break
                value, end = simple_strtoul(text, start)
                if end < len(text) and text[end] not in _SPACE:
                    break
                at = end
            else:
                value = abs(values[index])
                neg = values[index] < 0
            error = conv(neg, value, table, index, write)
            if self.patched.sysctl_conv_errors:  # [p17]
                ret = error
            if error:
                break
            if not write:
                printed.append(f"{'-' if neg else ''}{value}")
            done += 1
        if self.patched.sysctl_conv_errors:  # [p17]
            if self.fixed.b17 and write and not done and not ret:  # [b17]
                ret = -EINVAL
        else:
            ret = -EINVAL if write and not done else 0
        return ret, "\t".join(printed) + "\n" if printed else "", done


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
